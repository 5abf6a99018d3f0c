"""The stage writes the page, its tables, the gate's verdict and the card as files of its run, whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import GateNotMet
from realigner.pipeline import NAMES, STAGES
from realigner.recipe import Recipe
from realigner.report import render_report
from realigner.report.figures import FigureError
from realigner.report.gate import refuse_unmet
from realigner.report.stage import run_report
from realigner.runs import Run, load_run

pytestmark = pytest.mark.usefixtures("without_pictures")
RECIPE: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}


def written(run_dir: Path, output: Path, **report: Any) -> Run:
    """Copy what a report needs into a fresh run and write it."""
    recipe = Recipe.parse({**RECIPE, "output": str(output), "report": report})
    with Run.open(recipe, {"report": {}}) as run:
        for name in ("summary.json", "responses.parquet", "judgements.parquet"):
            shutil.copy(run_dir / name, output / name)
        (output / "model").mkdir()
        assert run.stage("report", run_report)
    return run


def test_the_stage_writes_the_page_and_returns_its_size(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = written(run_dir, output, samples=4, title="A title of its own")
    page = (output / "report.html").read_bytes()
    tables = list((output / "tables").iterdir())
    assert run.facts("report") == {"bytes": len(page), "tables": len(tables) // 2, "card": "written"}
    assert {path.suffix for path in tables} == {".csv", ".json"} and len(tables) >= 12
    assert "<h1>A title of its own</h1>" in page.decode()
    assert render_report(output, samples=4, title="A title of its own").encode() == page
    assert [path.name for path in output.glob(".tmp-*")] == []
    assert "model-index" in (output / "model" / "README.md").read_text(encoding="utf-8")


def test_a_card_of_the_users_own_is_kept_and_that_is_said(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    written(run_dir, output)
    card = output / "model" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "My own words.\n", encoding="utf-8")
    before = card.read_bytes()
    with Run.open(load_run(output).recipe, {"report": {}}, redo=True, force="report") as run:
        run.stage("report", run_report)
        assert run.facts("report")["card"] == "kept: not written by realigner, or edited since"
    assert card.read_bytes() == before


def test_a_card_does_not_make_a_trained_model_another_one(run_dir: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse({**RECIPE, "output": str(tmp_path / "run")})

    def train(run: Run) -> dict[str, Any]:
        with run.writing_directory("model") as path:
            (path / "weights").write_bytes(b"1234")
        return {}

    with Run.open(recipe, {"train": {}, "report": {}}) as run:
        run.stage("train", train)
        shutil.copy(run_dir / "summary.json", run.path("summary.json"))
        run.stage("report", run_report)
    stored = load_run(tmp_path / "run")
    assert stored.path("model/README.md").is_file() and stored.is_done("train")
    stored.path("model/more").write_bytes(b"5")
    assert not stored.is_done("train")


def test_the_gate_that_a_recipe_names_is_on_the_page_and_in_a_file(run_dir: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text('gate: {agreement.after.lower: ">= 0.5", utility.mmlu.diff.lower: ">= -0.01"}')
    written(run_dir, tmp_path / "run", gate=str(gate))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Not met: of 2 conditions, 1 not shown to hold." in page
    found = json.loads((tmp_path / "run" / "gate.json").read_text(encoding="utf-8"))
    assert [check["met"] for check in found["conditions"]] == [True, False] and found["met"] is False
    with pytest.raises(GateNotMet, match=r"utility.mmlu.diff.lower >= -0.01 \(not measured: "):
        refuse_unmet(tmp_path / "run", gate)


def test_a_gate_that_means_nothing_is_refused_before_any_stage_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("gate: {agreement.aftr.lower: '>= 0.5'}")
    recipe = Recipe.parse({**RECIPE, "output": str(tmp_path / "run"), "report": {"gate": str(gate)}})
    ready = STAGES[NAMES.index("report")].ready
    assert ready is not None
    with pytest.raises(FigureError, match=r"Did you mean 'agreement.after'\?"):
        ready(recipe)
