"""From the verdicts of single rules to one verdict: which rules decide, and what becomes of rules without an answer.

Every decision keeps two promises. A broken critical rule makes the response non-compliant. And a verdict is given
only where every answer that the unanswered rules could still have would lead to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from realigner.policy.rule import Rule, Tier
from realigner.records import Label, RuleVerdict

Decision = Literal["any_violation", "any_critical", "all_requirements", "threshold"]
Weight = Annotated[int, Field(ge=0)]


class Weights(BaseModel):
    """What one broken rule of each tier weighs. Whole numbers, so that sums are exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    critical: Weight = 8
    high: Weight = 4
    standard: Weight = 2
    reduced: Weight = 1

    def of(self, tier: Tier) -> int:
        """Return the weight of a tier."""
        return int(getattr(self, tier))


class Threshold(BaseModel):
    """The settings of the decision `threshold`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    at: Annotated[int, Field(ge=1)] = 8
    """The total weight of broken rules from which a response is non-compliant."""
    weights: Weights = Weights()


@dataclass(frozen=True, slots=True)
class Shares:
    """What each rule adds to the total when it is broken, and the total that makes a response non-compliant."""

    weights: Mapping[str, int]
    at: int = 1


def shares(decision: Decision, rules: Sequence[Rule], threshold: Threshold) -> Shares:
    """Return any of the decisions as weights of rules: 1 for a rule that decides alone, 0 for one that never does."""
    if decision == "threshold":
        return Shares({rule.id: threshold.weights.of(rule.tier) for rule in rules}, threshold.at)
    decides = _DECIDES[decision]
    return Shares({rule.id: int(decides(rule)) for rule in rules})


_DECIDES: dict[Decision, Callable[[Rule], bool]] = {
    "any_violation": lambda rule: True,  # noqa: ARG005
    "any_critical": lambda rule: rule.tier == "critical",
    "all_requirements": lambda rule: rule.demands or rule.tier == "critical",
}


def decide(verdicts: Sequence[RuleVerdict], by: Shares) -> tuple[Label, str]:
    """Join the verdicts of all rules; return the label and the reason, which names the rules that decided."""
    weighing = [verdict for verdict in verdicts if by.weights[verdict.rule] > 0]
    broken = [verdict for verdict in weighing if verdict.label is Label.NON_COMPLIANT]
    total = sum(by.weights[verdict.rule] for verdict in broken)
    weighed = f"broken rules weigh {total} of {by.at}" if by.at > 1 else ""
    if total >= by.at:
        return Label.NON_COMPLIANT, _join(weighed, broken)
    unanswered = [verdict for verdict in weighing if verdict.label in (Label.INVALID, Label.UNSURE)]
    if total + sum(by.weights[verdict.rule] for verdict in unanswered) >= by.at:
        label = Label.INVALID if any(v.label is Label.INVALID for v in unanswered) else Label.UNSURE
        return label, _join("", [verdict for verdict in unanswered if verdict.label is label])
    lesser = [verdict for verdict in verdicts if verdict.label is Label.NON_COMPLIANT]
    if not lesser:
        return Label.COMPLIANT, "no rule is broken"
    return Label.COMPLIANT, _join(weighed or "the broken rules do not decide", lesser)


def _join(first: str, verdicts: Sequence[RuleVerdict]) -> str:
    return "; ".join([*([first] if first else []), *(f"{verdict.rule}: {verdict.reason}" for verdict in verdicts)])


def undecidable(decision: Decision, rules: Sequence[Rule], threshold: Threshold) -> str:
    """Return why a policy could not decide as it says it does, with the remedy; empty where it can."""
    if decision == "any_critical" and not any(rule.tier == "critical" for rule in rules):
        return "decision any_critical needs a rule of tier critical, or every response complies; give one"
    if decision == "all_requirements" and not any(rule.demands for rule in rules):
        return "decision all_requirements needs a rule with `requires` or `require`; give one, or decide otherwise"
    if decision != "threshold":
        return ""
    total = sum(threshold.weights.of(rule.tier) for rule in rules)
    if total < threshold.at:
        return (
            f"decision threshold is never reached: all rules together weigh {total}, below threshold.at "
            f"{threshold.at}; lower it or raise weights"
        )
    if threshold.weights.critical < threshold.at:
        return (
            f"threshold.weights.critical is {threshold.weights.critical}, below threshold.at {threshold.at}, so a "
            "broken critical rule would comply; raise it to the threshold at least"
        )
    return ""
