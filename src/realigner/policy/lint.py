"""What is wrong with a policy that loads: contradictions (errors), and wording that judges will read differently.

An error is a fault that the file proves: no answer could keep both rules, or an exception could never count. All
else, such as a vague word, is a warning for a person to weigh.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

import regex

from realigner.policy.base import quote
from realigner.policy.policy import Policy
from realigner.policy.prompt import estimated_tokens, instructions
from realigner.policy.relation import same_check
from realigner.policy.rule import Rule
from realigner.policy.text_checks import LengthCheck, WordsCheck
from realigner.policy.words import fold

MOST_TOKENS = 600
"""Estimated tokens of a compiled prompt above which judges begin to lose parts of it."""

VAGUE = (
    "acceptable", "adequate", "and so on", "appropriate", "as needed", "as necessary", "bad", "best effort",
    "common sense", "etc", "excessive", "excessively", "fair", "fairly", "generally", "good", "helpful", "if needed",
    "if possible", "improper", "inappropriate", "in general", "in most cases", "mostly", "normally", "often",
    "problematic", "proper", "properly", "questionable", "reasonable", "reasonably", "relevant", "sensible",
    "sensitive", "significant", "sometimes", "suitable", "too much", "typically", "undue", "unreasonable",
    "unsuitable", "usually", "where possible", "when appropriate",
)  # fmt: skip
"""Words that move the decision from the rule to the judge's taste."""
_VAGUE = regex.compile(rf"\b(?:{'|'.join(map(regex.escape, VAGUE))})\b", regex.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One fault of a policy."""

    level: Literal["error", "warning"]
    code: str
    """What kind of fault, e.g. `vague`; docs/policy.md lists them."""
    rules: tuple[str, ...]
    """The rules concerned; empty for the policy as a whole."""
    text: str
    remedy: str

    def __str__(self) -> str:
        where = f" {', '.join(self.rules)}:" if self.rules else ""
        return f"{self.level:<8} {self.code:<22}{where} {self.text}. {self.remedy}"

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {**asdict(self), "rules": list(self.rules)}


def lint(policy: Policy) -> list[LintFinding]:
    """Return the faults of a policy, errors first."""
    found = [finding for rule in policy.rules for finding in _rule(rule)]
    found += [finding for pair in itertools.combinations(policy.rules, 2) for finding in _pair(*pair)]
    found += [*_lengths(policy.rules), *_idle(policy)]
    return sorted(found, key=lambda finding: finding.level != "error")


def _rule(rule: Rule) -> Iterator[LintFinding]:
    yield from _contradictions(rule)
    yield from _examples(rule)
    if rule.by == "rules":
        return
    yield from _vague(rule)
    tokens = estimated_tokens(instructions([rule]))
    if tokens > MOST_TOKENS:
        yield _warning(
            "long",
            [rule],
            f"its prompt has about {tokens} tokens, over {MOST_TOKENS}",
            "Split the rule, or shorten its examples",
        )
    for line in rule.check_examples() if rule.has_checks else ():
        yield _warning("fallback", [rule], f"by its fallback, {line}", "Correct the checks, or leave it to the judge")


def _contradictions(rule: Rule) -> Iterator[LintFinding]:
    for first, second in (("violates", "allowed"), ("violates", "requires")):
        for entry in _common(getattr(rule, first), getattr(rule, second)):
            yield _error(
                "contradiction", [rule], f"{quote(entry)} stands under {first} and {second}", "Remove one of the two"
            )
    if rule.zero_tolerance and (rule.allowed or rule.unless is not None):
        kind = "allowed" if rule.allowed else "unless"
        yield _error(
            "zero-tolerance", [rule], f"it has zero_tolerance and an exception ({kind})", "Remove one of the two"
        )
    if rule.forbid is not None and rule.unless is not None and same_check(rule.forbid, rule.unless):
        yield _error("never-broken", [rule], "what `forbid` finds, `unless` excuses", "Correct one of them")
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for example in rule.examples:
        labels[fold(example.prompt), fold(example.text)].add(example.label)
    for (_, text), found in labels.items():
        if len(found) > 1:
            yield _error(
                "contradiction", [rule], f"the example {quote(text)} is labelled both ways", "Remove one of the two"
            )


def _examples(rule: Rule) -> Iterator[LintFinding]:
    labels = {example.label for example in rule.examples}
    if not labels:
        why = "nothing tests it" if rule.by == "rules" else "a judge is shown no case"
        yield _warning("no-example", [rule], f"it has no example, so {why}", "Give one of each label")
    elif len(labels) == 1 and rule.by != "rules":
        missing = "compliant" if "non_compliant" in labels else "non_compliant"
        yield _warning(
            "one-sided-examples",
            [rule],
            f"no example is {missing}, which draws a judge to the other answer",
            "Give one",
        )


def _vague(rule: Rule) -> Iterator[LintFinding]:
    fields = {
        "text": [rule.text],
        "applies_when": [rule.applies_when or ""],
        "violates": rule.violates,
        "allowed": rule.allowed,
        "requires": rule.requires,
    }
    for field, entries in fields.items():
        words = sorted({match.lower() for entry in entries for match in _VAGUE.findall(entry)})
        if words:
            shown = ", ".join(map(quote, words))
            yield _warning("vague", [rule], f"{field} says {shown}", "Say what can be seen in an answer instead")


def _pair(one: Rule, other: Rule) -> Iterator[LintFinding]:
    """Compare two rules. Where both always apply, a clash is proved; otherwise it may never come about."""
    both = [one, other]
    if one.hash == other.hash:
        if one.tier != other.tier:
            tiers = f"{one.tier} and {other.tier}"
            yield _error("duplicate", both, f"they are the same rule at the tiers {tiers}", "Remove one")
        else:
            yield _warning("duplicate", both, "they are the same rule", "Remove one, or it counts twice")
        return
    if _key(one.text) == _key(other.text):
        yield _warning("duplicate", both, "they have the same text", "Say in the text how they differ")
    always = all(rule.applies_when is None and rule.when is None for rule in both)
    for first, second in ((one, other), (other, one)):
        for entry in _common(first.requires, second.violates):
            text = f"{quote(entry)} is required by {first.id} and breaks {second.id}"
            where = "" if always else " wherever both apply"
            make = _error if always else _warning
            yield make("contradiction", [first, second], f"{text}{where}", "No answer can keep both; correct one")
        for entry in _common(first.allowed, second.violates):
            yield _warning(
                "precedence",
                [first, second],
                f"{quote(entry)} is allowed by {first.id} and breaks {second.id}; every rule is judged by itself, so "
                f"the exception does not reach {second.id}",
                f"Repeat the exception in {second.id}, or remove it",
            )
        if always and _required_is_forbidden(first, second):
            yield _error(
                "contradiction",
                [first, second],
                f"every word that {first.id} requires is forbidden by {second.id}",
                "No answer can keep both; correct one",
            )


def _required_is_forbidden(first: Rule, second: Rule) -> bool:
    required, forbidden = first.require, second.forbid
    if not isinstance(required, WordsCheck) or not isinstance(forbidden, WordsCheck):
        return False
    if first.by != "rules" or second.by != "rules" or first.unless is not None or second.unless is not None:
        return False
    same_text = (required.where or "response") == (forbidden.where or "response")
    return same_text and {fold(word) for word in required.words} <= {fold(word) for word in forbidden.words}


def _lengths(rules: Sequence[Rule]) -> Iterator[LintFinding]:
    """Length bounds of rules that always apply and except nothing must leave some length free."""
    bound = [
        (rule, rule.require.length)
        for rule in rules
        if rule.by == "rules"
        and isinstance(rule.require, LengthCheck)
        and (rule.require.where or "response") == "response"
        and rule.when is None
        and rule.unless is None
    ]
    for (one, a), (other, b) in itertools.combinations(bound, 2):
        if a.unit != b.unit:
            continue
        for low, high in ((a, b), (b, a)):
            if low.min is not None and high.max is not None and low.min > high.max:
                yield _error(
                    "contradiction",
                    [one, other],
                    f"one requires at least {low.min} {low.unit}, the other at most {high.max}",
                    "No answer can keep both; correct one",
                )


def _idle(policy: Policy) -> Iterator[LintFinding]:
    idle = [rule for rule in policy.rules if policy.shares.weights[rule.id] == 0]
    if idle:
        yield _warning(
            "never-decides",
            idle,
            f"under the decision {policy.decision} a response may break them and comply",
            "Keep them for the report, or choose another decision, tier or weight",
        )


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    if not one or not other:
        return []
    folded = {_key(entry) for entry in other}
    return [entry for entry in one if _key(entry) in folded]


@lru_cache(maxsize=4096)  # every rule is compared with every other
def _key(entry: str) -> str:
    return fold(entry).strip(" .")


def _error(code: str, rules: Sequence[Rule], text: str, remedy: str) -> LintFinding:
    return LintFinding("error", code, tuple(rule.id for rule in rules), text, remedy)


def _warning(code: str, rules: Sequence[Rule], text: str, remedy: str) -> LintFinding:
    return LintFinding("warning", code, tuple(rule.id for rule in rules), text, remedy)
