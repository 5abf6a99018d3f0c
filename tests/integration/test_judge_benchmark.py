"""The benchmark of judging measures what it says, on a size at which its numbers mean nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_an_edit_to_one_rule_of_ten_asks_a_tenth_of_the_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    sys.modules.pop("benchmarks", None)
    from benchmarks import judge

    row, share = judge.measure_edit(4, tmp_path)
    assert (row["calls"], row["calls_after_the_edit"], share) == (4 * 2 * 10, 4 * 2, 0.1)


def test_the_server_counts_every_judgement_of_both_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    sys.modules.pop("benchmarks", None)
    from benchmarks import judge

    rows, share = judge.measure_throughput(200, 1, tmp_path)
    assert [(row["what"], row["judgements"]) for row in rows] == [("ceiling", 200), ("triage", 200)]
    assert 0.0 < share < 1.5
