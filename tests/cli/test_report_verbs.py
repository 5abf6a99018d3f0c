"""`realigner report|gate|card`: what each writes, says and exits with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from realigner.recipe import Recipe
from realigner.runs import Run

from .conftest import Say

FIGURE = {"value": 0.9, "low": 0.85, "high": 0.94, "n": 120, "method": "Wilson"}


@pytest.fixture
def finished(folder: Path) -> Path:
    """A run directory as far as a report needs one: a summary and a model, no text."""
    recipe = Recipe.load(folder / "recipe.yaml")

    def work(run: Run) -> dict[str, Any]:
        with run.writing("summary.json") as path:
            path.write_text(
                json.dumps({"agreement": {"before": {**FIGURE, "value": 0.5}, "after": FIGURE}, "kl": FIGURE})
            )
        with run.writing_directory("model") as path:
            (path / "config.json").write_text("{}")
        return {}

    with Run.open(recipe, {"evaluate": {}}) as run:
        run.stage("evaluate", work)
    return folder / "run"


def test_a_gate_that_is_met_exits_with_0_and_one_that_is_not_with_3(finished: Path, say: Say) -> None:
    gate = Path("gate.yaml")
    gate.write_text('gate: {agreement.after.lower: ">= 0.85", kl.value: "< 1"}')
    spoken = say("gate", "run", gate)
    assert spoken.code == 0, spoken.err
    assert "met      agreement.after.lower >= 0.85: lower 0.85, value 0.9, interval 0.85 to 0.94, n 120" in spoken.out
    assert spoken.out.endswith("all 2 conditions hold\n")
    gate.write_text('gate: {agreement.after.lower: ">= 0.86", utility.mmlu.diff.lower: ">= -0.01"}')
    spoken = say("gate", "run", gate)
    assert spoken.code == 3
    assert "NOT MET  utility.mmlu.diff.lower >= -0.01: not measured: the recipe does not ask for it" in spoken.out
    assert spoken.out.endswith("2 of 2 conditions do not hold\n")
    found = json.loads(say("gate", "run", gate, "--json").out)
    assert (found["ok"], found["exit_code"], found["met"]) == (False, 3, False)
    assert [check["value"] for check in found["conditions"]] == [0.85, None]


def test_a_gate_that_means_nothing_and_a_run_that_is_none_exit_with_2(finished: Path, say: Say) -> None:
    gate = Path("gate.yaml")
    gate.write_text('gate: {agrement.after.lower: ">= 0.85"}')
    spoken = say("gate", "run", gate)
    assert spoken.code == 2 and "agrement.after" in spoken.error and "Did you mean" in spoken.error
    spoken = say("gate", "run")
    assert spoken.code == 2 and "neither the command nor the recipe names conditions" in spoken.error
    spoken = say("gate", "nowhere", gate)
    assert spoken.code == 2 and "no such directory" in spoken.error


def test_a_card_is_written_once_and_a_users_own_is_refused(finished: Path, say: Say) -> None:
    spoken = say("card", "run")
    assert spoken.code == 0 and spoken.out == "wrote run/model/README.md\n"
    assert ModelCard.load(Path("run/model/README.md")).data.eval_results[0].metric_value == 0.9
    Path("run/model/README.md").write_text("Mine.")
    spoken = say("card", "run")
    assert spoken.code == 2 and "realigner card RUN --out FILE" in spoken.error
    spoken = say("card", "run", "--out", "card.md", "--json")
    assert json.loads(spoken.out)["card"] == "card.md" and Path("card.md").is_file()
    assert Path("run/model/README.md").read_text() == "Mine."


def test_runs_are_compared_on_a_page_of_their_own(finished: Path, say: Say) -> None:
    shutil.copytree(finished, "other")
    spoken = say("report", "run", "other", "--compare")
    assert spoken.code == 0 and spoken.out == "wrote comparison/report.html\n", spoken.err
    assert Path("comparison/tables/figures.csv").read_text().startswith("Figure,run,")
    spoken = say("report", "run", "other", "--compare", "--out", "there", "--json")
    assert json.loads(spoken.out)["report"] == "there/report.html"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--compare"), "a comparison takes 2 to 40 runs"),
        (("run", "run", "--compare", "--redo"), "a comparison reads runs as they are"),
        (("run", "--out", "x"), "--out without --compare"),
        (("nowhere", "run", "--compare"), "it holds neither manifest.json of a run"),
    ],
)
def test_what_does_not_go_together_is_refused(finished: Path, say: Say, arguments: tuple[str, ...], told: str) -> None:
    assert finished.is_dir()
    spoken = say("report", *arguments)
    assert spoken.code == 2 and told in spoken.error
