"""Utility before and after: known answers, the margin, rows that lead back to every document, early refusals."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from compared import in_memory
from scripted_lm import ScriptedLM
from tiny import tiny_model, tiny_tokenizer

from realigner.errors import DataError, RecipeError
from realigner.evaluate import harness, harness_tasks, utility
from realigner.evaluate.utility import compare_scores, slug, verdict
from realigner.model.chat import Encoder
from realigner.recipe import Recipe, TextSettings
from realigner.recipe_evaluate import UtilitySettings

N = 40


def settings(tmp_path: Path, names: tuple[str, ...] = ("mmlu", "gsm8k"), **changes: Any) -> UtilitySettings:
    (tmp_path / "mmlu.jsonl").write_text(
        "".join(
            json.dumps({"subject": "s", "question": f"q{i}", "choices": ["a", "b", "c", "d"], "answer": i % 4}) + "\n"
            for i in range(N)
        )
    )
    (tmp_path / "gsm8k.jsonl").write_text(
        "".join(json.dumps({"question": f"{i} + 1?", "answer": f"#### {i + 1}"}) + "\n" for i in range(N))
    )
    tasks = [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in names]
    return UtilitySettings.model_validate({"tasks": tasks, **changes})


def compared(tmp_path: Path, scripts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A comparison whose sides answer lm_eval by script."""
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)

    def scripted(model: Any, *_: Any) -> Any:
        model.cut = 0
        return model

    monkeypatch.setattr(harness, "LoadedModel", scripted)
    return in_memory(tmp_path, {side: (ScriptedLM(knows), encoder) for side, knows in scripts.items()})


def even(doc: dict[str, Any]) -> bool:
    return int(str(doc["question"]).lstrip("q").split()[0]) % 2 == 0


def test_a_model_that_falls_from_all_to_half_is_worse_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(tmp_path, {"before": lambda _: True, "after": even}, monkeypatch)
    found = utility.measure(settings(tmp_path), comparison)
    for name in ("mmlu", "gsm8k"):
        figures = {key: found.figures[f"utility.{name}.{key}"] for key in ("before", "after", "diff")}
        assert [figure["value"] for figure in figures.values()] == [1.0, 0.5, -0.5]
        assert figures["diff"]["non_inferior"] is False and figures["diff"]["margin"] == 0.01
        assert figures["diff"]["p"] == pytest.approx(2 / 2**20)
        assert figures["diff"]["p_holm"] == pytest.approx(4 / 2**20)  # two tasks
        assert figures["before"]["n"] == N
    assert [row["verdict"] for row in found.tables[0].rows] == ["worse", "worse"]
    assert comparison.loads == ["before", "after"]


def test_every_figure_can_be_computed_from_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(tmp_path, {"before": even, "after": lambda doc: not even(doc)}, monkeypatch)
    found = utility.measure(settings(tmp_path, limit=10), comparison)
    assert found.rows is not None
    rows = found.rows.to_pylist()
    assert len(rows) == 2 * 2 * 10
    for name in ("mmlu", "gsm8k"):
        mine = {(row["side"], row["document"]): row for row in rows if row["task"] == name}
        documents = {document for _, document in mine}
        changes = [mine["after", d]["score"] - mine["before", d]["score"] for d in documents]
        assert found.figures[f"utility.{name}.diff"]["value"] == pytest.approx(sum(changes) / 10)
        assert set(map(abs, changes)) == {1.0}
    assert all(row["prompt"] and row["said"] and row["target"] for row in rows)
    assert [(s.name, s.n, len(s.sha256)) for s in found.sources] == [("mmlu", 10, 64), ("gsm8k", 10, 64)]


