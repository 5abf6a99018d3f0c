"""docs/lab.md names every shift, arm and kind of block there is, with the true mixes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from realigner.baselines import ARMS
from realigner.lab.aligned import NEEDED_AGREEMENT, NEEDED_WELL_FORMED, PRESETS
from realigner.lab.plan import Kind, Study
from realigner.lab.shifts import PRESETS as MIXES
from realigner.lab.shifts import REPORTED, SHIFTS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_explained(arm: str) -> None:
    assert f"`{arm}`" in PAGE


def test_no_arm_is_explained_that_is_not_there() -> None:
    table = PAGE.split("## The arms")[1].split("## What is measured")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in row.replace("`", "").replace(" ", "").split(",")} == set(ARMS)


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_stands_with_its_mix(name: str) -> None:
    mix = ", ".join(f"{100 * share:g}" for share in SHIFTS[name].mix.as_dict().values())
    assert any(line.startswith(f"| `{name}` |") and f"| {mix}" in line for line in PAGE.splitlines())


def test_presets_kinds_and_requirements_are_the_stated_ones() -> None:
    for name in (*PRESETS, *MIXES, *(kind for kind in get_args(Kind) if kind != "arms")):
        assert f"`{name}`" in PAGE or f"--preset {name}" in PAGE, name
    words = " ".join(PAGE.split())
    assert f"{NEEDED_AGREEMENT:.0%} agreement".replace("%", " %") in words
    assert f"{NEEDED_WELL_FORMED:.0%} well-formed".replace("%", " %") in words
    small = PRESETS["small"]
    assert f"{small.corpus:,} prompts" in words and f"{small.preferences:,} old preferences" in words


def test_the_committed_study_is_a_study() -> None:
    study = Study.load(ROOT / "benchmarks" / "study" / "study.yaml")
    assert len(study.seeds) >= 5 and set(study.shifts) == set(REPORTED)
    named = {arm for block in study.blocks for arm in block.arms if block.kind == "arms"}
    assert set(ARMS) == named
