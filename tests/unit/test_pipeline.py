"""The main path with light stages in place of the heavy ones: order, keys, resuming, one stage alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from realigner import pipeline
from realigner.errors import GateNotMet, RecipeError, RunDirError, StaleKeyError
from realigner.pipeline import NAMES, STAGES, Stage, run, stage_inputs
from realigner.recipe import Recipe
from realigner.runs import Interrupted, Run, load_run

OF_STAGES = ("data", "text", "impact", "train", "generate", "evaluate", "oracle", "report")
SECTIONS = dict(zip(NAMES, OF_STAGES, strict=True))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a light stage in the place of each; return the list of those that ran."""
    ran: list[str] = []

    def light(name: str) -> Callable[[Run], dict[str, object]]:
        def work(opened: Run) -> dict[str, object]:
            ran.append(name)
            with opened.writing(f"{name}.txt") as path:
                path.write_text(name)
            return {"name": name}

        return work

    module = ModuleType("light_stages")
    for name in NAMES:
        setattr(module, name, light(name))
    monkeypatch.setitem(sys.modules, "light_stages", module)

    def inputs(section: str) -> Callable[..., dict[str, object]]:
        return lambda recipe, _: {section: getattr(recipe, section).model_dump(mode="json")}

    stages = tuple(Stage(name, inputs(section), f"light_stages:{name}") for name, section in SECTIONS.items())
    monkeypatch.setattr(pipeline, "STAGES", stages)
    return ran


def recipe_for(directory: Path, **changes: object) -> Recipe:
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    return Recipe.parse({"output": str(directory), **sections, **changes})


def test_the_stages_are_those_of_the_method_in_order() -> None:
    assert NAMES == ("triage", "reference", "weigh", "train", "generate", "evaluate", "measure", "report")


def test_every_stage_has_a_function_that_takes_a_run() -> None:
    for stage in STAGES:
        assert callable(stage.load()), stage.name


def test_all_stages_run_once_in_order(tmp_path: Path, ran: list[str]) -> None:
    result = run(recipe_for(tmp_path / "run"))
    assert tuple(ran) == NAMES
    assert result.directory == tmp_path / "run"
    assert result.summary == {}
    run(recipe_for(tmp_path / "run"))
    assert tuple(ran) == NAMES


def test_until_stops_after_a_stage_and_the_next_call_goes_on(tmp_path: Path, ran: list[str]) -> None:
    run(recipe_for(tmp_path / "run"), until="weigh")
    assert ran == ["triage", "reference", "weigh"]
    run(recipe_for(tmp_path / "run"))
    assert tuple(ran) == NAMES


def test_one_stage_needs_those_before_it_and_says_which(tmp_path: Path, ran: list[str]) -> None:
    with pytest.raises(RunDirError, match="nothing has been run that 'train' could follow"):
        run(recipe_for(tmp_path / "run"), only="train")
    assert not (tmp_path / "run").exists()
    run(recipe_for(tmp_path / "run"), only="triage")
    with pytest.raises(RunDirError, match=r"'reference' has not been finished\. First run: realigner reference"):
        run(recipe_for(tmp_path / "run"), only="train")
    assert ran == ["triage"]


def test_one_stage_with_redo_runs_again_and_drops_what_followed(tmp_path: Path, ran: list[str]) -> None:
    run(recipe_for(tmp_path / "run"), until="train")
    run(recipe_for(tmp_path / "run"), only="weigh")
    assert ran[4:] == []
    run(recipe_for(tmp_path / "run"), only="weigh", redo=True)
    assert ran[4:] == ["weigh"]
    assert list(load_run(tmp_path / "run").stages) == ["triage", "reference", "weigh"]
    assert not (tmp_path / "run" / "train.txt").exists()


def test_a_changed_setting_is_refused_by_name_before_any_stage_runs(tmp_path: Path, ran: list[str]) -> None:
    run(recipe_for(tmp_path / "run"))
    changed = recipe_for(tmp_path / "run", train={"epochs": 2})
    with pytest.raises(StaleKeyError, match=r"stage 'train': train\.epochs 1\.0 -> 2\.0: .* train, generate, evaluate"):
        run(changed)
    assert tuple(ran) == NAMES
    run(changed, redo=True)
    assert tuple(ran[8:]) == NAMES[3:]


def test_a_change_of_a_later_stage_is_seen_when_an_earlier_one_is_asked_for(tmp_path: Path, ran: list[str]) -> None:
    run(recipe_for(tmp_path / "run"))
    with pytest.raises(StaleKeyError, match=r"stage .report.: report\.samples 12 -> 3"):
        run(recipe_for(tmp_path / "run", report={"samples": 3}), only="triage")


def test_an_interruption_names_the_stage_and_the_next_call_resumes_there(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Run) -> dict[str, object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["light_stages"], "train", interrupt)
        with pytest.raises(Interrupted) as caught:
            run(recipe_for(tmp_path / "run"))
    assert caught.value.stage == "train"
    assert caught.value.directory == tmp_path / "run"
    run(recipe_for(tmp_path / "run"))
    assert tuple(ran) == NAMES


def test_an_unknown_stage_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stage 'wiegh'.*Did you mean 'weigh'\?"):
        run(recipe_for(tmp_path / "run"), until="wiegh")


def test_a_stages_key_holds_the_key_of_the_stage_before_it(tmp_path: Path, ran: list[str]) -> None:
    before = stage_inputs(recipe_for(tmp_path))
    after = stage_inputs(recipe_for(tmp_path, data={"path": "d", "limit": 3}))
    assert all(before[name] != after[name] for name in NAMES)
    later = stage_inputs(recipe_for(tmp_path, generate={"prompts": 3}))
    assert [name for name in NAMES if before[name] != later[name]] == ["generate", "evaluate", "measure", "report"]


def test_what_a_stage_demands_is_held_against_a_run_that_is_done_too(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text('gate: {kl.upper: "< 1"}')
    recipe = recipe_for(tmp_path / "run", report={"gate": str(gate)})
    demand = STAGES[-1].demand
    stages = (*pipeline.STAGES[:-1], replace(pipeline.STAGES[-1], demand=demand))
    monkeypatch.setattr(pipeline, "STAGES", stages)
    for _ in range(2):
        with pytest.raises(GateNotMet, match=r"kl.upper < 1 \(not measured: the run directory has no summary.json\)"):
            run(recipe)
    assert tuple(ran) == NAMES
    run(recipe, until="evaluate")
