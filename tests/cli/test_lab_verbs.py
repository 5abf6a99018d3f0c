"""`lab build` and `study` as a user gives them: a tiny model, real training, real files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from realigner.cli.main import main
from realigner.lab import aligned
from realigner.lab.small_model import Size
from realigner.recipe import Recipe

STUDY = """
name: tiny
output: results
cache: cache
seeds: [0]
search: {rates: [2.0e-4], seeds: [100]}
blocks:
  - {name: main, arms: [m-ref, trace, naive]}
"""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the preset `small` a matter of a second."""
    settings = replace(
        aligned.PRESETS["small"],
        size=Size(hidden=32, intermediate=64, layers=1, heads=2, context=192),
        corpus=300,
        steps=4,
        preferences=60,
        preference_steps=2,
        held_out=20,
    )
    monkeypatch.setitem(aligned.PRESETS, "small", settings)


def test_study_quick_runs_writes_its_tables_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    command = ["study", str(tmp_path / "study.yaml"), "--quick", "--json", "--quiet"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == 3 + 2  # three arms on one seed, two of them after a search of one rate
    text = (tmp_path / "results-quick" / "main.md").read_text()
    assert "3 of 3 cells are done" in text and "| naive |" in text
    rows = (tmp_path / "results-quick" / "rows.jsonl").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "results-quick" / "rows.jsonl").read_bytes() == rows
    row = json.loads(rows.splitlines()[0])
    assert {"agreement", "by_outcome", "by_rule", "facts", "perplexity", "kl", "attack", "ranks", "training"} <= set(
        row
    )


@pytest.mark.usefixtures("tiny")
def test_lab_build_makes_what_a_run_needs_and_says_that_a_tiny_model_is_not_aligned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lab", "build", "--shift", "style", "--output", str(tmp_path), "--pairs", "400", "--quiet", "--json"]
    assert main(command) == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["faults"] and facts["behaviour"]["old_agreement"] < 0.95
    assert facts["outcomes"] == {"INVERT": 120, "CONFIRM": 100, "NEUTRAL": 100, "PUNISH": 80}
    recipe = Recipe.load(tmp_path / "style" / "recipe.yaml")
    for path in (recipe.model.path, recipe.data.path, recipe.policy.path):
        assert Path(path).exists()
    assert main(["check", str(tmp_path / "style" / "recipe.yaml"), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shift", "saftey"], "shift 'saftey'"),
        (["--shift", "style", "--preset", "smal"], "preset 'smal'"),
        (["--shift", "style", "--mix", "pkuu"], "mix 'pkuu'"),
    ],
)
def test_a_name_that_the_lab_does_not_have_is_refused_with_its_neighbour(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "build", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Did you mean" in error


def test_a_study_file_that_is_not_there_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
