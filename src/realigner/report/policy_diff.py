"""The old policy beside the new one, rule by rule: added, dropped, edited (with the words that changed), unchanged."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from realigner.errors import PolicyError
from realigner.report.rundir import NotMeasured, RunFiles, items, mapping, part

Status = Literal["added", "dropped", "edited", "unchanged"]
MOST_RULES, LONGEST = 300, 2000
Piece = tuple[Literal["same", "old", "new"], str]


@dataclass(frozen=True)
class Rule:
    """A rule as a run remembers it."""

    id: str
    hash: str
    tier: str
    by: str
    text: str


@dataclass(frozen=True)
class RuleDiff:
    """One rule in both policies, or in one."""

    id: str
    was: str
    """Its id in the old policy, where that differs."""
    status: Status
    pieces: tuple[Piece, ...]
    """The wording, with what only the old and what only the new policy says."""
    notes: tuple[str, ...]
    """Changes beside the wording: tier, who judges, checks or examples."""


@dataclass(frozen=True)
class PolicyDiff:
    """The way from the old policy to the new one."""

    old: str
    new: str
    old_hash: str
    rules: tuple[RuleDiff, ...]
    counts: Mapping[Status, int]
    rules_left_out: int


def read_policy_diff(run: RunFiles) -> PolicyDiff:
    """Return what changed from the policy of the run before, or else from the old policy that the recipe names.

    Raises:
        NotMeasured: the recipe names neither, or one of the policies is not recorded.
    """
    new = mapping(run.facts("triage").get("policy"))
    if not items(new.get("rules")):
        raise NotMeasured("triage did not record the rules of the new policy")
    if part(lambda r: r.recipe("previous"), run).value is not None:
        chain = items(run.json("previous.json").get("chain"))
        if not chain:
            raise NotMeasured("previous.json names no earlier policy")
        old = mapping(mapping(chain[-1]).get("policy"))
    else:
        old = _old_policy(run)
    rules = _compared(_rules(old), _rules(new))
    statuses = [rule.status for rule in rules]
    counts: dict[Status, int] = {}
    for status in ("added", "dropped", "edited", "unchanged"):
        counts[status] = statuses.count(status)
    return PolicyDiff(
        old=_name(old),
        new=_name(new),
        old_hash=str(old.get("hash") or "not recorded"),
        rules=tuple(rule for rule in rules if rule.status != "unchanged")[:MOST_RULES],
        counts=counts,
        rules_left_out=max(0, len(rules) - counts["unchanged"] - MOST_RULES),
    )


def word_diff(old: str, new: str) -> tuple[Piece, ...]:
    """Return the words of two texts in order, each said to be in both, in the old or in the new."""
    before, after = re.findall(r"\S+\s*", old), re.findall(r"\S+\s*", new)
    pieces: list[Piece] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(after[c:d])))
            continue
        if a < b:
            pieces.append(("old", "".join(before[a:b])))
        if c < d:
            pieces.append(("new", "".join(after[c:d])))
    return tuple(pieces)


def _old_policy(run: RunFiles) -> Mapping[str, Any]:
    """Return the old policy that the recipe names, read from its file if that is still what triage read."""
    facts = mapping(run.facts("triage").get("old_policy"))
    if not facts:
        raise NotMeasured("the recipe names neither a run before this one (previous) nor an old policy (old_policy)")
    from realigner.policy import Policy
    from realigner.policy.record import PolicyRecord

    path = str(run.recipe("old_policy", "path"))
    if not path.startswith("realigner:") and not Path(path).is_file():
        raise NotMeasured("the file of the old policy is not where it was")
    try:
        policy = Policy.load(path)  # a report runs no code of a policy
    except PolicyError as error:
        raise NotMeasured(f"the old policy cannot be read ({error.rule})") from None
    if policy.hash != facts.get("hash"):
        raise NotMeasured("the file of the old policy is not what it was when the pairs were triaged")
    return PolicyRecord.of(policy).as_dict()


def _rules(policy: Mapping[str, Any]) -> list[Rule]:
    return [
        Rule(*(str(mapping(rule).get(key) or "") for key in ("id", "hash", "tier", "by", "text")))
        for rule in items(policy.get("rules"))
    ]


def _compared(old: Sequence[Rule], new: Sequence[Rule]) -> list[RuleDiff]:
    """Rules belong together by their id; of those that are left, by their hash: such a rule was renamed."""
    by_id = {rule.id: rule for rule in old}
    kept = {rule.id for rule in new}
    by_hash = {rule.hash: rule for rule in old if rule.id not in kept and rule.hash}
    met: set[str] = set()
    rules = []
    for rule in new:
        was = by_id.get(rule.id) or by_hash.pop(rule.hash, None)
        if was is None:
            rules.append(RuleDiff(rule.id, "", "added", (("new", _cut(rule.text)),), _facts(rule)))
            continue
        met.add(was.id)
        rules.append(_edited(was, rule))
    gone = (rule for rule in old if rule.id not in met)
    return [*rules, *(RuleDiff(rule.id, "", "dropped", (("old", _cut(rule.text)),), _facts(rule)) for rule in gone)]


def _edited(was: Rule, rule: Rule) -> RuleDiff:
    notes = [f"{word} {after or 'none'} instead of {before or 'none'}" for word, before, after in _fields(was, rule)]
    if was.hash != rule.hash and not notes and was.text == rule.text:
        notes.append("its checks, exceptions or examples changed")
    same = was.hash == rule.hash and was.id == rule.id and not notes
    return RuleDiff(
        id=rule.id,
        was="" if was.id == rule.id else was.id,
        status="unchanged" if same else "edited",
        pieces=word_diff(_cut(was.text), _cut(rule.text)),
        notes=tuple(notes),
    )


def _fields(was: Rule, rule: Rule) -> Iterable[tuple[str, str, str]]:
    found = (("tier", was.tier, rule.tier), ("judged by", was.by, rule.by))
    return [(word, before, after) for word, before, after in found if before != after]


def _facts(rule: Rule) -> tuple[str, ...]:
    return (f"tier {rule.tier or 'none'}, judged by {rule.by or 'not recorded'}",)


def _name(policy: Mapping[str, Any]) -> str:
    return f"{policy.get('id') or 'not recorded'} {policy.get('version') or ''}".strip()


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
