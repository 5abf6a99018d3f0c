"""docs/audit.md: its example runs, and what it says of the floor is so."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from realigner.audit.estimate import Cell, mean_rate
from realigner.audit.sample import FLOOR, LEAST

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")


def test_the_example_runs_and_finds_what_it_says() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(code) == 1
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code[0], {})
    accuracy, rates, epsilon = out.getvalue().splitlines()
    assert 0.9 < float(accuracy[:4]) < 1
    assert re.fullmatch(r"0\.50 -> 0\.5\d", rates)
    assert 0 < float(epsilon) < 0.1


def test_the_accuracy_that_a_floor_asks_for_is_the_stated_one() -> None:
    needed = next(hits for hits in range(500) if (mean_rate([Cell(10**9, 500, hits)]) or fail()).low >= 0.9)
    assert abs(needed / 500 - 0.925) < 0.005


def fail() -> None:
    raise AssertionError


def test_the_numbers_of_the_allocation_are_the_stated_ones() -> None:
    assert f"floor: {FLOOR} responses" in PAGE
    assert f"never under {LEAST}" in PAGE
