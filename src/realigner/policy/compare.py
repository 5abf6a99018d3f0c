"""What changed between two policies: rules added, dropped, tightened, loosened, changed; in words and as data.

A direction is given only where the file proves it (docs/policy.md has the table, field by field). Text that was
edited has no direction that a program could know: it is `changed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from realigner.policy.decisions import Decision, Threshold
from realigner.policy.policy import Policy
from realigner.policy.rule import Rule
from realigner.policy.rule_changes import TIERS, Direction, FieldChange, or_none, rule_changes


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that is in both policies, written differently."""

    rule: str
    """Its id in the new policy."""
    was: str
    """Its id in the old policy; the same, unless it was renamed."""
    direction: Direction
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class RuleHead:
    """A rule that is in one of the policies only."""

    rule: str
    tier: str
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """The way from an old policy to a new one."""

    old: str
    """Id and version."""
    new: str
    policy: tuple[FieldChange, ...]
    """Edits outside the rules: title, version, decision, order of the rules."""
    added: tuple[RuleHead, ...]
    dropped: tuple[RuleHead, ...]
    changed: tuple[RuleChange, ...]
    unchanged: tuple[str, ...]
    judged_again: tuple[str, ...]
    """Rules of the new policy that need a judge and whose `hash` the old policy does not have: what an edit costs."""

    def __bool__(self) -> bool:
        return bool(self.policy or self.added or self.dropped or self.changed)

    def rules(self, direction: Direction) -> list[str]:
        """Return the ids of the rules that changed in one direction."""
        return [change.rule for change in self.changed if change.direction == direction]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the difference for people."""
        kinds = ", ".join(f"{len(self.rules(d))} {_IN_WORDS[d]}" for d in get_args(Direction))
        head = f"{len(self.unchanged)} rules unchanged, {len(self.added)} added, {len(self.dropped)} dropped, {kinds}"
        lines = [f"{self.old} -> {self.new}", head]
        lines += [f"policy: {change.words}{_note(change)}" for change in self.policy]
        lines += [f"added: {_head_words(rule)}" for rule in self.added]
        lines += [f"dropped: {_head_words(rule)}" for rule in self.dropped]
        for change in self.changed:
            lines.append(f"{_IN_WORDS[change.direction]}: {change.rule}")
            mixed = len({field.direction for field in change.changes}) > 1
            lines += [f"    {field.words}{_note(field) if mixed else ''}" for field in change.changes]
        again = ", ".join(self.judged_again) or "none"
        return [*lines, f"to be judged again: {again}"]


_IN_WORDS: dict[Direction, str] = {
    "tightened": "tightened",
    "loosened": "loosened",
    "changed": "changed",
    "no_effect": "changed without effect",
}


def _note(change: FieldChange) -> str:
    return f" ({_IN_WORDS[change.direction]})" if change.direction in ("tightened", "loosened") else ""


def _head_words(rule: RuleHead) -> str:
    return f"{rule.rule} ({rule.tier}, by {rule.by}): {rule.text}"


def compare(old: Policy, new: Policy) -> PolicyDiff:
    """Return what changed from `old` to `new`; it is empty (false) exactly where their hashes are equal.

    Rules belong together by their id; of those that are left, by their hash: such a rule was renamed.
    """
    pairs = _pairs(old.rules, new.rules)
    before, after = {a.id for a, _ in pairs}, {b.id for _, b in pairs}
    changes = [(b.id, a.id, tuple(rule_changes(a, b))) for a, b in pairs]
    known = {rule.hash for rule in old.rules if rule.by != "rules"}
    return PolicyDiff(
        old=f"{old.id} {old.version}",
        new=f"{new.id} {new.version}",
        policy=tuple(_policy_changes(old, new, [(a.id, b.id) for a, b in pairs])),
        added=tuple(_head(rule) for rule in new.rules if rule.id not in after),
        dropped=tuple(_head(rule) for rule in old.rules if rule.id not in before),
        changed=tuple(RuleChange(now, was, _joined(found), found) for now, was, found in changes if found),
        unchanged=tuple(now for now, _, found in changes if not found),
        judged_again=tuple(rule.id for rule in new.wording_rules if rule.hash not in known),
    )


def _pairs(old: Sequence[Rule], new: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Return the rules that belong together, in the order of the new policy."""
    by_id = {rule.id: rule for rule in old}
    new_ids = {rule.id for rule in new}
    left = [rule for rule in old if rule.id not in new_ids]
    pairs = []
    for rule in new:
        found = by_id.get(rule.id) or next((one for one in left if one.hash == rule.hash), None)
        if found is not None:
            pairs.append((found, rule))
            left = [one for one in left if one is not found]
    return pairs


def _head(rule: Rule) -> RuleHead:
    return RuleHead(rule.id, rule.tier, rule.by, rule.text)


def _joined(changes: Sequence[FieldChange]) -> Direction:
    """One direction stays one; both, or an edit without a direction, are `changed`."""
    found = {change.direction for change in changes} - {"no_effect"}
    return found.pop() if len(found) == 1 else "changed" if found else "no_effect"


def _policy_changes(old: Policy, new: Policy, pairs: Sequence[tuple[str, str]]) -> Iterator[FieldChange]:
    for field in ("id", "version", "title", "supersedes"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield FieldChange(field, "no_effect", f"{field} {or_none(after)} instead of {or_none(before)}")
    if old.decision != new.decision:
        words = f"decision {new.decision} instead of {old.decision}"
        yield FieldChange("decision", _decision_direction(old.decision, new.decision), words)
    elif old.threshold != new.threshold:
        direction = _threshold_direction(old.threshold, new.threshold)
        yield FieldChange("threshold", direction, f"{_threshold_words(new)} instead of {_threshold_words(old)}")
    order = [a for a, _ in sorted(pairs, key=lambda pair: [r.id for r in new.rules].index(pair[1]))]
    if order != [rule.id for rule in old.rules if rule.id in set(order)]:
        yield FieldChange("rules", "no_effect", "the rules stand in another order")


def _decision_direction(old: Decision, new: Decision) -> Direction:
    """Order the decisions by which broken rules they count; each counts critical ones."""
    counts: dict[Decision, set[str]] = {
        "any_violation": {"critical", "demands", "sums", "all"},
        "all_requirements": {"critical", "demands"},
        "threshold": {"critical", "sums"},
        "any_critical": {"critical"},
    }
    if counts[new] > counts[old]:
        return "tightened"
    return "loosened" if counts[new] < counts[old] else "changed"


def _threshold_direction(old: Threshold, new: Threshold) -> Direction:
    """A lower threshold and heavier weights tighten."""
    steps = [old.at - new.at, *(new.weights.of(tier) - old.weights.of(tier) for tier in TIERS)]
    if all(step >= 0 for step in steps):
        return "tightened"
    return "loosened" if all(step <= 0 for step in steps) else "changed"


def _threshold_words(policy: Policy) -> str:
    weights = ", ".join(f"{tier} {policy.threshold.weights.of(tier)}" for tier in TIERS)
    return f"threshold {policy.threshold.at} at weights {weights}"
