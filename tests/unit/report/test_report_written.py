"""Written corrections on the page: their figures where they are, nothing where no writer was asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_html import Page

from realigner.report import render_report

LEAKAGE = {
    "writer": "http/1:writer@host",
    "judge": "rules/1:abc",
    "second_judge": "judges/1:def",
    "writer_judges_itself": True,
    "agreement": {"candidates": 40, "rate": 0.9, "interval": [0.77, 0.96], "kappa": 0.62, "table": []},
    "texts": {"corrections": 120, "retained": 300, "least": 20},
    "length": {
        "corrections": {"mean": 41.5, "median": 40.0},
        "retained": {"mean": 22.0, "median": 20.0},
        "longer": 0.81,
        "interval": [0.77, 0.85],
    },
    "words": {
        "divergence": 0.123,
        "by_chance": 0.045,
        "more_in_corrections": [{"phrase": "as a careful", "share": 0.5, "share_in_others": 0.01, "z": 8.0}],
    },
    "openings": [{"opening": "of course here", "share": 0.3, "share_in_retained": 0.0}],
}
FACTS = {
    "pairs": 150,
    "corrected": 120,
    "dual_npo": 30,
    "candidates": {"accepted": 200, "policy jargon": 17, "too long": 0},
}


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path, without_pictures: None) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def written(copy: Path, facts: Any = FACTS, leakage: Any = LEAKAGE) -> Page:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["stages"]["triage"]["facts"]["corrections_written"] = facts
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "leakage.json").write_text(json.dumps(leakage))
    page = Page(render_report(copy, samples=1))
    assert page.faults == []
    return page


def test_the_page_says_what_became_of_pairs_and_candidates_and_what_may_leak(copy: Path) -> None:
    words = written(copy).words
    for said in (
        "120 of 150 PUNISH pairs that needed one have an accepted correction; 30 fall back",
        "Written by http/1:writer@host , accepted by rules/1:abc and judges/1:def .",
        "A judge is the model that wrote",
        "policy jargon 17",
        "as a careful 50.0 % 1.0 %",
        "begins: of course here 30.0 % 0.0 %",
        "81.0 % 77.0–85.0 %",
    ):
        assert said in words.replace("\u00a0", " "), said
    assert "too long" not in words.split("Written corrections")[1].split("What corrections may")[0]


def test_a_run_without_a_writer_says_nothing_of_it(copy: Path) -> None:
    assert "Written corrections" not in Page(render_report(copy, samples=1)).words


def test_few_texts_leave_the_figures_unmeasured(copy: Path) -> None:
    few = {**LEAKAGE, "length": None, "words": None, "openings": None, "agreement": None, "second_judge": None}
    words = written(copy, leakage=few).words
    assert "words of a correction, on average not measured" in words
    assert "both judges agree" not in words


def test_hostile_words_are_shown_and_do_nothing(copy: Path) -> None:
    bad = "<script>alert(1)</script>\u202e"
    hostile = json.loads(json.dumps(LEAKAGE).replace("as a careful", bad).replace("rules/1:abc", bad))
    words = written(copy, leakage=hostile).words
    assert "<script>alert(1)</script>⟨U+202E⟩" in words


@pytest.mark.parametrize("poison", ["text", [1]], ids=repr)
def test_a_value_of_the_wrong_type_breaks_nothing(copy: Path, poison: Any) -> None:
    for name in LEAKAGE:
        written(copy, leakage={**LEAKAGE, name: poison})
    for name in FACTS:
        written(copy, facts={**FACTS, name: poison})
    written(copy, leakage=poison)
