"""Win rates: known answers, order, length beside it, and the part in a comparison of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bakery import bakery

from realigner.errors import OracleError, RecipeError
from realigner.evaluate.evidence import Evidence, read_evidence
from realigner.evaluate.pairwise import Asked, Choice, Match, Winner
from realigner.evaluate.statistics import share_interval, sign_p
from realigner.evaluate.win_rate import Compared, check, summarise
from realigner.pipeline import run
from realigner.planning import forecast, with_limits
from realigner.recipe import Recipe
from realigner.recipe_evaluate import WinRateSettings
from realigner.records import user_prompt
from realigner.runs import StoredRun

BOTH: dict[Winner, tuple[Choice, Choice]] = {
    "a": ("first", "second"),
    "b": ("second", "first"),
    "tie": ("neither", "neither"),
    "invalid": ("invalid", "first"),
}


def evidence(winners: list[Winner], lengths: list[tuple[int, int]] | None = None) -> Evidence:
    sizes = lengths or [(5 + n % 3, 6) for n in range(len(winners))]
    compared = [
        Compared(
            Match(user_prompt(f"q{n}"), "a" * sizes[n][0], "b" * sizes[n][1]), f"q{n}", 0, w, Asked(*BOTH[w], ("", ""))
        )
        for n, w in enumerate(winners)
    ]
    return summarise(compared, 0, {})


def values(found: Evidence) -> dict[str, float]:
    return {name.removeprefix("win_rate."): figure["value"] for name, figure in found.figures.items()}


@pytest.mark.parametrize(("winner", "share"), [("a", 0.0), ("tie", 0.5), ("b", 1.0)])
def test_a_judge_with_one_answer_gives_0_50_and_100_percent_and_an_interval_that_is_no_certainty(
    winner: Winner, share: float
) -> None:
    found = evidence([winner] * 20)
    figure = found.figures["win_rate.after"]
    assert figure["value"] == share
    assert found.figures["win_rate.before"]["value"] == 1 - share
    assert figure["high"] - figure["low"] > 0.1


def test_shares_of_wins_ties_losses_and_invalid_are_counted() -> None:
    found = evidence(["b"] * 6 + ["tie"] * 2 + ["a"] * 1 + ["invalid"] * 1)
    figures = values(found)
    assert "length_controlled" not in figures, "nine prompts are too few"
    expected = {"after": 0.7, "before": 0.2, "wins": 0.6, "ties": 0.2, "losses": 0.1, "invalid": 0.1, "consistent": 1}
    # Of 7 decided pairs one choice each is the first shown, and of the invalid pair the one that could be read.
    expected |= {"first": 8 / 15, "won_by_the_longer": 3 / 5, "longest_answer_wins": (4 * 1 + 3 * 0.5 + 3 * 0) / 10}
    assert figures == pytest.approx(expected)
    assert found.figures["win_rate.after"]["p"] == pytest.approx(2 * (1 + 7) / 2**7), "6 of 7, exact"
    assert any("1 of 10 comparisons could not be read" in warning for warning in found.warnings)


def test_an_answer_that_cannot_be_read_wins_for_nobody() -> None:
    found = values(evidence(["invalid"] * 12))
    assert (found["after"], found["before"], found["invalid"]) == (0, 0, 1)


def test_a_judge_that_goes_by_the_order_is_named_and_prefers_nobody() -> None:
    compared = [
        Compared(Match(user_prompt(f"q{n}"), "aa", "b"), f"q{n}", 0, "tie", Asked("first", "first", ("", "")))
        for n in range(30)
    ]
    found = summarise(compared, 0, {})
    assert (values(found)["first"], values(found)["consistent"], values(found)["after"]) == (1, 0, 0.5)
    assert any("the judge chose what it saw first in 100% of its choices" in warning for warning in found.warnings)


def test_longest_answer_wins_stands_beside_a_judge_that_likes_length() -> None:
    rng = np.random.default_rng(0)
    lengths = [(int(a), int(b)) for a, b in rng.integers(1, 400, size=(60, 2))]
    winners: list[Winner] = ["b" if b > a else "a" for a, b in lengths]
    found = evidence(winners, lengths)
    assert values(found)["longest_answer_wins"] == values(found)["after"]
    assert values(found)["won_by_the_longer"] == 1
    assert any("wins and losses are separated by length" in warning for warning in found.warnings)
    rows = found.tables[1].rows
    assert rows[0]["characters"] == round(float(np.mean([a for a, _ in lengths])), 1)


def test_the_interval_of_wins_and_ties_covers_the_true_rate() -> None:
    """300 draws of 60 prompts with ties: three standard errors of 95 % are 0.038."""
    rng = np.random.default_rng(2)
    true = 0.4 * 1 + 0.35 * 0.5
    covered = 0
    for _ in range(300):
        scores = rng.choice([1.0, 0.5, 0.0], size=60, p=[0.4, 0.35, 0.25])
        found = share_interval(list(scores), range(60))
        assert found is not None
        covered += found["low"] <= true <= found["high"]
    assert 0.91 <= covered / 300 <= 0.988


def test_a_sign_test_leaves_ties_out_and_takes_answers_to_one_prompt_together() -> None:
    assert sign_p([1, 1, 1, 1, 1, 1, -1, 0, 0], range(9), 0) == pytest.approx(0.125)
    assert sign_p([0, 0], range(2), 0) == 1
    # Six prompts that all say the same in each of two answers are six observations, not twelve: p = 2 / 2**6.
    assert sign_p([1.0] * 12, [n // 2 for n in range(12)], 0) == pytest.approx(2 / 64)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return bakery(tmp_path) | {"evaluate": {"retained": 6, "win_rate": {}}}


def test_a_run_compares_answers_by_the_verdicts_that_it_has(again: Any) -> None:
    stored: StoredRun = again(until="measure", evaluate={"win_rate": {"judge": {"kind": "policy"}}})
    found = read_evidence(stored.directory)["win_rate"]
    rows = pq.read_table(stored.path("evidence/win_rate.parquet")).to_pylist()
    judged = {
        row["response_id"]: row["label"] == "compliant"
        for row in pq.read_table(stored.path("judgements.parquet")).to_pylist()
    }
    for row in rows:
        before, after = (judged[f"{row['prompt_id']}-{side}"] for side in ("before", "after"))
        assert row["winner"] == ("tie" if before == after else "after" if after else "before")
    wins = sum(row["winner"] == "after" for row in rows)
    assert found["figures"]["win_rate.wins"]["value"] == pytest.approx(wins / len(rows))
    assert "win_rate.first" not in found["figures"], "nobody was shown two answers"


def test_a_run_compares_answers_by_choices_made_elsewhere(again: Any, finished: StoredRun, tmp_path: Path) -> None:
    answers = pq.read_table(finished.path("responses.parquet")).to_pylist()
    sides = {side: {r["prompt_id"]: r for r in answers if r["model"] == side} for side in ("before", "after")}
    with (tmp_path / "c.jsonl").open("w") as file:
        for prompt, row in sides["before"].items():
            texts = row["response"], sides["after"][prompt]["response"]
            for shown, choice in ((texts, "second"), (texts[::-1], "first")):
                same = texts[0] == texts[1]
                line = {"prompt": row["prompt"], "first": shown[0], "second": shown[1]}
                file.write(json.dumps(line | {"choice": "neither" if same else choice}) + "\n")
    judge = {"kind": "scripted", "path": str(tmp_path / "c.jsonl")}
    stored = again(until="measure", evaluate={"win_rate": {"judge": judge, "prompts": 5}})
    found = read_evidence(stored.directory)["win_rate"]
    assert found["figures"]["win_rate.losses"]["value"] == 0
    assert found["figures"]["win_rate.after"]["n"] == 5
    assert found["facts"]["judge"].startswith("scripted-pairs/1:")


def test_a_file_of_choices_that_is_not_there_stops_before_the_first_stage(content: dict[str, Any]) -> None:
    content["evaluate"]["win_rate"] = {"judge": {"kind": "scripted", "path": "gone.jsonl"}}
    with pytest.raises(Exception, match=r"gone\.jsonl"):
        run(Recipe.parse(content, base=Path.cwd()))
    assert not Path(content["output"]).exists()


def test_a_limit_on_money_needs_prices(content: dict[str, Any]) -> None:
    content["evaluate"]["win_rate"] = {"max_cost": 1}
    with pytest.raises(RecipeError, match=r"max_cost needs win_rate\.prices"):
        Recipe.parse(content)


def test_a_judge_that_cannot_be_asked_is_known_before_anything_is_computed() -> None:
    server = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m", "output": "plain", "budget": 0.2}
    settings = WinRateSettings.model_validate({"judge": server})
    with pytest.raises(OracleError, match=r"127\.0\.0\.1:9"):
        check(settings)
    assert check(WinRateSettings()) == []


def test_a_dry_run_says_how_often_the_judge_is_asked(content: dict[str, Any]) -> None:
    server = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m", "output": "plain"}
    content["evaluate"]["win_rate"] = {"judge": server, "prompts": 30}
    content["generate"] = {"prompts": 50, "samples": 2, "temperature": 1}
    asked = "measure: win_rate: at most 120 questions on two answers each, less those remembered"
    assert asked in forecast(Recipe.parse(content)).lines()
    content["evaluate"]["win_rate"] = {}
    assert not any(line.startswith("measure") for line in forecast(Recipe.parse(content)).lines())


def test_limits_of_the_command_line_hold_for_the_judge_of_pairs(content: dict[str, Any]) -> None:
    server = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m"}
    content["evaluate"]["win_rate"] = {"judge": server}
    limited = with_limits(Recipe.parse(content), 7, None)
    assert limited.evaluate.win_rate is not None
    assert limited.evaluate.win_rate.max_calls == 7
