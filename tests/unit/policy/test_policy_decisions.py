"""From the rules' verdicts to the policy's: every decision against the slow spelling-out of what it promises."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.errors import PolicyError
from realigner.policy import Policy
from realigner.records import Label, RuleVerdict

C, N, U, I = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID  # noqa: E741
TIERS = ("critical", "high", "standard", "reduced")
WEIGHTS = dict(zip(TIERS, (8, 4, 2, 1), strict=True))
DECISIONS = ("any_violation", "any_critical", "all_requirements", "threshold")


def policy(decision: str, rules: Sequence[tuple[str, bool]], **more: Any) -> Policy:
    """Return a policy with a rule for each (tier, whether it is a requirement)."""
    made = [
        {"id": f"r{n}", "text": "t", "tier": tier, "by": "llm", "requires": ["x"] if demand else []}
        for n, (tier, demand) in enumerate(rules)
    ]
    return Policy.parse({"id": "p", "version": "1", "title": "t", "decision": decision, "rules": made, **more})


def decided(by: Policy, labels: Sequence[Label]) -> Label:
    verdicts = [RuleVerdict(f"r{n}", label, "why") for n, label in enumerate(labels)]
    return by.decide(verdicts).label


def broken_means(decision: str, rules: Sequence[tuple[str, bool]], broken: Sequence[bool]) -> bool:
    """Say whether a response is non-compliant where every rule has a yes or no: docs/policy.md, word for word."""
    pairs = list(zip(rules, broken, strict=True))
    if decision == "any_violation":
        return any(broken)
    if decision == "any_critical":
        return any(tier == "critical" and bad for (tier, _), bad in pairs)
    if decision == "all_requirements":
        return any((demand or tier == "critical") and bad for (tier, demand), bad in pairs)
    return sum(WEIGHTS[tier] for (tier, _), bad in pairs if bad) >= 8


def counts(decision: str, rule: tuple[str, bool]) -> bool:
    return decision in ("any_violation", "threshold") or broken_means(decision, [rule], [True])


def spelled_out(decision: str, rules: Sequence[tuple[str, bool]], labels: Sequence[Label]) -> Label:
    """Try every answer that the unanswered rules could have; only where all agree there is a verdict."""
    choices = [{C: [False], N: [True]}.get(label, [False, True]) for label in labels]
    ends = {broken_means(decision, rules, broken) for broken in itertools.product(*choices)}
    if len(ends) == 1:
        return N if ends.pop() else C
    open_ones = [label for rule, label in zip(rules, labels, strict=True) if counts(decision, rule)]
    return I if I in open_ones else U


RULES = st.tuples(st.sampled_from(TIERS), st.booleans())


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(DECISIONS), st.lists(RULES, min_size=1, max_size=5), st.data())
def test_a_decision_is_what_its_truth_table_says(decision: str, rules: list[tuple[str, bool]], data: Any) -> None:
    rules = [("critical", True), *rules]
    labels = data.draw(st.tuples(*[st.sampled_from(list(Label))] * len(rules)))
    assert decided(policy(decision, rules), labels) is spelled_out(decision, rules, labels)


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_broken_critical_rule_is_non_compliant_under_every_decision(decision: str) -> None:
    rules = [("critical", False), ("reduced", True), ("high", True)]
    for others in itertools.product(Label, repeat=2):
        assert decided(policy(decision, rules), (N, *others)) is N


@pytest.mark.parametrize(
    ("labels", "label", "reason"),
    [
        ((N, N, C), N, "broken rules weigh 8 of 8; r0: why; r1: why"),
        ((N, C, N), C, "broken rules weigh 6 of 8; r0: why; r2: why"),
        ((N, U, C), U, "r1: why"),
        ((N, U, I), I, "r2: why"),
        ((N, C, I), C, "broken rules weigh 4 of 8; r0: why"),
        ((C, C, C), C, "no rule is broken"),
    ],
)
def test_a_threshold_adds_the_weights_of_tiers(labels: tuple[Label, ...], label: Label, reason: str) -> None:
    by = policy("threshold", [("high", False), ("high", False), ("standard", False)])
    verdict = by.decide([RuleVerdict(f"r{n}", found, "why") for n, found in enumerate(labels)])
    assert (verdict.label, verdict.reason) == (label, reason)


def test_a_rule_that_does_not_decide_is_still_named() -> None:
    verdict = policy("any_critical", [("critical", False), ("high", False)]).decide(
        [RuleVerdict("r0", C, "fine"), RuleVerdict("r1", N, "rude")]
    )
    assert (verdict.label, verdict.reason) == (C, "the broken rules do not decide; r1: rude")


def test_the_threshold_and_its_weights_can_be_set() -> None:
    by = policy("threshold", [("high", False), ("reduced", False)], threshold={"at": 3, "weights": {"reduced": 0}})
    assert [decided(by, labels) for labels in ((N, C), (C, N), (C, I))] == [N, C, C]


@pytest.mark.parametrize(
    ("decision", "tier", "more", "message"),
    [
        ("any_critical", "high", {}, "decision any_critical needs a rule of tier critical, or every response complies"),
        ("all_requirements", "high", {}, "decision all_requirements needs a rule with `requires` or `require`"),
        ("threshold", "high", {}, "never reached: all rules together weigh 4, below threshold.at 8; lower it or raise"),
        (
            "threshold",
            "critical",
            {"threshold": {"at": 9, "weights": {"critical": 8, "high": 9}}},
            "all rules together weigh 8, below threshold.at 9",
        ),
        ("any_violation", "high", {"threshold": {"at": 2}}, "threshold belongs to `decision: threshold`"),
        ("threshold", "high", {"threshold": {"at": 0}}, "threshold.at: 0: Input should be greater than or equal to 1"),
        ("threshold", "high", {"threshold": {"wieghts": {}}}, "threshold.wieghts: unknown key. Did you mean 'weights'"),
        ("threshold", "high", {"threshold": {"weights": {"top": 1}}}, "threshold.weights.top: unknown key"),
        ("any", "high", {}, "decision: 'any': Input should be 'any_violation', 'any_critical', 'all_requirements'"),
    ],
)
def test_a_policy_that_cannot_decide_is_refused(decision: str, tier: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(decision, [(tier, False)], **more)
    assert message in str(caught.value)


def test_a_threshold_above_the_weight_of_a_critical_rule_is_refused() -> None:
    with pytest.raises(PolicyError, match="so a broken critical rule would comply; raise it to the threshold"):
        policy("threshold", [("critical", False), ("critical", False)], threshold={"at": 9})


@pytest.mark.parametrize("names", [(), ("r0",), ("r0", "r0"), ("r0", "r1", "r2"), ("r0", "other")])
def test_a_rule_without_exactly_one_verdict_never_passes(names: tuple[str, ...]) -> None:
    by = policy("any_violation", [("high", False), ("high", False)])
    with pytest.raises(ValueError, match=r"one verdict for each rule is needed \(r0, r1\)"):
        by.decide([RuleVerdict(name, C, "") for name in names])
