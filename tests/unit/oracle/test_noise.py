"""Noise at known rates: measured, reproducible, and the same whatever the order and the batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scipy.stats import binom

from realigner.errors import OracleError, RecipeError
from realigner.oracle import Oracle, ScriptedOracle, build_oracle
from realigner.oracle.noise import NoisyOracle, without_noise
from realigner.policy import Policy
from realigner.recipe import OracleSettings, Recipe
from realigner.recipe_judges import NoiseSettings
from realigner.records import Judgement, Label, Verdict, user_prompt

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID
POLICY = Policy.parse(
    {
        "id": "p",
        "version": "1",
        "title": "t",
        "rules": [{"id": name, "text": "A rule.", "forbid": {"words": [name]}} for name in ("red", "blue")],
    }
)
MANY = 4000


def asked(prompt: object, response: object) -> Judgement:
    return Judgement(user_prompt(f"prompt {prompt}"), f"response {response}")


def noisy(label: Label, **noise: Any) -> NoisyOracle:
    return NoisyOracle(ScriptedOracle(lambda _: label, name=label), NoiseSettings(**noise), POLICY)


def rules_oracle(**noise: Any) -> Oracle:
    return build_oracle(OracleSettings(noise=NoiseSettings(of="rules", **noise)), POLICY)


def assert_rate(flips: int, of: int, rate: float) -> None:
    """Within the bounds that a fair draw leaves once in a million times."""
    low, high = binom.ppf(5e-7, of, rate), binom.isf(5e-7, of, rate)
    assert low <= flips <= high, f"{flips} of {of} at rate {rate}: outside {low}..{high}"


@pytest.mark.parametrize("correlation", [0.0, 0.4])
@pytest.mark.parametrize(("label", "rate"), [(GOOD, 0.1), (BAD, 0.25), (GOOD, 0.6)])
def test_the_measured_rate_is_the_rate_asked_for(label: Label, rate: float, correlation: float) -> None:
    name = "false_positive" if label is GOOD else "false_negative"
    oracle = noisy(label, correlation=correlation, **{name: rate})
    # One response a prompt: the draws are independent, so the binomial bounds hold at any correlation.
    verdicts = oracle.judge([asked(number, "same") for number in range(MANY)])
    assert_rate(sum(verdict.label is not label for verdict in verdicts), MANY, rate)


def test_only_the_class_that_has_a_rate_is_flipped() -> None:
    questions = [asked(number, "same") for number in range(300)]
    assert {verdict.label for verdict in noisy(BAD, false_positive=1.0).judge(questions)} == {BAD}
    assert {verdict.label for verdict in noisy(GOOD, false_positive=1.0).judge(questions)} == {BAD}
    assert {verdict.label for verdict in noisy(BAD, false_negative=1.0).judge(questions)} == {GOOD}


@pytest.mark.parametrize("label", [UNSURE, INVALID])
def test_what_is_no_class_is_never_flipped(label: Label) -> None:
    verdicts = noisy(label, false_positive=1.0, false_negative=1.0).judge([asked(1, 1), asked(2, 2)])
    assert {verdict.label for verdict in verdicts} == {label}


def test_without_rates_the_verdicts_are_the_oracles_own() -> None:
    questions = [asked(number, "blue" if number % 2 else "red fox") for number in range(50)]
    clean = build_oracle(OracleSettings(), POLICY).judge(questions)
    assert rules_oracle().judge(questions) == clean
    assert build_oracle(OracleSettings(noise=NoiseSettings()), POLICY).judge(questions) == clean


def test_verdicts_do_not_depend_on_order_or_batches() -> None:
    questions = [asked(number % 40, number) for number in range(200)]
    oracle = noisy(GOOD, false_positive=0.5, correlation=0.3)
    whole = dict(zip(questions_keys(questions), oracle.judge(questions), strict=True))
    shuffled = random.Random(0).sample(questions, len(questions))
    single = {key: oracle.judge([one])[0] for key, one in zip(questions_keys(shuffled), shuffled, strict=True)}
    assert single == whole
    assert len({verdict.label for verdict in whole.values()}) == 2


def questions_keys(questions: list[Judgement]) -> list[tuple[str, str]]:
    return [(question.prompt[0]["content"], question.response) for question in questions]


def test_another_seed_flips_others() -> None:
    questions = [asked(number, "same") for number in range(300)]
    first, again, other = (noisy(GOOD, false_positive=0.5, seed=seed).judge(questions) for seed in (0, 0, 1))
    assert first == again
    assert 100 < sum(a.label is not b.label for a, b in zip(first, other, strict=True)) < 200


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_flips_that_share_a_prompt_have_the_correlation_asked_for(correlation: float) -> None:
    rate = 0.3
    oracle = noisy(GOOD, false_positive=rate, correlation=correlation)
    verdicts = oracle.judge([asked(number, side) for number in range(MANY) for side in "ab"])
    flips = [verdict.label is BAD for verdict in verdicts]
    both = sum(a and b for a, b in zip(flips[::2], flips[1::2], strict=True))
    assert_rate(both, MANY, rate**2 + correlation * rate * (1 - rate))
    assert_rate(sum(flips[::2]), MANY, rate)


def test_rules_are_flipped_at_their_own_rates_and_the_policy_decides_anew() -> None:
    rates = [{"rule": "blue", "false_positive": 0.0, "false_negative": 0.0}]
    oracle = rules_oracle(false_positive=0.2, rules=rates)
    verdicts = oracle.judge([asked(number, "fine") for number in range(MANY)])
    red, blue = ([verdict.rules[place].label is BAD for verdict in verdicts] for place in (0, 1))
    assert_rate(sum(red), MANY, 0.2)
    assert not any(blue)
    assert [verdict.label is BAD for verdict in verdicts] == red


def test_rules_are_flipped_independently_of_each_other() -> None:
    verdicts = rules_oracle(false_positive=0.3).judge([asked(number, "fine") for number in range(MANY)])
    assert_rate(sum(all(rule.label is BAD for rule in verdict.rules) for verdict in verdicts), MANY, 0.09)


def test_a_flipped_verdict_says_so_and_what_it_was() -> None:
    [verdict] = noisy(GOOD, false_positive=1.0).judge([asked(1, 1)])
    assert verdict.reason == "flipped by oracle.noise from compliant (scripted)"
    [verdict] = rules_oracle(false_negative=1.0).judge([asked(1, "red")])
    assert "flipped by oracle.noise from non_compliant (contains" in verdict.rules[0].reason


def test_the_identity_holds_the_oracle_and_the_settings() -> None:
    plain, a, b = noisy(GOOD), noisy(GOOD, false_positive=0.1), noisy(GOOD, false_positive=0.1, seed=1)
    assert len({plain.identity, a.identity, b.identity}) == 3
    assert without_noise(a.identity) == a.oracle.identity == without_noise(a.oracle.identity)


def test_a_rule_that_the_policy_does_not_have_is_refused() -> None:
    with pytest.raises(OracleError, match=r"oracle\.noise\.rules: rule 'rad': policy p 1 has no such rule.*'red'"):
        rules_oracle(rules=[{"rule": "rad"}])


def test_rules_cannot_be_flipped_where_the_oracle_gives_none() -> None:
    oracle = NoisyOracle(ScriptedOracle(lambda _: Verdict(GOOD)), NoiseSettings(of="rules"), POLICY)
    with pytest.raises(OracleError, match=r"without the verdicts of its rules.*Set oracle\.noise\.of: decision"):
        oracle.judge([asked(1, 1)])


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"rules": [{"rule": "red"}]}, "noise.rules belongs to `of: rules`"),
        ({"of": "rules", "rules": [{"rule": "red"}, {"rule": "red"}]}, "noise.rules names 'red' twice"),
        ({"false_positive": 1.5}, "oracle.noise.false_positive' = 1.5"),
    ],
)
def test_impossible_noise_is_refused_with_the_recipe(noise: dict[str, Any], message: str) -> None:
    content = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({**content, "oracle": {"noise": noise}})
    assert message in str(caught.value)


def test_evaluation_judges_without_the_noise_of_triage() -> None:
    content: dict[str, Any] = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    recipe = Recipe.parse({**content, "oracle": {"noise": {"false_positive": 0.1}}})
    assert recipe.evaluation_oracle == OracleSettings()
    own = {**content, "evaluate": {"oracle": {"noise": {"seed": 1}}}}
    assert Recipe.parse(own).evaluation_oracle.noise == NoiseSettings(seed=1)
