"""The gold batch D_J: a few pairs that say what the new policy wants (Algorithm 2 of TRACE). Held out of scoring
and of training; drawn by a seeded hash, so that it depends on neither order nor size of what else is in the data.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from realigner.errors import GoldError
from realigner.recipe import GoldSettings
from realigner.records import Direction, Pair, Prompt, TriagedPair, prompt_key, text_hash


@dataclass(frozen=True)
class GoldPair:
    """`preferred` is right under the new policy, `dispreferred` is the worse answer to the same prompt."""

    id: str
    part: str
    """RETAIN, INVERT, PUNISH or FILE."""
    prompt: Prompt
    preferred: str
    dispreferred: str


@dataclass(frozen=True)
class GoldBatch:
    """The gold pairs, and the ids of the data's pairs that training must not see because they are in it."""

    pairs: tuple[GoldPair, ...]
    held_out: frozenset[str]


@dataclass
class _Drawn:
    """The k items of one class with the smallest hashes, kept while streaming."""

    k: int
    seen: int = 0
    heap: list[tuple[int, str, TriagedPair]] | None = None

    def offer(self, item: TriagedPair, seed: int) -> None:
        self.seen += 1
        self.heap = [] if self.heap is None else self.heap
        entry = (-int(text_hash(str(seed), "gold", item.pair.id), 16), item.pair.id, item)
        if len(self.heap) < self.k:
            heapq.heappush(self.heap, entry)
        elif self.k and entry[0] > self.heap[0][0]:
            heapq.heapreplace(self.heap, entry)

    def items(self) -> list[TriagedPair]:
        return [item for _, _, item in sorted(self.heap or [], key=lambda entry: (-entry[0], entry[1]))]


