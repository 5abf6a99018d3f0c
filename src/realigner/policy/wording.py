"""A rule as a human auditor reads it: the question, the same wording that judges get, and the checks in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realigner.policy.describe import describe_checks
from realigner.policy.rule import Rule

_WHO = {
    "rules": "Decided by deterministic checks.",
    "llm": "Decided by a language model that reads this wording.",
    "classifier": "Decided by a classifier.",
}


@dataclass(frozen=True, slots=True)
class AuditorExample:
    """An answer whose label is known."""

    prompt: str
    """What was asked; empty where it does not matter."""
    text: str
    breaks: bool
    why: str


@dataclass(frozen=True, slots=True)
class AuditorWording:
    """Everything that a person needs to judge answers by one rule. Plain text: escape it where it is shown."""

    rule: str
    tier: str
    question: str
    text: str
    applies_when: str
    """Empty where the rule always applies."""
    breaks: tuple[str, ...]
    must: tuple[str, ...]
    allowed: tuple[str, ...]
    no_exceptions: bool
    checks: tuple[str, ...]
    """The rule's checks in words: what decides a deterministic rule, or stands in for the judge of another."""
    judged_by: str
    examples: tuple[AuditorExample, ...]

    def lines(self) -> list[str]:
        """Return the wording as plain lines."""
        parts = [f"{self.rule} ({self.tier}). {self.text}", self.question]
        if self.applies_when:
            parts.append(f"It applies only when {self.applies_when}")
        parts += _listed("It is broken by:", self.breaks)
        parts += _listed("An answer must:", self.must)
        parts += _listed("Allowed:", self.allowed)
        if self.no_exceptions:
            parts.append("There are no exceptions.")
        parts += _listed(self.judged_by, self.checks) or [self.judged_by]
        parts += _listed("Examples:", [_example(example) for example in self.examples])
        return parts


def auditor_wording(rule: Rule) -> AuditorWording:
    """Return what an auditor is shown of one rule. It holds what the judge is told, and says who judged."""
    judged_by = _WHO[rule.by]
    if rule.by != "rules" and rule.has_checks:
        judged_by += " Where no judge is configured, these checks may stand in:"
    return AuditorWording(
        rule=rule.id,
        tier=rule.tier,
        question="Does the answer keep this rule? Where the rule does not apply, it is kept.",
        text=rule.text,
        applies_when=rule.applies_when or "",
        breaks=rule.violates,
        must=rule.requires,
        allowed=rule.allowed,
        no_exceptions=rule.zero_tolerance,
        checks=describe_checks(rule),
        judged_by=judged_by,
        examples=tuple(AuditorExample(e.prompt, e.text, e.label == "non_compliant", e.why) for e in rule.examples),
    )


def _listed(head: str, entries: Sequence[str]) -> list[str]:
    return [head, *(f"- {entry}" for entry in entries)] if entries else []


def _example(example: AuditorExample) -> str:
    asked = f"asked {example.prompt!r}, " if example.prompt else ""
    return f"{asked}{example.text!r} {'breaks' if example.breaks else 'keeps'} the rule: {example.why}"
