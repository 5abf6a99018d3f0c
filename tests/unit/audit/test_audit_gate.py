"""The floor and ε, held against an audit that is stored beside a triage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from audited import NO, pair, verdict

from realigner.audit.gate import audited_loss, epsilon_in_key, needs_audit, refuse_unaudited
from realigner.audit.units import digest, units_in
from realigner.errors import GateNotMet, RecipeError
from realigner.inputs import weigh_inputs
from realigner.progress import SILENT
from realigner.recipe import Recipe
from realigner.records import TriagedPair
from realigner.runs import Run, load_run
from realigner.triaging import write_triage

ROBUST = {"invert": "robust", "epsilon": "audit"}
INVERTED = [pair(f"p{i}", verdict(["cite"]), verdict()) for i in range(5)]


def recipe_for(directory: Path, floor: float | None = None, **loss: object) -> Recipe:
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    return Recipe.parse({"output": str(directory), **sections, "oracle": {"min_accuracy": floor}, "loss": loss})


def triaged(directory: Path, pairs: list[TriagedPair] = INVERTED) -> None:
    with Run.open(recipe_for(directory), {"triage": {"pairs": len(pairs)}}) as run:

        def work(run: Run) -> Mapping[str, Any]:
            with run.writing("triage.parquet") as path:
                write_triage(pairs, path)
            return {"outcomes": {"INVERT": sum(p.outcome.value == "INVERT" for p in pairs)}}

        run.stage("triage", work)


RATE = {"value": 0.95, "low": 0.92, "high": 0.97, "n": 400, "covered": 1.0}


def audited(directory: Path, accuracy: Any = RATE, epsilon: Any = 0.08, **changes: Any) -> None:
    run = load_run(directory)
    verdicts = digest(units_in(run, "triage")())
    outcomes = {} if epsilon is None else {"INVERT": {"epsilon": {"value": epsilon}}}
    stored = {
        "verdicts": verdicts,
        "output": run.stages["triage"]["outputs"]["triage.parquet"]["hash"],
        "accuracy": accuracy,
        "outcomes": outcomes,
        **changes,
    }
    (directory / "audit.json").write_text(json.dumps({"schema": 1, "triage": stored}))


def test_a_recipe_that_asks_for_nothing_waits_for_nothing(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "run")
    assert not needs_audit(recipe)
    refuse_unaudited(recipe)
    assert audited_loss(recipe) is recipe.loss
    assert epsilon_in_key(recipe) == 0.1


@pytest.mark.parametrize("asks", [{"floor": 0.9}, ROBUST])
def test_without_an_audit_training_is_refused_and_told_how_to_get_one(tmp_path: Path, asks: dict[str, Any]) -> None:
    recipe = recipe_for(tmp_path / "run", **asks)
    for prepare in (lambda: None, lambda: triaged(tmp_path / "run")):
        prepare()
        with pytest.raises(GateNotMet, match="no audit of the run's triage has been scored") as caught:
            refuse_unaudited(recipe)
        assert caught.value.exit_code == 3
        assert f"realigner audit sample {tmp_path}/run; let people fill in its sheets" in caught.value.remedy
    assert epsilon_in_key(recipe) == recipe.loss.epsilon


def test_the_floor_is_held_against_the_lower_end_of_the_interval(tmp_path: Path) -> None:
    triaged(tmp_path)
    audited(tmp_path, RATE)
    refuse_unaudited(recipe_for(tmp_path, floor=0.9))
    refuse_unaudited(recipe_for(tmp_path, floor=0.92))
    with pytest.raises(
        GateNotMet,
        match=r"accuracy in the audit: 95\.0% \(92\.0% to 97\.0%, 95 % interval, n 400\): the lower end of its "
        r"interval must reach oracle\.min_accuracy = 0\.93\..* realigner audit sample",
    ):
        refuse_unaudited(recipe_for(tmp_path, floor=0.93))


def test_responses_that_an_audit_does_not_speak_of_count_as_wrong(tmp_path: Path) -> None:
    triaged(tmp_path)
    rate = {"value": 0.99, "low": 0.95, "high": 1.0, "n": 100, "covered": 0.9}
    audited(tmp_path, rate)
    refuse_unaudited(recipe_for(tmp_path, floor=0.85))
    with pytest.raises(GateNotMet, match=r"n 100, of 90\.0% of the responses, the rest unknown"):
        refuse_unaudited(recipe_for(tmp_path, floor=0.9))


def test_an_accuracy_that_was_not_measured_reaches_no_floor(tmp_path: Path) -> None:
    triaged(tmp_path)
    audited(tmp_path, accuracy=None)
    with pytest.raises(GateNotMet, match="no item was decided by both people and judge"):
        refuse_unaudited(recipe_for(tmp_path, floor=0.1))


def test_an_audit_of_other_verdicts_does_not_count_and_of_the_same_ones_does(tmp_path: Path) -> None:
    triaged(tmp_path)
    audited(tmp_path, verdicts="other", output="other")
    with pytest.raises(GateNotMet, match="the run's verdicts changed since they were audited"):
        refuse_unaudited(recipe_for(tmp_path, floor=0.5))
    audited(tmp_path, output="another file with the same verdicts")
    refuse_unaudited(recipe_for(tmp_path, floor=0.5))


def test_epsilon_is_what_people_found_and_decides_the_key(tmp_path: Path) -> None:
    triaged(tmp_path)
    recipe = recipe_for(tmp_path, **ROBUST)
    assert weigh_inputs(recipe, SILENT)["loss"]["epsilon"] == "audit"
    audited(tmp_path, epsilon=0.08)
    assert audited_loss(recipe).flip_rate == 0.08
    assert audited_loss(recipe).invert == "robust"
    assert weigh_inputs(recipe, SILENT)["loss"]["epsilon"] == 0.08
    audited(tmp_path, epsilon=0.5)
    with pytest.raises(GateNotMet, match=r"ε of INVERT pairs in the audit: 0\.500: a robust loss needs ε < 0\.5"):
        audited_loss(recipe)
    audited(tmp_path, epsilon=None)
    with pytest.raises(GateNotMet, match="ε of INVERT pairs: not measured"):
        audited_loss(recipe)


def test_without_an_invert_pair_epsilon_acts_on_nothing(tmp_path: Path) -> None:
    triaged(tmp_path, [pair("a", verdict(["cite"], NO), verdict(["cite"], NO)), pair("b", verdict(), verdict())])
    audited(tmp_path, epsilon=None)
    assert audited_loss(recipe_for(tmp_path, **ROBUST)).flip_rate == 0


def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"loss\.epsilon: audit belongs to `loss.invert: robust`"):
        recipe_for(tmp_path, epsilon="audit")
    with pytest.raises(RecipeError, match=r"'loss.epsilon' = 0\.7: Input should be less than 0\.5; or: .* 'audit'"):
        recipe_for(tmp_path, invert="robust", epsilon=0.7)
    with pytest.raises(ValueError, match="has not been read from an audit"):
        _ = recipe_for(tmp_path, **ROBUST).loss.flip_rate
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}, "output": "o"}
    with pytest.raises(RecipeError, match="min_accuracy holds training back, so it belongs to `oracle`"):
        Recipe.parse({**sections, "evaluate": {"oracle": {"min_accuracy": 0.9}}})