def test_what_one_model_has_answered_outlives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: Any) -> bool:
        raise KeyboardInterrupt

    broken = compared(tmp_path, {"before": even, "after": stopped}, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        utility.measure(settings(tmp_path), broken)
    again = compared(tmp_path, {"before": stopped, "after": even}, monkeypatch)
    found = utility.measure(settings(tmp_path), again)
    assert again.loads == ["after"]
    assert found.figures["utility.mmlu.diff"]["value"] == 0.0


def test_a_document_with_a_control_token_is_left_out_for_both_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(tmp_path, ("gsm8k",))
    with (tmp_path / "gsm8k.jsonl").open("a") as file:
        file.write(json.dumps({"question": "2 <|eot_id|>?", "answer": "#### 2"}) + "\n")
    found = utility.measure(asked, compared(tmp_path, {"before": even, "after": even}, monkeypatch))
    assert found.warnings == ("1 documents of gsm8k hold a control token of a tokenizer and were left out.",)
    assert found.figures["utility.gsm8k.diff"]["n"] == N


def test_the_same_model_twice_is_not_shown_to_be_no_worse_by_few_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = utility.measure(settings(tmp_path), compared(tmp_path, {"before": even, "after": even}, monkeypatch))
    assert [row["verdict"] for row in found.tables[0].rows] == ["not shown", "not shown"]
    wide = utility.measure(
        settings(tmp_path, margin=0.2), compared(tmp_path, {"before": even, "after": even}, monkeypatch)
    )
    assert [row["verdict"] for row in wide.tables[0].rows] == ["not worse", "not worse"]


def test_scores_beyond_a_share_have_no_margin() -> None:
    levels, difference = compare_scores([10.0, 12.0, 15.0], [11.0, 12.0, 17.0], 0.01)
    assert [level["unit"] for level in levels] == ["points", "points"]
    assert "non_inferior" not in difference and verdict(difference) == "no margin: scores beyond 0 to 1"


def test_names_of_figures_have_no_dots_nor_capitals() -> None:
    assert slug("MMLU-Pro v1.2 (chat)") == "mmlu-pro_v1_2_chat"
    assert slug("???") == "unnamed"


# -- what is refused before anything is computed --------------------------------------------------------------------


def test_a_changed_file_or_definition_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(tmp_path)
    first = utility.inputs(asked)
    with (tmp_path / "mmlu.jsonl").open("a") as file:
        file.write("\n")
    second = utility.inputs(asked)
    assert second["mmlu"] != first["mmlu"] and second["gsm8k"] == first["gsm8k"]
    real = utility.definition
    monkeypatch.setattr(utility, "definition", lambda name: real(name) + "# other words")
    assert utility.inputs(asked)["gsm8k"] != first["gsm8k"]


def test_without_lm_eval_the_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(utility, "find_spec", lambda name: None if name == "lm_eval" else real(name))
    with pytest.raises(RecipeError, match=r"lm_eval runs .* not installed\. Install it: pip install 'realigner\[util"):
        utility.inputs(settings(tmp_path))


def test_a_file_for_a_task_that_is_not_defined_here_is_refused(tmp_path: Path) -> None:
    asked = UtilitySettings.model_validate({"tasks": [{"name": "arc_easy", "path": str(tmp_path / "x.jsonl")}]})
    with pytest.raises(RecipeError, match="a file for task 'arc_easy': files are read for gpqa, gsm8k, hellaswag, mm"):
        utility.inputs(asked)


def test_a_name_that_lm_eval_does_not_know_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Index:
        all_tasks = ("arc_easy",)

    monkeypatch.setattr(harness_tasks, "task_manager", Index)
    asked = [UtilitySettings.model_validate({"tasks": [{"name": name}]}) for name in ("arc_easy", "mmlu", "arc_esy")]
    for known in asked[:2]:
        assert set(utility.inputs(known)) == {"lm_eval"}  # found in lm_eval's own files, without its index
    with pytest.raises(RecipeError, match=r"task 'arc_esy': lm_eval has no task of that name.*Did you mean 'arc_easy'"):
        utility.inputs(asked[2])


def test_missing_and_broken_files_are_found_before_anything_is_asked(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "q", "answer": "none"}\n')
    with pytest.raises(DataError, match="it must end in '#### ' and a number"):
        utility.inputs(asked)
    (tmp_path / "mmlu.jsonl").unlink()
    with pytest.raises(RecipeError, match=r"evaluate\.utility\.tasks\.mmlu\.path = .*: there is no such file"):
        utility.inputs(asked)


def test_a_task_named_twice_and_an_empty_list_are_refused(tmp_path: Path) -> None:
    base = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    for tasks, message in (([{"name": "mmlu"}] * 2, "names a task twice"), ([], "evaluate.utility.tasks is empty")):
        with pytest.raises(RecipeError, match=message):
            Recipe.parse({**base, "evaluate": {"utility": {"tasks": tasks}}}, base=tmp_path)


def test_a_real_model_is_asked_through_its_template(tmp_path: Path) -> None:
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)
    made = {side: (tiny_model("llama", seed=seed), encoder) for seed, side in enumerate(("before", "after"))}
    found = utility.measure(settings(tmp_path, limit=4, max_new_tokens=4), in_memory(tmp_path, made))
    assert found.rows is not None
    assert all(row["prompt"].startswith("<|begin_of_text|><|start_header_id|>user") for row in found.rows.to_pylist())
    assert found.facts == {"cut_requests": {"before": 0, "after": 0}}
