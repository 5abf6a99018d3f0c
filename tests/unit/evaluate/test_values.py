"""Value probes: scripted models that hold none, half and all of a value; what moved, and what only seems to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import InMemory, in_memory
from scipy.stats import ttest_1samp
from scripted_model import scripted_model
from tiny import tiny_model, tiny_tokenizer

from realigner.errors import DataError, RecipeError
from realigner.evaluate import values
from realigner.evaluate.paired import mean_change
from realigner.evaluate.statistics import holm
from realigner.evaluate.value_items import Answers
from realigner.evaluate.value_summary import summarise
from realigner.evaluate.values import prompt_of
from realigner.model.chat import Encoder
from realigner.recipe import TextSettings
from realigner.recipe_evaluate import ValuesSettings

N = 20


def encoder() -> Encoder:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_tokens(["yes", "no"])
    return Encoder(tokenizer, TextSettings(), 256)


def persona(tmp_path: Path, name: str = "kindness") -> str:
    """Twenty statements, every other one reverse-keyed."""
    path = tmp_path / f"{name}.jsonl"
    rows = [
        {"question": f"Would you say {i}?", "answer_matching_behavior": " Yes" if i % 2 else " No"} for i in range(N)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def says(text: Encoder, answer: Callable[[int], str]) -> tuple[Any, Encoder]:
    """A model that answers statement i with `answer(i)`."""

    def reply(prompt: str) -> list[int]:
        number = int(prompt.split("Would you say ")[1].split("?")[0])
        return [text.tokenizer.convert_tokens_to_ids(answer(number))]

    return scripted_model(text, reply), text


def kind(i: int) -> str:
    return "yes" if i % 2 else "no"


def unkind(i: int) -> str:
    return "no" if i % 2 else "yes"


def half(i: int) -> str:
    return kind(i) if i < N / 2 else unkind(i)


def measured(tmp_path: Path, before: Callable[[int], str], after: Callable[[int], str], **changes: Any) -> Any:
    settings = ValuesSettings.model_validate({"sets": [{"path": persona(tmp_path)}], "batch_size": 7, **changes})
    text = encoder()
    comparison = in_memory(tmp_path, {"before": says(text, before), "after": says(text, after)})
    return values.measure(settings, comparison)


@pytest.mark.parametrize(("holder", "share"), [(unkind, 0.0), (half, 0.5), (kind, 1.0)])
def test_a_model_that_holds_a_value_in_none_half_and_all_items_scores_that(
    tmp_path: Path, holder: Callable[[int], str], share: float
) -> None:
    (row,) = measured(tmp_path, kind, holder).tables[1].rows
    assert row["towards_before"]["value"] == 1.0 and row["towards_after"]["value"] == share
    assert row["items"] == N


def test_a_model_that_gives_a_value_up_has_moved_and_one_that_keeps_it_has_not(tmp_path: Path) -> None:
    moved = measured(tmp_path, kind, unkind)
    change = moved.figures["values.kindness.change"]
    assert change["value"] == pytest.approx(-400.0, rel=1e-3)  # the script's logits are 100 and -100
    beyond = moved.figures["values.kindness.beyond_drift"]
    assert beyond["value"] == pytest.approx(-400.0, rel=1e-3) and beyond["p_holm"] < 1e-5
    assert moved.tables[1].rows[0]["moved"] == "yes"
    assert moved.warnings[0].startswith("1 of 1 values moved (p below 0.05, corrected for their number): kindness -400")
    (tmp_path / "scratch" / "values-before.parquet").unlink()
    (tmp_path / "scratch" / "values-after.parquet").unlink()
    same = measured(tmp_path, kind, kind)
    assert same.figures["values.kindness.change"]["value"] == 0.0
    assert same.figures["values.kindness.beyond_drift"]["p_holm"] == 1.0
    assert same.warnings == () and same.tables[1].rows[0]["moved"] == "no"


def test_a_drift_to_yes_is_no_movement_of_a_balanced_value(tmp_path: Path) -> None:
    found = measured(tmp_path, lambda _: "no", lambda _: "yes")
    assert found.figures["values.kindness.change"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found.figures["values.kindness.drift"]["value"] == pytest.approx(400.0, rel=1e-3)
    assert found.tables[1].rows[0]["moved"] == "no" and found.tables[0].rows[0]["moved"] == 0


def test_a_drift_is_told_from_a_movement_only_by_statements_of_both_keys() -> None:
    """Agreement with everything rises by 2 nats; one value besides by 1; half of the values have one key only."""
    rng = np.random.default_rng(2)
    rows = []
    for n in range(12):
        own = 1.0 if n in (0, 1) else 0.0
        for i in range(10):
            key = -1 if n % 2 == 0 and i < 5 else 1
            rows += rows_of({f"v{n}": [key * (2.0 + rng.normal(0, 0.2)) + own]}, key)
    figures, tables, warnings = summarise(rows)
    assert figures["values.s.drift"]["value"] == pytest.approx(2.0, abs=0.1)
    assert [row["value"] for row in tables[1].rows if row["moved"] == "yes"] in (["v0", "v1"], ["v1", "v0"])
    assert figures["values.s.v3.change"]["value"] == pytest.approx(2.0, abs=0.2)  # looks moved, and has not
    assert figures["values.s.v3.beyond_drift"]["value"] == pytest.approx(0.0, abs=0.2)
    assert warnings[0].startswith("2 of 12 values moved")
    alone, _, told = summarise([row for row in rows if row["value"] == "v3"])
    assert "values.s.drift" not in alone and "cannot be told from a movement" in told[-1]
    assert alone["values.s.v3.beyond_drift"]["method"] == "Student's t; drift not removed"


def test_a_model_that_answers_something_else_is_told_of(tmp_path: Path) -> None:
    found = measured(tmp_path, lambda _: "a", kind)
    assert "below 0.1 (before)" in found.warnings[-1]
    assert found.figures["values.kindness.answered.before"]["value"] < 1e-9
    assert found.figures["values.kindness.answered.after"]["value"] == pytest.approx(1.0)


def test_scores_are_the_log_odds_of_a_real_model_and_rows_hold_them(tmp_path: Path) -> None:
    from realigner.model.yes_no import YesNoScorer, answer_tokens
    from realigner.records import user_prompt

    text = encoder()
    made = {s: (tiny_model("llama", vocab_size=len(text.tokenizer), seed=n), text) for n, s in enumerate("ba")}
    comparison = in_memory(tmp_path, {"before": made["b"], "after": made["a"]})
    settings = ValuesSettings.model_validate({"sets": [{"path": persona(tmp_path)}], "limit": 5})
    found = values.measure(settings, comparison)
    assert found.rows is not None and found.rows.num_rows == 5
    scorer = YesNoScorer(made["a"][0], answer_tokens(text.tokenizer))
    for row in found.rows.to_pylist():
        prompt = prompt_of(row["question"], Answers(), settings.instruction)
        assert prompt.endswith("?\n\nAnswer with yes or no.")
        ((_, scored),) = scorer.score([text.prompt_ids(user_prompt(prompt), 1)], 1)
        assert row["after_high"] == pytest.approx(scored.yes, abs=1e-4)
        assert row["after"] == pytest.approx(row["key"] * (scored.yes - scored.no), abs=1e-4)
        assert row["change"] == pytest.approx(row["after"] - row["before"])
    mean = float(np.mean(found.rows["change"].to_numpy()))
    assert found.figures["values.kindness.change"]["value"] == pytest.approx(mean)


def test_what_one_model_has_answered_outlives_an_interruption(tmp_path: Path) -> None:
    text = encoder()

    class Stopped(InMemory):
        def load(self, side: str) -> tuple[Any, Any]:
            if side == "after":
                raise KeyboardInterrupt
            return super().load(side)

    settings = ValuesSettings.model_validate({"sets": [{"path": persona(tmp_path)}]})
    first = in_memory(tmp_path, {"before": says(text, kind), "after": says(text, kind)})
    with pytest.raises(KeyboardInterrupt):
        values.measure(settings, Stopped(**{name: getattr(first, name) for name in first.__dataclass_fields__}))
    first.loads.clear()
    values.measure(settings, first)
    assert first.loads == ["after"]


def rows_of(changes: dict[str, list[float]], key: int = 1) -> list[dict[str, Any]]:
    return [
        {"set": "s", "value": value, "key": key, "before": 0.1, "after": 0.1 + change, "change": change}
        | {f"{side}_{answer}": math.log(0.4) for side in ("before", "after") for answer in ("high", "low")}
        for value, found in changes.items()
        for change in found
    ]


def test_p_is_of_the_paired_t_test_and_corrected_for_all_values() -> None:
    rng = np.random.default_rng(0)
    changes = {f"Value {i}": rng.normal(0.8 * (i == 0), 1.0, 12).tolist() for i in range(12)}
    figures, tables, _ = summarise(rows_of(changes))
    expected = [ttest_1samp(found, 0.0).pvalue for found in changes.values()]
    for i, corrected in enumerate(holm(expected)):
        figure = figures[f"values.s.value_{i}.beyond_drift"]
        assert figure["p"] == pytest.approx(expected[i]) and figure["p_holm"] == pytest.approx(corrected)
    assert tables[0].rows[0]["values"] == 12


def test_of_many_values_that_did_not_move_hardly_ever_one_is_said_to_have_moved() -> None:
    """Family-wise error over 60 studies of 40 values of 4 to 12 items each: nominally at most 3 of 60."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(60):
        figures = [mean_change(rng.normal(0.0, 1.0, int(rng.integers(4, 13))), unit="nats") for _ in range(40)]
        smallest = min(figure["p"] for figure in figures if figure is not None)
        wrong += 40 * smallest < 0.05  # Holm's first step; multipletests itself collects garbage at every call
    assert wrong <= 8  # 3 and three standard deviations


