"""How two versions of one rule differ, field by field, and which way each edit points where that can be known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from realigner.policy.base import quote
from realigner.policy.describe import describe_checks
from realigner.policy.relation import Relation, relation, same_check
from realigner.policy.rule import Rule, Tier
from realigner.policy.text_checks import WordsCheck

Direction = Literal["tightened", "loosened", "changed", "no_effect"]
"""`no_effect`: it is written differently, and no verdict can differ."""
TIERS = get_args(Tier)
_TURNED: dict[str, Direction] = {"tightened": "loosened", "loosened": "tightened"}
_FIELD_OF_CHECK = ("when", "forbid", "require", "unless")
_MORE_IS: dict[str, Direction] = {
    "when": "tightened",
    "forbid": "tightened",
    "require": "loosened",
    "unless": "loosened",
}
_TARGETS: dict[str, Literal["prompt", "response"]] = {
    "when": "prompt",
    "forbid": "response",
    "require": "response",
    "unless": "response",
}


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One edit of one field."""

    field: str
    direction: Direction
    words: str


def rule_changes(old: Rule, new: Rule) -> Iterator[FieldChange]:
    """Yield every edit from one version of a rule to the next; none exactly where they are written alike."""
    worded = "rules" not in (old.by, new.by)
    both_plain = old.by == new.by == "rules"
    if old.id != new.id:
        yield FieldChange("id", "no_effect", f"renamed from {old.id}")
    if old.tier != new.tier:
        raised = TIERS.index(new.tier) < TIERS.index(old.tier)
        words = f"tier {'raised' if raised else 'lowered'} from {old.tier} to {new.tier}"
        yield FieldChange("tier", "tightened" if raised else "loosened", words)
    if old.by != new.by:
        yield FieldChange("by", "changed", f"judged by {new.by} instead of {old.by}")
    for change in (*_wording_changes(old, new), *_example_changes(old, new)):
        yield FieldChange(change.field, "no_effect", change.words) if both_plain else change
    if old.category != new.category:
        direction: Direction = "changed" if "classifier" in (old.by, new.by) else "no_effect"
        yield FieldChange("category", direction, f"category {or_none(new.category)} instead of {or_none(old.category)}")
    for change in _check_changes(old, new):
        yield FieldChange(f"fallback {change.field}", "changed", f"fallback: {change.words}") if worded else change


def _wording_changes(old: Rule, new: Rule) -> Iterator[FieldChange]:
    if old.text != new.text:
        yield FieldChange("text", "changed", f"text {_quoted(new.text)} instead of {_quoted(old.text)}")
    if old.applies_when != new.applies_when:
        if old.applies_when is None:
            yield FieldChange("applies_when", "loosened", f"now applies only when {new.applies_when}")
        elif new.applies_when is None:
            yield FieldChange("applies_when", "tightened", f"now always applies; before only when {old.applies_when}")
        else:
            words = f"now applies when {new.applies_when}; before when {old.applies_when}"
            yield FieldChange("applies_when", "changed", words)
    for field, come, gone, more in (
        ("violates", "now also breaks it", "no longer breaks it", "tightened"),
        ("requires", "now required", "no longer required", "tightened"),
        ("allowed", "now allowed", "no longer allowed", "loosened"),
    ):
        yield from _list_changes(field, getattr(old, field), getattr(new, field), come, gone, more)  # type: ignore[arg-type]
    if old.zero_tolerance != new.zero_tolerance:
        now = new.zero_tolerance
        words = "now without any exception" if now else "no longer without any exception"
        yield FieldChange("zero_tolerance", "tightened" if now else "loosened", words)


def _list_changes(
    field: str, old: tuple[str, ...], new: tuple[str, ...], come: str, gone: str, more: Direction
) -> Iterator[FieldChange]:
    added, removed = Counter(new) - Counter(old), Counter(old) - Counter(new)
    for entry in added.elements():
        yield FieldChange(field, more, f"{come}: {entry}")
    for entry in removed.elements():
        yield FieldChange(field, _TURNED[more], f"{gone}: {entry}")
    if old != new and not added and not removed:
        yield FieldChange(field, "changed", f"{field}: the same entries in another order")


def _example_changes(old: Rule, new: Rule) -> Iterator[FieldChange]:
    if old.examples != new.examples:
        added = sum(example not in old.examples for example in new.examples)
        removed = sum(example not in new.examples for example in old.examples)
        words = f"{added} added, {removed} removed" if added or removed else "the same ones, arranged otherwise"
        yield FieldChange("examples", "changed", f"examples: {words}")


def _check_changes(old: Rule, new: Rule) -> Iterator[FieldChange]:
    """Compare the checks; a direction holds as far as the checks have an answer."""
    for field in _FIELD_OF_CHECK:
        before, after = getattr(old, field), getattr(new, field)
        if same_check(before, after):
            continue
        direction: Direction = "changed"
        if before is not None and after is not None:
            direction = _by_relation(relation(before, after, _TARGETS[field]), _MORE_IS[field])
        elif field in ("when", "unless") and old.has_checks and new.has_checks:
            direction = "loosened" if before is None else "tightened"
        yield FieldChange(field, direction, _check_words(field, old, new))


def _by_relation(found: Relation, more: Direction) -> Direction:
    if found == "more":
        return more
    if found == "less":
        return _TURNED[more]
    return "no_effect" if found == "same" else "changed"


def _check_words(field: str, old: Rule, new: Rule) -> str:
    before, after = getattr(old, field), getattr(new, field)
    if isinstance(before, WordsCheck) and isinstance(after, WordsCheck) and before.where == after.where:
        added = [quote(word) for word in after.words if word not in before.words]
        removed = [quote(word) for word in before.words if word not in after.words]
        parts = [f"{name} {', '.join(words)}" for name, words in (("added", added), ("removed", removed)) if words]
        return f"{field}: {'; '.join(parts) or 'the same words, arranged otherwise'}"
    now, was = (_sentence(rule, field) for rule in (new, old))
    if now == was:
        return f"{field}: {now} (written otherwise, or its code was edited)"
    return f"{field}: {now}" if was == "none" else f"{field}: {now} Before: {was}"


def _sentence(rule: Rule, field: str) -> str:
    checks = [name for name in _FIELD_OF_CHECK if getattr(rule, name) is not None]
    return describe_checks(rule)[checks.index(field)] if field in checks else "none"


def or_none(text: str | None) -> str:
    """Return a text in quotes, or `none`."""
    return "none" if text is None else _quoted(text)


def _quoted(text: str) -> str:
    return quote(text, 200)
