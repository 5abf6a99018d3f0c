"""The stage `measure`: parts in order, each with a key of its own, kept when another changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import tiny

from realigner.errors import RecipeError, RunDirError, StaleKeyError
from realigner.evaluate import parts
from realigner.evaluate.evidence import Evidence, Source, Table, columns, read_evidence
from realigner.evaluate.parts import PARTS, Comparison, Part, file_identity, measure_parts, parts_inputs
from realigner.evaluate.statistics import proportion
from realigner.recipe import EvaluateSettings, Recipe
from realigner.recipe_parts import OptionalFilePath, Section
from realigner.records import user_prompt
from realigner.runs import Run


class OneSettings(Section):
    level: int = 1
    path: OptionalFilePath = None


class Both(EvaluateSettings):
    one: OneSettings | None = None
    two: OneSettings | None = None


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put two light parts in the place of the real ones; return the names of those that were measured."""
    ran: list[str] = []

    def module(name: str) -> str:
        def measure(settings: OneSettings, comparison: Comparison) -> Evidence:
            ran.append(name)
            if settings.level < 0:
                raise RuntimeError("broken")
            figure = {**(proportion(settings.level, 4) or {}), "unit": "share"}
            return Evidence(
                figures={f"{name}.share": figure},  # type: ignore[dict-item]
                tables=(Table(f"{name}.all", "All", columns(what="What"), [{"what": float("nan")}]),),
                sources=(Source("made up", "0" * 64, 4, "here"),),
                warnings=("small",),
                rows=pa.table({"id": ["a"]}),
            )

        made: Any = ModuleType(f"part_{name}")
        made.measure = measure
        made.inputs = lambda settings: {"path": settings.path and file_identity(settings.path, f"evaluate.{name}.path")}
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return str(made.__name__)

    two = Part("two", 1, module("two"), reads=("responses.parquet",))
    monkeypatch.setattr(parts, "PARTS", (Part("one", 1, module("one")), two))
    yield ran


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.saved_tiny("llama", path)
    (path / "policy.yaml").write_text(
        "id: p\nversion: '1'\ntitle: T\nrules: [{id: r, text: Never write x., forbid: {words: [x]}}]\n"
    )
    return path


def measured(directory: Path, model: Path, *, redo: bool = False, **sections: Any) -> dict[str, Any]:
    recipe = Recipe.parse(
        {
            "output": str(directory),
            "model": {"path": str(model), "lora": None},
            "data": {"path": "d"},
            "policy": {"path": str(model / "policy.yaml")},
            "generate": {"max_new_tokens": 3, "batch_size": 2},
        }
    )
    settings = Both.model_validate(sections)
    with Run.open(recipe, {"measure": {"evaluate": parts_inputs(settings)}}, redo=redo) as run:
        # A recipe of its own class cannot be stored; the parts are put in after it was.
        run.recipe = run.recipe.model_copy(update={"evaluate": settings})
        run.stage("measure", lambda r: measure_parts(r, {"before": recipe.model, "after": recipe.model}))
        return run.facts("measure")


def test_every_part_has_a_section_and_both_its_functions() -> None:
    for part in PARTS:
        assert part.name in EvaluateSettings.model_fields
        home = __import__(part.home, fromlist=["measure"])
        assert callable(home.measure)
        assert callable(__import__(part.inputs_home or part.home, fromlist=["inputs"]).inputs)


def test_no_part_is_no_evidence_and_no_model_is_looked_at(tmp_path: Path, ran: list[str]) -> None:
    assert measured(tmp_path / "run", tmp_path) == {"parts": []}
    assert not (tmp_path / "run" / "evidence").exists()
    assert read_evidence(tmp_path / "run") == {}


def test_parts_are_measured_in_order_and_say_where_their_figures_come_from(
    tmp_path: Path, ran: list[str], model: Path
) -> None:
    facts = measured(tmp_path / "run", model, two={}, one={"level": 3})
    assert facts == {"parts": ["one", "two"], "warnings": ["one: small", "two: small"]}
    found = read_evidence(tmp_path / "run")
    assert list(found) == ["one", "two"]
    one = found["one"]
    assert one["figures"]["one.share"]["value"] == 0.75
    assert (one["settings"], one["rows"]) == ({"level": 3, "path": None}, "evidence/one.parquet")
    assert one["tables"][0]["rows"] == [{"what": None}], "what JSON cannot hold is null"
    assert one["sources"][0]["n"] == 4


