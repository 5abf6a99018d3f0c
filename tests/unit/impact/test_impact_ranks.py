"""Scoring on 2 and 3 real processes, models whole and sharded, gives what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_ranks import CASES, GOLD, ROWS

from realigner import ranks
from realigner.model import sharded

TESTS = Path(__file__).resolve().parents[2]
cases = pytest.mark.parametrize(("count", "mode", "spread"), CASES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Results by number of processes: a list of what each of them found; under 0 what one gives without a group."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "scoring_ranks.py"), str(out)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[Any, Any] = {
        n: [torch.load(out / f"{n}-{rank}.pt", weights_only=False) for rank in range(n)] for n in (2, 3)
    }
    found[0] = torch.load(out / "alone.pt", weights_only=False)
    return found


def relative(found: Any, expected: Any) -> float:
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected))
    return float((a - b).norm() / b.norm())


@cases
@pytest.mark.parametrize("what", ["norm", "exact", "difference", "backward", "one row", "weights"])
def test_scores_do_not_depend_on_the_number_of_processes(
    runs: dict[Any, Any], count: int, mode: str, spread: bool, what: str
) -> None:
    alone = runs[0][mode][what]
    for found in (run[mode, spread][what] for run in runs[count]):
        assert relative(found, alone) < (1e-9 if what == "difference" else 1e-12)
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(runs[count][0][mode, spread][what]))


@cases
def test_every_row_is_scored_by_exactly_one_process(runs: dict[Any, Any], count: int, mode: str, spread: bool) -> None:
    """But for forwards in step, where a pack may be run once more and not counted."""
    scored = [run[mode, spread]["exact rows"] for run in runs[count]]
    every = [row for rows in scored for row in rows]
    assert set(every) == {row.ids for row in ROWS}
    assert all(scored)
    if not spread:
        assert len(every) == len(set(every))


@cases
def test_weights_come_in_the_order_of_the_data_whatever_process_scored_them(
    runs: dict[Any, Any], count: int, mode: str, spread: bool
) -> None:
    expected = ("exact", "packed", [f"pair-{i}" for i in range(7)])
    assert all(run[mode, spread]["scoring"] == expected for run in runs[count])


@cases
def test_parameters_are_left_as_they_were(runs: dict[Any, Any], count: int, mode: str, spread: bool) -> None:
    assert all(run[mode, spread]["unchanged"] for run in runs[count])


@pytest.mark.parametrize(("count", "mode"), [(n, mode) for n, mode, spread in CASES if spread])
def test_the_direction_is_spread_over_processes_with_the_parameters(
    runs: dict[Any, Any], count: int, mode: str
) -> None:
    found = [run[mode, True] for run in runs[count]]
    for run in found:
        held, tensors, numbers = run["shards"]
        assert held == tensors > 0
        assert numbers <= run["all"] / count + 40 * tensors  # rows of a matrix are not cut
    assert sum(run["shards"][2] for run in found) == found[0]["all"]


@pytest.mark.parametrize(("count", "mode"), [(n, mode) for n, mode, spread in CASES if spread])
def test_curvature_of_a_sharded_model_is_refused(runs: dict[Any, Any], count: int, mode: str) -> None:
    for run in runs[count]:
        assert run[mode, True]["refusal"].startswith("impact.preconditioner = cg for a sharded model: curvature is not")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("in_step", [False, True])
def test_items_are_dealt_out_once_and_in_step_where_forwards_are_work_in_common(
    size: int, in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded, "is_sharded", lambda _: in_step)
    monkeypatch.setenv("WORLD_SIZE", str(size))
    hands = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        with ranks.together():
            hands.append(sharded.dealt("abcdefg", torch.nn.Module()))
        with ranks.together(), ranks.apart():
            assert sharded.dealt("ab", torch.nn.Module()) == [("a", True), ("b", True)]
    assert sorted(item for hand in hands for item, counts in hand if counts) == list("abcdefg")
    lengths = {len(hand) for hand in hands}
    assert max(lengths) - min(lengths) <= (0 if in_step else 1)


def test_the_gold_pairs_can_be_shared_unevenly() -> None:
    assert len(GOLD) % 2
    assert len(GOLD) % 3
