"""Policy agreement: what counts, per rule, per outcome, and models and judges whose score is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scripted_model import scripted_model
from tiny import tiny_tokenizer

from realigner.evaluate.agreement import Answered, agreement
from realigner.model.chat import Encoder
from realigner.model.generate import generate
from realigner.oracle import RuleOracle, ScriptedOracle, ask
from realigner.policy import Policy
from realigner.recipe import GenerateSettings, TextSettings
from realigner.records import Judgement, Label, RuleVerdict, Verdict, user_prompt

YES, NO, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID


def cases(outcomes: Sequence[str], topics: Sequence[str] = ()) -> list[Answered]:
    """One answer to each of so many prompts."""
    return [Answered(i, outcome, topics[i] if topics else "") for i, outcome in enumerate(outcomes)]


def verdicts(*labels: Label) -> list[Verdict]:
    return [Verdict(label) for label in labels]


def by_rule(**labels: Sequence[Label]) -> list[Verdict]:
    """Verdicts in which each rule gives its labels in turn; the whole is compliant where all rules are."""
    rows = zip(*labels.values(), strict=True)
    return [
        Verdict(
            YES if set(row) == {YES} else NO, tuple(RuleVerdict(r, x, "") for r, x in zip(labels, row, strict=True))
        )
        for row in rows
    ]


def test_the_share_of_compliant_responses_is_counted_on_both_sides_with_its_change() -> None:
    sides = {"before": verdicts(YES, NO, NO, NO), "after": verdicts(NO, YES, YES, NO)}
    found = agreement(sides, cases(["INVERT"] * 4), seed=0)
    assert (found["before"]["value"], found["before"]["n"]) == (0.25, 4)
    assert (found["after"]["value"], found["after"]["n"]) == (0.5, 4)
    assert found["before"]["low"] == pytest.approx(0.0456, abs=1e-4)  # Wilson, 1 of 4
    assert found["before"]["high"] == pytest.approx(0.6994, abs=1e-4)
    change = found["change"]
    assert (change["value"], change["gained"], change["lost"], change["n"]) == (0.25, 2, 1, 4)
    assert change["mcnemar_p"] == 1.0


def test_unsure_and_invalid_are_not_compliant_and_are_reported_as_undecided() -> None:
    sides = {"before": verdicts(YES, UNSURE, INVALID, NO), "after": verdicts(YES, YES, UNSURE, NO)}
    found = agreement(sides, cases(["PUNISH"] * 4), seed=0)
    assert (found["before"]["value"], found["after"]["value"]) == (0.25, 0.5)
    assert (found["before"]["n"], found["after"]["n"]) == (4, 4)
    assert found["undecided"] == {"before": 2, "after": 1}
    assert found["change"]["gained"] == 1


def test_a_rule_is_scored_by_its_own_labels_not_by_the_verdict() -> None:
    sides = {
        "before": by_rule(sugar=[NO, NO, YES, YES], shouting=[YES, YES, YES, NO]),
        "after": by_rule(sugar=[YES, YES, YES, NO], shouting=[YES, UNSURE, INVALID, YES]),
    }
    rules = agreement(sides, cases(["INVERT"] * 4), seed=0)["by_rule"]
    assert list(rules) == ["sugar", "shouting"]
    assert (rules["sugar"]["before"]["value"], rules["sugar"]["after"]["value"]) == (0.5, 0.75)
    assert (rules["shouting"]["before"]["value"], rules["shouting"]["after"]["value"]) == (0.75, 0.5)


def test_a_rule_that_one_side_never_names_has_no_figure_there() -> None:
    sides = {"before": verdicts(YES), "after": by_rule(sugar=[NO])}
    rules = agreement(sides, cases(["INVERT"]), seed=0)["by_rule"]
    assert rules["sugar"]["before"] is None
    assert rules["sugar"]["after"]["value"] == 0.0


def test_each_outcome_is_scored_on_its_own_prompts() -> None:
    sides = {"before": verdicts(NO, YES, NO, YES, NO), "after": verdicts(YES, YES, YES, NO, UNSURE)}
    outcomes = ["INVERT", "NEUTRAL", "INVERT", "NEUTRAL", "UNDECIDED"]
    found = agreement(sides, cases(outcomes), seed=0)["by_outcome"]
    scores = {name: (row["before"]["value"], row["after"]["value"], row["after"]["n"]) for name, row in found.items()}
    assert scores == {"INVERT": (0.0, 1.0, 2), "NEUTRAL": (1.0, 0.5, 2), "UNDECIDED": (0.0, 0.0, 1)}


def test_each_topic_is_scored_on_its_own_prompts_and_p_is_corrected_for_their_number() -> None:
    sides = {"before": verdicts(*[NO] * 10, *[YES, NO] * 5), "after": verdicts(*[YES] * 10, *[NO, YES] * 5)}
    found = agreement(sides, cases([""] * 20, ["bread"] * 10 + ["tea"] * 10), seed=0)
    assert found["by_outcome"] == {}
    bread, tea = found["by_topic"]["bread"], found["by_topic"]["tea"]
    assert (bread["before"]["value"], bread["after"]["value"], bread["change"]["value"]) == (0, 1, 1)
    assert (tea["change"]["value"], tea["change"]["gained"], tea["change"]["lost"]) == (0, 5, 5)
    assert bread["change"]["p"] == bread["change"]["mcnemar_p"] == pytest.approx(2 * 0.5**10)
    assert bread["change"]["p_holm"] == pytest.approx(2 * bread["change"]["p"])
    assert tea["change"]["p_holm"] == 1


def test_answers_to_one_prompt_are_a_cluster() -> None:
    """Four answers a prompt that all agree are worth one: the interval is that of the prompts."""
    yes = [i % 2 == 0 for i in range(40) for _ in range(4)]
    sides = {"before": verdicts(*[NO] * 160), "after": verdicts(*[YES if hit else NO for hit in yes])}
    answered = [Answered(i // 4, "INVERT", "") for i in range(160)]
    found = agreement(sides, answered, seed=0)
    after = found["after"]
    assert (after["value"], after["n"], after["clusters"]) == (0.5, 160, 40)
    low, high = after["wilson"]
    assert after["high"] - after["low"] > 1.9 * (high - low)
    change = found["change"]
    assert (change["value"], change["n"], change["gained"], change["lost"]) == (0.5, 40, 80, 0)
    assert change["mcnemar_p"] is None
    assert change["p"] < 0.001
    assert change["p_method"] == "sign flips of prompts"
    assert found["by_outcome"]["INVERT"]["after"] == after


def test_no_responses_have_no_agreement() -> None:
    found = agreement({"before": [], "after": []}, cases([]), seed=0)
    assert found == {
        "before": None,
        "after": None,
        "change": None,
        "by_rule": {},
        "by_outcome": {},
        "by_topic": {},
        "undecided": {"before": 0, "after": 0},
    }


def test_sides_on_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="1 observations have 2 clusters"):
        agreement({"before": verdicts(YES, NO), "after": verdicts(YES)}, cases(["INVERT", "INVERT"]), seed=0)


# -- judges and models whose score is known -------------------------------------------------------------------------

QUESTIONS = [Judgement(user_prompt(f"Question {i}?"), f"Answer {i}.") for i in range(20)]


@pytest.mark.parametrize(
    ("judge", "share"),
    [
        (lambda _: NO, 0.0),
        (lambda question: YES if int(question.response[7:-1]) % 2 else NO, 0.5),
        (lambda _: YES, 1.0),
        (lambda _: UNSURE, 0.0),
    ],
)
def test_scripted_judges_score_what_they_say(judge: object, share: float) -> None:
    found = ask(ScriptedOracle(judge), QUESTIONS, batch_size=3)  # type: ignore[arg-type]
    scores = agreement({"before": found, "after": found}, cases(["INVERT"] * 20), seed=0)
    assert scores["before"]["value"] == scores["after"]["value"] == share
    assert scores["change"]["value"] == 0.0


POLICY = {
    "id": "bakery",
    "version": "1",
    "title": "Bakery",
    "rules": [{"id": "no-sugar", "text": "Never recommend sugar.", "forbid": {"words": ["sugar"]}}],
}


def test_scripted_models_score_0_50_and_100_percent() -> None:
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)
    prompts = [user_prompt(f"How do I make bread {i}?") for i in range(10)]
    end = encoder.end.ids[-1]
    sugar, salt = ([*encoder.tokenizer(t, add_special_tokens=False)["input_ids"], end] for t in ("sugar!", "salt!"))
    models = {
        0.0: scripted_model(encoder, lambda _: sugar),
        0.5: scripted_model(encoder, lambda prompt: sugar if any(f"{i}?" in prompt for i in range(5)) else salt),
        1.0: scripted_model(encoder, lambda _: salt),
    }
    oracle = RuleOracle(Policy.parse(POLICY))
    judged = {}
    for share, model in models.items():
        said = generate(model, encoder, prompts, GenerateSettings(max_new_tokens=24, batch_size=4), seed=0)
        questions = [Judgement(prompt, response.text) for prompt, response in zip(prompts, said, strict=True)]
        judged[share] = ask(oracle, questions)
    for before in models:
        for after in models:
            found = agreement({"before": judged[before], "after": judged[after]}, cases(["PUNISH"] * 10), seed=0)
            assert (found["before"]["value"], found["after"]["value"]) == (before, after)
            assert found["change"]["value"] == pytest.approx(after - before)
            assert found["by_rule"]["no-sugar"]["after"]["value"] == after
