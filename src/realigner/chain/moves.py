"""What a new policy moves: pairs from one outcome to another, by rule. Counted while pairs stream by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from realigner.policy.record import PolicyRecord
from realigner.records import Label, Outcome, Verdict

Status = Literal["kept", "edited", "added", "dropped"]
DECISION = "(decision)"
"""Stands for the policy's decision and the tiers of its rules: outcomes changed though no rule's verdict did."""


@dataclass(frozen=True, slots=True)
class RulePair:
    """A rule of the new policy, of the old one, or of both."""

    rule: str
    """Its id in the new policy, or in the old one where it was dropped."""
    was: str | None
    """Its id in the old policy."""
    status: Status


def pair_rules(old: PolicyRecord, new: PolicyRecord) -> list[RulePair]:
    """Return what became of each rule, in the order of the new policy, dropped ones last.

    Rules belong together by their hash (then the rule is kept, under whatever id), else by their id (edited).
    """
    unmatched = list(old.rules)
    found: dict[str, RulePair] = {}
    for by, status in (("hash", "kept"), ("id", "edited")):
        for rule in new.rules:
            if rule.id in found:
                continue
            same = [before for before in unmatched if getattr(before, by) == getattr(rule, by)]
            if same:
                # Of several rules of the same wording, the one of the same id.
                before = next((item for item in same if item.id == rule.id), same[0])
                unmatched.remove(before)
                found[rule.id] = RulePair(rule.id, before.id, "kept" if status == "kept" else "edited")
    pairs = [found.get(rule.id, RulePair(rule.id, None, "added")) for rule in new.rules]
    return [*pairs, *(RulePair(rule.id, rule.id, "dropped") for rule in unmatched)]


@dataclass(slots=True)
class Moves:
    """Counts of pairs by what the old and the new policy make of them. Its size does not grow with the pairs.

    Args:
        rules: what became of each rule.
    """

    rules: list[RulePair]
    matrix: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    """Pairs by (old outcome, new outcome)."""
    by_rule: Counter[tuple[str, Outcome, Outcome]] = field(default_factory=Counter)
    """Pairs whose outcome changed, by a rule whose own verdict changed on a response that decides. A pair counts
    under each such rule."""
    flips: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Responses by (rule, its old label, its new label), where these differ; `absent` for a rule that is not there."""
    only_old: int = 0
    """Pairs that the old run has and the new data has not."""
    only_new: int = 0
    """Pairs of the new data that the old run has not."""

    def add(
        self, old: tuple[Verdict, Verdict], new: tuple[Verdict, Verdict], outcomes: tuple[Outcome, Outcome]
    ) -> list[str]:
        """Count one pair by the verdicts on (chosen, rejected); return the rules behind a change of its outcome."""
        before, after = outcomes
        self.matrix[before, after] += 1
        behind: list[str] = []
        for was, now in zip(old, new, strict=True):
            flipped = self._flipped(was, now)
            if before is not after and was.label is not now.label:
                behind += flipped or [DECISION]
        behind = list(dict.fromkeys(behind))
        for rule in behind:
            self.by_rule[rule, before, after] += 1
        return behind

    def _flipped(self, was: Verdict, now: Verdict) -> list[str]:
        """Return the rules that judge a response otherwise than before. A rule that is absent breaks nothing."""
        before = {verdict.rule: verdict.label.value for verdict in was.rules}
        after = {verdict.rule: verdict.label.value for verdict in now.rules}
        flipped = []
        for rule in self.rules:
            first = ABSENT if rule.was is None else before.get(rule.was, ABSENT)
            last = ABSENT if rule.status == "dropped" else after.get(rule.rule, ABSENT)
            if first != last and {first, last} != {ABSENT, Label.COMPLIANT.value}:
                self.flips[rule.rule, first, last] += 1
                flipped.append(rule.rule)
        return flipped

    @property
    def pairs(self) -> int:
        """Pairs that both policies judged."""
        return self.matrix.total()

    @property
    def changed(self) -> int:
        """Pairs whose outcome changed."""
        return sum(count for (before, after), count in self.matrix.items() if before is not after)

    @property
    def debt(self) -> dict[str, int]:
        """The alignment debt: pairs that a model trained under the old policy has to be taught again, by kind.

        `new_conflicts`: retained before, a conflict now. `turned`: INVERT to PUNISH or back. `released`: a conflict
        before, retained now. Not in it: moves to and from UNDECIDED, and between CONFIRM and NEUTRAL, which only add or
        drop the old preference that `loss.confirm` keeps in training.
        """
        debt = Counter({"new_conflicts": 0, "turned": 0, "released": 0})
        for (before, after), count in self.matrix.items():
            if before.is_retained and after.is_conflict:
                debt["new_conflicts"] += count
            elif before.is_conflict and after.is_conflict and before is not after:
                debt["turned"] += count
            elif before.is_conflict and after.is_retained:
                debt["released"] += count
        return dict(debt)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the matrix has every outcome, with 0 where nothing was found."""
        rows = [*self.rules, *([RulePair(DECISION, DECISION, "edited")] if self._by_decision() else [])]
        return {
            "pairs": self.pairs,
            "changed": self.changed,
            "debt": {"pairs": sum(self.debt.values()), **self.debt},
            "matrix": {
                before.value: {after.value: self.matrix[before, after] for after in Outcome} for before in Outcome
            },
            "rules": [
                {
                    "rule": rule.rule,
                    "was": rule.was,
                    "status": rule.status,
                    "changed": sum(n for (name, _, _), n in self.by_rule.items() if name == rule.rule),
                    "moves": [
                        {"from": before.value, "to": after.value, "pairs": count}
                        for (name, before, after), count in sorted(self.by_rule.items())
                        if name == rule.rule
                    ],
                    "flips": [
                        {"from": first, "to": last, "responses": count}
                        for (name, first, last), count in sorted(self.flips.items())
                        if name == rule.rule
                    ],
                }
                for rule in rows
            ],
            "only_old": self.only_old,
            "only_new": self.only_new,
        }

    def _by_decision(self) -> bool:
        return any(name == DECISION for name, _, _ in self.by_rule)


ABSENT = "absent"


def read_matrix(content: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Return the rows of a stored matrix: (old outcome, pairs by new outcome in the order of `Outcome`)."""
    return [(name, [int(row[after.value]) for after in Outcome]) for name, row in content["matrix"].items()]
