"""Benchmarks keep their promises: what stands in the committed results, and how growth is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROMISED: dict[str, tuple[str, ...]] = {
    "impact": ("forward_passes", "paper_over_ours", "bergson_over_ours", "ghost_over_ours", "rel_error", "spearman"),
    "train_step": ("samples_over_trl_default", "samples_over_trl_best", "peak_over_trl_v128k", "flops_over_floor"),
    "judge": ("share_of_ceiling", "cached_seconds_20k", "rejudged_after_one_rule", "peak_mb_10k", "peak_mb_1m"),
    "growth": ("exponent", "peak_mb"),
}
PARTS = {"impact": ("full", "lora"), "train_step": ("full", "lora")}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    sys.modules.pop("benchmarks", None)


@pytest.mark.parametrize("name", PROMISED)
def test_a_committed_result_has_the_keys_that_are_promised(name: str) -> None:
    path = REPOSITORY / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"benchmarks/results/{name}.json has not been measured yet")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert list(found) == ["benchmark", "machine", "versions", "config", "rows", "ratios"]
    assert found["benchmark"] == name
    assert found["config"].get("quick") is False
    ratios = found["ratios"]
    parts = [ratios[part] for part in PARTS[name]] if name in PARTS else [ratios]
    if name == "growth":
        parts = [piece for axis in ("pairs", "parameters", "length") for piece in ratios[axis].values()]
        assert set(ratios["start_up_s"]) == {"help", "check"}
    for part in parts:
        assert set(PROMISED[name]) <= set(part)


@pytest.mark.usefixtures("benchmarks")
def test_the_exponent_of_a_power_law_is_its_power() -> None:
    from benchmarks.growth import exponent

    rows = [{"size": n, "seconds": 0.01 * n**1.5} for n in (100, 1_000, 10_000)]
    assert exponent(rows) == 1.5


@pytest.mark.usefixtures("benchmarks")
def test_memory_that_a_piece_of_work_takes_and_gives_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import growth_work

    monkeypatch.setattr(growth_work, "hold", lambda mb: float(np.ones(mb * 2**17).sum()) * 0 + 7.0, raising=False)
    found = growth_work.measured("hold", 64)
    assert found["seconds"] == 7.0
    assert 50 < found["peak_mb"] < 100  # 64, but for what the allocator had to spare
    assert 50 < found["own_mb"] < 100