def gold_shares(size: int, present: Iterable[str]) -> dict[str, int]:
    """Return how many pairs each part gives: ⌊B/3⌋ RETAIN, ⌊B/3⌋ INVERT, the rest PUNISH.

    A part without any pair in the data gives its share to the conflicts that are there.
    """
    present = set(present)
    shares = {"RETAIN": size // 3, "INVERT": size // 3, "PUNISH": size - 2 * (size // 3)}
    heirs = [part for part in ("PUNISH", "INVERT") if part in present]
    for part in shares:
        if part not in present and heirs:
            shares[heirs[0]] += shares[part]
            shares[part] = 0
    return shares


def draw_gold(triaged: Iterable[TriagedPair], settings: GoldSettings, seed: int) -> GoldBatch:
    """Return the gold batch that the settings name, drawn from the training side in one pass.

    `paper` takes a PUNISH prompt's compliant answer from another prompt's retained pair, as the paper does;
    `corrected` takes the accepted correction of the same prompt; `file` takes the verified pairs of `settings.path`.

    Raises:
        GoldError: a class has less than twice its share (the gold batch would eat what is to be trained), or what
            the kind needs is not there.
    """
    if settings.path is not None:
        from realigner.data import read_pairs

        return gold_from_pairs(read_pairs(settings.path), triaged)
    size = settings.size
    parts = {part: _Drawn(size) for part in ("RETAIN", "INVERT", "PUNISH")}
    donors = _Drawn(2 * size)
    uncorrected = 0
    for item in triaged:
        part = "RETAIN" if item.outcome.is_retained else str(item.outcome)
        if item.direction == Direction.NONE:
            continue
        if part == "PUNISH" and settings.kind == "corrected" and item.correction is None:
            uncorrected += 1
            continue
        parts[part].offer(item, seed)
        if part == "RETAIN":
            donors.offer(item, seed + 1)
    if uncorrected and not parts["PUNISH"].seen:
        raise GoldError(
            "impact.gold.kind = corrected",
            f"none of the {uncorrected} PUNISH pairs has an accepted correction",
            "Give corrections (corrections.path), or use impact.gold.kind: paper or file",
        )
    shares = gold_shares(size, [part for part, drawn in parts.items() if drawn.seen])
    _check_feasible(shares, {part: drawn.seen for part, drawn in parts.items()}, settings)

    drawn = {part: parts[part].items()[:share] for part, share in shares.items()}
    held_out = frozenset(item.pair.id for items in drawn.values() for item in items)
    gold = [_pair("RETAIN", item.pair, item.pair.chosen, item.pair.rejected) for item in drawn["RETAIN"]]
    gold += [_pair("INVERT", item.pair, item.pair.rejected, item.pair.chosen) for item in drawn["INVERT"]]
    if settings.kind == "corrected":
        gold += [_pair("PUNISH", i.pair, i.correction, i.pair.chosen) for i in drawn["PUNISH"] if i.correction]
    else:
        gold += _with_donors(drawn["PUNISH"], donors.items(), settings)
    return GoldBatch(tuple(gold), held_out)


def gold_from_pairs(pairs: Iterable[Pair], triaged: Iterable[TriagedPair] = ()) -> GoldBatch:
    """Return a gold batch of verified pairs: `chosen` is right under the NEW policy.

    Held out are the triaged pairs that are among them by content, in whatever order and under whatever id: both
    texts of the gold pair answer the same prompt there.

    Raises:
        GoldError: there are none.
    """
    gold = tuple(_pair("FILE", pair, pair.chosen, pair.rejected) for pair in pairs)
    if not gold:
        raise GoldError("impact.gold.path", "it holds no pairs", "Give at least one verified pair")
    texts: dict[str, list[set[str]]] = {}
    for pair in gold:
        texts.setdefault(prompt_key(pair.prompt), []).append({pair.preferred, pair.dispreferred})
    held_out = {
        item.pair.id
        for item in triaged
        if any(
            both <= {item.pair.chosen, item.pair.rejected, item.correction}
            for both in texts.get(prompt_key(item.pair.prompt), ())
        )
    }
    return GoldBatch(gold, frozenset(held_out))


def _pair(part: str, pair: Pair, preferred: str, dispreferred: str) -> GoldPair:
    return GoldPair(pair.id, part, pair.prompt, preferred, dispreferred)


def _with_donors(punished: list[TriagedPair], donors: list[TriagedPair], settings: GoldSettings) -> list[GoldPair]:
    """Pair each PUNISH prompt with a compliant response of another prompt, none used again while others wait."""
    gold = []
    waiting = list(donors)
    for item in punished:
        own = prompt_key(item.pair.prompt)
        place = next((i for i, donor in enumerate(waiting) if prompt_key(donor.pair.prompt) != own), None)
        if place is None:
            raise GoldError(
                f"impact.gold.kind = {settings.kind}",
                "no retained pair of another prompt offers a compliant response for the PUNISH part",
                "Use impact.gold.kind: corrected or file, or impact.weighting: uniform",
            )
        donor = waiting.pop(place)
        waiting.append(donor)
        gold.append(_pair("PUNISH", item.pair, donor.pair.chosen, item.pair.chosen))
    return gold


def _check_feasible(shares: dict[str, int], found: dict[str, int], settings: GoldSettings) -> None:
    small = {part: n for part, n in found.items() if n < 2 * shares[part]}
    if small:
        have = ", ".join(f"{part} has {n} and would give {shares[part]}" for part, n in small.items())
        what = " (PUNISH counts pairs with an accepted correction)" if settings.kind == "corrected" else ""
        largest = _largest_size(found, settings.size)
        remedy = f"Set impact.gold.size to at most {largest}" if largest else "Leave the class out of the data"
        raise GoldError(
            f"impact.gold.size = {settings.size}: {have}{what}",
            "a gold batch may take at most half of a class, or nothing would be left to train on",
            f"{remedy}, or use impact.gold.kind: file, or impact.weighting: uniform",
        )


def _largest_size(found: dict[str, int], limit: int) -> int:
    """Return the largest size below `limit` whose shares are at most half of each class; 0 where there is none."""
    present = [part for part, n in found.items() if n]
    for size in range(limit - 1, 0, -1):
        if all(found[part] >= 2 * share for part, share in gold_shares(size, present).items()):
            return size
    return 0