def test_a_part_is_kept_when_another_changes(tmp_path: Path, ran: list[str], model: Path) -> None:
    measured(tmp_path / "run", model, one={}, two={})
    assert ran == ["one", "two"]
    measured(tmp_path / "run", model, redo=True, one={"level": 2}, two={})
    assert ran == ["one", "two", "one"]
    measured(tmp_path / "run", model, redo=True, two={})
    assert ran == ["one", "two", "one"]
    assert list(read_evidence(tmp_path / "run")) == ["two"], "a part that is no longer asked for is not shown"


def test_a_part_that_is_added_to_a_run_is_refused_in_a_few_words(tmp_path: Path, ran: list[str], model: Path) -> None:
    measured(tmp_path / "run", model)
    with pytest.raises(StaleKeyError, match=r"stage 'measure': evaluate\.one none -> given: its stored"):
        measured(tmp_path / "run", model, one={})
    measured(tmp_path / "run", model, redo=True, one={}, two={})
    with pytest.raises(StaleKeyError, match=r"stage 'measure': evaluate\.two given -> none: its stored"):
        measured(tmp_path / "run", model, one={})
    with pytest.raises(StaleKeyError, match=r"stage 'measure': evaluate\.two\.level 1 -> 2: its stored"):
        measured(tmp_path / "run", model, one={}, two={"level": 2})


def test_a_part_whose_rows_are_damaged_is_measured_again(tmp_path: Path, ran: list[str], model: Path) -> None:
    measured(tmp_path / "run", model, one={}, two={})
    (tmp_path / "run" / "evidence" / "one.parquet").write_bytes(b"other")
    with pytest.raises(RunDirError, match=r"one\.json: it is gone or damaged\. Measure it again: realigner measure"):
        read_evidence(tmp_path / "run")
    (tmp_path / "run" / "evidence" / "index.json").unlink()
    measured(tmp_path / "run", model, one={}, two={})
    assert ran == ["one", "two", "one"]


def test_what_was_measured_before_a_fault_is_kept(tmp_path: Path, ran: list[str], model: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        measured(tmp_path / "run", model, one={}, two={"level": -1})
    assert not (tmp_path / "run" / "evidence" / "index.json").exists()
    measured(tmp_path / "run", model, one={}, two={})
    assert ran == ["one", "two", "two"]


def test_a_file_counts_by_its_content_and_has_to_be_there(tmp_path: Path, ran: list[str], model: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("a")
    measured(tmp_path / "run", model, one={"path": str(tmp_path / "a.txt")})
    measured(tmp_path / "run", model, one={"path": str(tmp_path / "b.txt")})
    assert ran == ["one"]
    with pytest.raises(RecipeError, match=r"evaluate\.one\.path = .*gone: there is no such file"):
        measured(tmp_path / "run", model, one={"path": str(tmp_path / "gone")})


def test_a_part_is_measured_again_when_a_file_of_the_run_that_it_reads_changes(
    tmp_path: Path, ran: list[str], model: Path
) -> None:
    measured(tmp_path / "run", model, one={}, two={})
    (tmp_path / "run" / "responses.parquet").write_bytes(b"new answers")
    (tmp_path / "run" / "evidence" / "index.json").unlink()
    measured(tmp_path / "run", model, one={}, two={})
    assert ran == ["one", "two", "two"]


def test_answers_of_both_models_are_kept_piece_by_piece_and_control_tokens_left_out(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    from realigner.evaluate import side_answers

    monkeypatch.setattr(side_answers, "BATCHES", 1)
    seen: list[dict[str, Any]] = []
    prompts = [user_prompt(text) for text in ("one", "two", "thr <|eot_id|> ee", "four")]

    def look(settings: OneSettings, comparison: Comparison) -> Evidence:
        seen.append(comparison.answers(prompts, "asking"))  # type: ignore[arg-type]
        kept = sorted(path.name for path in comparison.scratch.iterdir())
        assert len(kept) == 4, "two pieces a side"
        if len(seen) == 1:
            raise RuntimeError("killed")
        return Evidence({})

    monkeypatch.setattr(sys.modules["part_one"], "measure", look)
    with pytest.raises(RuntimeError, match="killed"):
        measured(tmp_path / "run", model, one={})
    monkeypatch.setattr(side_answers, "generate", lambda *_, **__: pytest.fail("asked twice"))
    measured(tmp_path / "run", model, one={})
    assert seen[0] == seen[1]
    assert [response is None for response in seen[0]["after"]] == [False, False, True, False]
    assert json.dumps([r.text for r in seen[0]["before"] if r]) == json.dumps([r.text for r in seen[0]["after"] if r])
