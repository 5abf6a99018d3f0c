"""Columns read like lists, and what is held of every pair at once stays a few numbers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import scipy.stats  # noqa: F401 - imported here, not where memory is measured
import torch
from datasets import Dataset

from realigner.columns import Ids, Outcomes
from realigner.impact.stage import _write
from realigner.impact.weights import normalise, score_conflicts
from realigner.model.encoded import SCHEMA, examples_of
from realigner.model.rows import Row
from realigner.recipe import ImpactSettings, LossSettings
from realigner.records import Outcome
from realigner.train import StratifiedSampler
from realigner.train.dataset import WeightedPairs
from realigner.train.stage import read_weights

NAMES = ["INVERT", "NEUTRAL", "PUNISH", "NEUTRAL", "CONFIRM"]
IDS = [f"pair-{i}" for i in range(2_500)]
FEW, MANY = 2_000, 5_000


@pytest.mark.parametrize(("column", "names"), [(Outcomes(NAMES), NAMES), (Ids(IDS), IDS)], ids=["outcomes", "ids"])
def test_a_column_reads_like_the_list_it_was_made_of(column: Any, names: list[str]) -> None:
    places = [0, 1, -1, len(names) // 2, len(names) - 2]
    assert [column[i] for i in places] == [names[i] for i in places]
    assert column[1:-1] == names[1:-1]
    assert (len(column), list(column)) == (len(names), names)
    assert column == names
    assert column != names[:-1]
    assert column != [*names[:-1], "another"]
    with pytest.raises(IndexError):
        column[len(names)]


def test_outcomes_are_counted_and_told_apart() -> None:
    column = Outcomes(NAMES)
    assert column.counts() == {"CONFIRM": 1, "INVERT": 1, "NEUTRAL": 2, "PUNISH": 1}
    assert column.are("NEUTRAL").tolist() == [False, True, False, True, False]
    assert column.are_conflicts().tolist() == [Outcome(name).is_conflict for name in NAMES]
    with pytest.raises(ValueError, match="'MAYBE' is not a valid Outcome"):
        Outcomes(["MAYBE"])


# -- memory ---------------------------------------------------------------------------------------------------------


def encoded(pairs: int) -> Dataset:
    """Return short encoded pairs, two in four of them conflicts, whose ids have 16 letters."""
    kinds = [("INVERT", "rejected_over_chosen"), ("PUNISH", "suppress_both"), *[("NEUTRAL", "retain")] * 2]
    columns: dict[str, Any] = {name: [None] * pairs for name in SCHEMA.names}
    columns["id"] = [f"{i:016x}" for i in range(pairs)]
    columns["outcome"], columns["direction"] = zip(*(kinds[i % 4] for i in range(pairs)), strict=True)
    for name in ("chosen", "rejected"):
        columns |= {f"{name}_ids": [[1, 2]] * pairs, f"{name}_start": [1] * pairs, f"{name}_logp": [-1.0] * pairs}
    return Dataset(pa.Table.from_pydict(columns, schema=SCHEMA))


def weigh(data: Dataset, path: Path) -> object:
    """Do what the stage does for each pair but for the model; keep what stays in memory."""
    slopes: Any = Slopes()
    conflicts = examples_of(data, Outcomes(data["outcome"]).are_conflicts())
    weights = normalise(score_conflicts(slopes, conflicts, ImpactSettings(), LossSettings()), ImpactSettings())
    _write(weights, str(path))
    return weights


class Slopes:
    """Scores that cost nothing."""

    scale = 1.0
    model = None

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        return torch.arange(len(rows), dtype=torch.float64)


def train(data: Dataset, path: Path) -> object:
    """Do what training does for each pair before the first step."""
    pairs = WeightedPairs(data, read_weights(path))
    order = iter(StratifiedSampler(pairs.outcomes, 64, 0, lengths=pairs.lengths, micro_batch=8))
    next(order)
    return pairs, order


@pytest.mark.parametrize(("work", "most"), [(weigh, 35), (train, 50)])
def test_a_pair_takes_a_few_numbers_and_no_python_object(
    work: Callable[[Dataset, Path], object], most: int, tmp_path: Path
) -> None:
    """22 and 9 bytes at these sizes; with ids and outcomes as strings and weights in a dict, they were 48 and 250."""

    def peak(pairs: int) -> int:
        data, path = encoded(pairs), tmp_path / f"{pairs}.parquet"
        if work is train:
            weigh(data, path)
        gc.collect()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            kept = work(data, path)
            in_arrow = pa.total_allocated_bytes() - before
            assert kept is not None
            return tracemalloc.get_traced_memory()[1] + in_arrow
        finally:
            tracemalloc.stop()

    peak(FEW)  # what is imported and cached at first use is not measured
    assert (peak(MANY) - peak(FEW)) / (MANY - FEW) < most
