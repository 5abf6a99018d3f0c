"""Encoded pairs with their weights, as the Trainer reads them: mapped from disk, one at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from realigner.columns import Outcomes
from realigner.errors import DataError, ModelError, WeightsError
from realigner.model.chat import Encoder
from realigner.model.encoded import RESPONSES, SCHEMA, add_reference, encode_triaged
from realigner.recipe import LossSettings
from realigner.records import Direction, TriagedPair, Weight

logger = logging.getLogger(__name__)

_CHUNK = 1000
_KEYED = np.dtype([("key", np.int64), ("weight", np.float64)])


class WeightedPairs(torch.utils.data.Dataset[dict[str, Any]]):
    """A map-style view of encoded pairs.

    Args:
        pairs: a `datasets.Dataset` in the form of `realigner.model.encoded.SCHEMA`.
        weights: of the conflicts; conflicts without one (the gold batch) are left out. None: all have weight 1.
        held_out: ids left out besides.

    Raises:
        DataError: no pair is left, or the columns are others.
        WeightsError: there are conflicts, but `weights` names none of them.
    """

    def __init__(
        self, pairs: Any, weights: Iterable[Weight] | None = None, held_out: frozenset[str] = frozenset()
    ) -> None:
        missing = [name for name in SCHEMA.names if name not in pairs.column_names]
        if missing:
            raise DataError(
                f"a data set with the columns {', '.join(pairs.column_names) or '(none)'}",
                f"encoded pairs have {', '.join(missing)} too",
                "Pass a list of TriagedPair (realigner.triage), or a file of the stage `reference`",
            )
        keyed = None if weights is None else _keyed(weights)
        self.pairs = pairs
        self.outcomes = Outcomes()
        """Of each pair, to be read like a list of names."""
        stays, found = np.zeros(len(pairs), dtype=bool), np.ones(len(pairs))
        conflicts = weighed = start = 0
        for ids, outcomes in _in_chunks(pairs):
            here = slice(start, start + len(ids))
            conflict = outcomes.are_conflicts()
            weight = found[here] if keyed is None else _weights_of(ids, keyed)
            known = ~np.isnan(weight)
            stays[here] = (known | ~conflict) & np.array([id_ not in held_out for id_ in ids])
            found[here] = np.where(known, weight, 1.0)
            conflicts, weighed = conflicts + int(conflict.sum()), weighed + int((conflict & known).sum())
            self.outcomes.extend(name for name, kept in zip(outcomes, stays[here], strict=True) if kept)
            start += len(ids)
        if not self.outcomes:
            raise DataError("a data set without a pair", "there is nothing to train on", "Look at the triage's counts")
        if keyed is not None and conflicts and not weighed:
            raise WeightsError(
                f"{len(np.unique(keyed['key']))} weights and {conflicts} conflicts without a common id",
                "a conflict without a weight is left out of training, so none would be left",
                "Compute the weights from these pairs",
            )
        del keyed
        self._index = np.flatnonzero(stays)
        self._weights = found[self._index]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of the rows that train for each pair, prompts counted with each; from the file's offsets alone."""
        names = [f"{name}_ids" for name in RESPONSES]
        found = []
        for chunk in self.pairs.with_format("arrow").select_columns([*names, "outcome", "direction"]).iter(_CHUNK):
            chosen, rejected, correction = (
                pc.fill_null(pc.list_value_length(chunk.column(name)), 0).to_numpy() for name in names
            )
            both = pc.equal(chunk.column("direction"), str(Direction.CORRECTION_OVER_BOTH)).to_numpy()
            conflict = Outcomes(chunk.column("outcome").to_pylist()).are_conflicts()
            other = np.where(correction > 0, correction + both * rejected, rejected)
            found.append(chosen + conflict * other)
        lengths: np.ndarray = np.concatenate(found)[self._index]
        return lengths

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> dict[str, Any]:
        example: dict[str, Any] = self.pairs[int(self._index[position])]
        return {**example, "weight": float(self._weights[position])}


def _in_chunks(pairs: Any) -> Iterator[tuple[list[str], Outcomes]]:
    """Yield ids and outcomes of so many pairs at a time: a million of them as Python strings are 100 MB."""
    for chunk in pairs.with_format("arrow").select_columns(["id", "outcome"]).iter(_CHUNK):
        yield chunk.column("id").to_pylist(), Outcomes(chunk.column("outcome").to_pylist())


def _keyed(weights: Iterable[Weight]) -> np.ndarray:
    """Return weights by the 64-bit hash of their ids, sorted: 16 bytes each, where a dict takes 200.

    Among ten million ids, two are taken for one with a chance of about 3e-6.
    """
    table = np.fromiter(((hash(w.id), w.weight) for w in weights), dtype=_KEYED)
    return table[np.argsort(table["key"], kind="stable")]


def _weights_of(ids: Sequence[str], keyed: np.ndarray) -> np.ndarray:
    """Return the weight of each id, the last where it has several; not a number where it has none."""
    wanted = np.fromiter(map(hash, ids), dtype=np.int64)
    places = np.searchsorted(keyed["key"], wanted, side="right") - 1
    found = keyed[places] if len(keyed) else np.zeros(len(ids), dtype=_KEYED)
    there = (places >= 0) & (found["key"] == wanted)
    return np.where(there, found["weight"], np.nan)


def weighted_pairs(
    data: Any, encoder: Encoder | None, reference: Any, *, loss: LossSettings, weights: Iterable[Weight] | None = None
) -> WeightedPairs:
    """Return what a trainer was given as a `WeightedPairs`.

    Args:
        data: a `WeightedPairs` (returned as it is), encoded pairs as a `datasets.Dataset`, or `TriagedPair`s, which
            are encoded and scored under `reference` here.
        encoder: turns `TriagedPair`s into tokens.
        reference: the frozen model, as it scores now (an adapter that is to be trained is disabled); None where there
            is none any more.
        loss: which responses the losses read, and what the retain term needs kept of the reference.
        weights: impact weights of the conflicts.
    """
    from datasets import Dataset

    if isinstance(data, WeightedPairs):
        if weights is not None:
            raise WeightsError(
                "weights beside a WeightedPairs", "it carries its own", "Give them to WeightedPairs(pairs, weights)"
            )
        return data
    if isinstance(data, Dataset):
        return WeightedPairs(data, weights)
    if encoder is None:
        raise ModelError("processing_class = None", "text needs a tokenizer", "Pass the model's tokenizer")
    if reference is None:
        raise ModelError(
            f"triaged pairs after the reference was let go (loss.kl_reference = {loss.kl_reference})",
            "nothing is there to score them by",
            "Give encoded pairs (realigner.model.encoded), or set loss.kl_reference: forward",
        )
    before = Counter(encoder.tally)
    examples = list(encode_triaged(_triaged(data), encoder))
    lost = {name: count for name, count in (encoder.tally - before).items() if name != "pairs"}
    if lost:
        logger.warning("text to tokens: %s; %d pairs are left", lost, len(examples))
    add_reference(examples, reference, loss)
    return WeightedPairs(Dataset(pa.Table.from_pylist(examples, schema=SCHEMA)), weights)


def _triaged(data: Iterable[Any]) -> Iterator[TriagedPair]:
    for item in data:
        if not isinstance(item, TriagedPair):
            raise DataError(
                f"a data set of {type(item).__name__}", "a trainer takes triaged pairs", "Use realigner.triage(…) first"
            )
        yield item