def test_a_value_of_one_item_is_not_tested_and_does_not_count(tmp_path: Path) -> None:
    figures, tables, _ = summarise(rows_of({"Alone": [3.0], "Many": [1.0, 1.1, 0.9, 1.0, 1.2]}))
    assert "p" not in figures["values.s.alone.beyond_drift"]
    assert figures["values.s.many.beyond_drift"]["p_holm"] == figures["values.s.many.beyond_drift"]["p"]
    assert [row["moved"] for row in tables[1].rows] == ["yes", "not tested"]


def test_values_whose_names_differ_in_signs_only_have_figures_of_their_own() -> None:
    figures, _, _ = summarise(rows_of({"Self-Esteem!": [1.0, 2.0], "self-esteem": [3.0, 5.0]}))
    assert figures["values.s.self-esteem.change"]["value"] == 1.5
    assert figures["values.s.self-esteem_2.change"]["value"] == 4.0


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    path = persona(tmp_path)
    settings = ValuesSettings.model_validate({"sets": [{"path": path}, {"path": path, "value": "other"}]})
    with pytest.raises(RecipeError, match="two sets named 'kindness': each has a name of its own"):
        values.inputs(settings)


def test_broken_and_missing_files_are_found_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.values\.sets\.none\.path = .*: there is no such file"):
        values.inputs(ValuesSettings.model_validate({"sets": [{"path": str(tmp_path / "none.jsonl")}]}))
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer_matching_behavior": "Perhaps"}')
    with pytest.raises(DataError, match="it must be Yes or No"):
        values.inputs(ValuesSettings.model_validate({"sets": [{"path": str(tmp_path / "bad.jsonl")}]}))
