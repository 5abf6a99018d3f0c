"""The order of training: every optimizer step sees conflicts and retained pairs, in nearly their overall shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil

import numpy as np
import torch

from realigner.columns import Outcomes
from realigner.errors import RecipeError
from realigner.records import Outcome


class StratifiedSampler(torch.utils.data.Sampler[int]):
    """Yields positions so that each consecutive `batch_size` of them holds both conflicts and retained pairs.

    An epoch is every conflict once. It ends when the retained pairs are through as well, or when every batch is down
    to one conflict: the retained pairs left over get their turn in other epochs. Retained pairs are repeated to fill
    the last batch and to give every batch one. Classes are spread evenly within their group. The order is global:
    how it is cut into micro-batches, and over how many ranks, does not change which pairs meet in an optimizer step.

    Args:
        outcomes: the outcome of each position.
        batch_size: pairs in an optimizer step, over all ranks.
        seed: of the shuffle, which differs by epoch.
        lengths: tokens of each position; with them, the pairs of a step are dealt out so that its micro-batches are of
            about equal size. Which pairs meet in a step does not depend on it.
        micro_batch: pairs that go through the model together; divides `batch_size`.

    Raises:
        RecipeError: an optimizer step of one pair cannot hold a conflict and a retained pair.
    """

    def __init__(
        self,
        outcomes: Sequence[str],
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self._lengths, self._micro_batch = lengths, micro_batch or batch_size
        self._outcomes = outcomes if isinstance(outcomes, Outcomes) else Outcomes(outcomes)
        sizes = self._outcomes.counts()
        self._conflicts = {name: size for name, size in sizes.items() if Outcome(name).is_conflict}
        self._retained = {name: size for name, size in sizes.items() if not Outcome(name).is_conflict}
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.steps = _epoch_steps(_size(self._conflicts), _size(self._retained), batch_size)
        """Optimizer steps in an epoch."""

    @property
    def counts(self) -> tuple[int, int]:
        """How many conflicts and retained positions an epoch yields, a whole number of batches together."""
        total, conflicts = len(self), _size(self._conflicts)
        return (conflicts, total - conflicts) if self._retained else (total, 0)

    @property
    def repeats(self) -> int:
        """How many positions an epoch yields that it yielded before."""
        return sum(max(n - _size(group), 0) for n, group in self._sized())

    @property
    def left_out(self) -> int:
        """How many retained positions an epoch does not yield; others in each epoch."""
        return sum(max(_size(group) - n, 0) for n, group in self._sized())

    def _sized(self) -> Iterator[tuple[int, dict[str, int]]]:
        yield from zip(self.counts, (self._conflicts, self._retained), strict=True)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        conflicts, retained = (_take(_spread(self._shuffled(group, generator)), n) for n, group in self._sized())
        for step in range(self.steps):
            here = _slice(conflicts, step, self.steps)
            start = step * self.batch_size - step * len(conflicts) // self.steps
            pairs = _spread([here, retained[start : start + self.batch_size - len(here)]]).tolist()
            yield from pairs if self._lengths is None else self._dealt(pairs)

    def _shuffled(self, group: Iterable[str], generator: torch.Generator) -> list[np.ndarray]:
        """Return the positions of each of these outcomes in random order; made anew each time, for their memory."""
        places = (np.flatnonzero(self._outcomes.are(name)) for name in group)
        return [found[torch.randperm(len(found), generator=generator).numpy()] for found in places]

    def _dealt(self, pairs: list[int]) -> list[int]:
        """Order the pairs of a step so that its micro-batches hold about as many tokens each.

        Longest first, each to the micro-batch with the fewest tokens that has room.
        """
        lengths = {position: 0 if self._lengths is None else int(self._lengths[position]) for position in pairs}
        hands: list[list[int]] = [[] for _ in range(len(pairs) // self._micro_batch)]
        tokens = [0] * len(hands)
        for i in sorted(range(len(pairs)), key=lambda i: -lengths[pairs[i]]):
            room = (at for at, hand in enumerate(hands) if len(hand) < self._micro_batch)
            emptiest = min(room, key=lambda at: tokens[at])
            hands[emptiest].append(i)
            tokens[emptiest] += lengths[pairs[i]]
        return [pairs[i] for hand in hands for i in sorted(hand)]


def _epoch_steps(conflicts: int, retained: int, batch_size: int) -> int:
    """Return the batches in an epoch: enough for all pairs, but each with at least one conflict and one retained."""
    steps = ceil((conflicts + retained) / batch_size)
    if not conflicts or not retained:
        return steps
    if batch_size < 2:
        raise RecipeError(
            f"an optimizer step of {batch_size} pair",
            "it holds at least one conflict and one retained pair",
            "Raise the batch size or gradient_accumulation_steps",
        )
    return min(max(steps, ceil(conflicts / (batch_size - 1))), conflicts)


def _size(group: dict[str, int]) -> int:
    return sum(group.values())


def _spread(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Merge arrays so that any stretch holds them in nearly their overall shares; where two tie, in their order."""
    keys = np.concatenate([(np.arange(len(items)) + 0.5) / max(len(items), 1) for items in arrays] or [np.empty(0)])
    merged = np.concatenate([*arrays, np.empty(0, dtype=np.int64)])
    return merged[np.argsort(keys, kind="stable")]


def _take(items: np.ndarray, count: int) -> np.ndarray:
    """Return `count` items, going round again where there are fewer."""
    return items[:count] if count <= len(items) or not len(items) else np.resize(items, count)


def _slice(items: np.ndarray, step: int, steps: int) -> np.ndarray:
    return items[step * len(items) // steps : (step + 1) * len(items) // steps]
