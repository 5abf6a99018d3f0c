"""An old policy beside the new one: which of its rules are broken, superseded or kept."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from realigner.discover.pointwise import vote_of
from realigner.errors import PolicyError
from realigner.evaluate.statistics import proportion
from realigner.policy import Policy, Rule
from realigner.policy.shipped import is_shipped
from realigner.records import Outcome, Pair

logger = logging.getLogger(__name__)

Fate = Literal["broken", "superseded", "kept", "mixed", "too few"]
LEAST_PAIRS = 10
"""Decided pairs below which nothing is said of a rule's fate."""
TABLE = (Outcome.INVERT, Outcome.PUNISH, Outcome.CONFIRM, Outcome.NEUTRAL)


@dataclass(frozen=True)
class OldPolicy:
    """The rules of an old policy, and what each says of a pair."""

    policy: Policy
    evidence: Mapping[str, tuple[frozenset[str], frozenset[str]]]
    """For rules by wording: ids of the pairs they support and oppose, as discovery found them."""
    unrelated: Mapping[str, str]
    """Pair id -> the named bias that alone explains its preference, as discovery found it."""

    @classmethod
    def load(cls, path: str | Path, allow_code: bool = False) -> OldPolicy:
        """Read a policy file, documented or recovered; with the JSON file of a discovery beside it, also that.

        Raises:
            PolicyError: there is no policy there, or no rule of it can be judged.
        """
        if not (is_shipped(path) or Path(path).exists()):
            raise PolicyError(
                f"old policy {path}", "there is no such file", "Correct the path, or recover it: realigner discover"
            )
        policy = Policy.load(path, allow_code=allow_code)
        found = _found_beside(Path(path), policy)
        evidence = {
            str(rule["id"]): (frozenset(rule["supports"]), frozenset(rule["opposes"]))
            for rule in found.get("rules", ())
        }
        unrelated = {i: str(name) for name, ids in found.get("unrelated", {}).items() for i in ids}
        old = cls(policy, evidence, unrelated)
        if not old.rules:
            raise PolicyError(
                f"old policy {path}: every rule is judged by its wording",
                "what an old rule says of a pair comes from its checks, or from the JSON file that discover writes",
                "Keep that file beside the policy under its own name, or give the rules checks",
            )
        return old

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that can be judged: by checks, or from the evidence."""
        return tuple(rule for rule in self.policy.rules if rule.by == "rules" or rule.id in self.evidence)

    @property
    def not_judged(self) -> tuple[str, ...]:
        """Ids of the other rules."""
        judged = {rule.id for rule in self.rules}
        return tuple(rule.id for rule in self.policy.rules if rule.id not in judged)

    def votes(self, pair: Pair) -> dict[str, int]:
        """Return for each rule 1 where it prefers the chosen response, −1 the rejected one, 0 for neither."""
        return {rule.id: self._vote(rule, pair) for rule in self.rules}

    def _vote(self, rule: Rule, pair: Pair) -> int:
        if rule.by != "rules":
            supports, opposes = self.evidence[rule.id]
            return (pair.id in supports) - (pair.id in opposes)
        chosen, rejected = (rule.judge(pair.prompt, text).label for text in (pair.chosen, pair.rejected))
        return vote_of(chosen, rejected)


@dataclass
class CrossTable:
    """Old rules × outcomes under the new policy: how many pairs each rule supports, by what becomes of them."""

    counts: dict[str, Counter[Outcome]] = field(default_factory=dict)
    unexplained: int = 0
    """INVERT pairs that no old rule supports."""

    def add(self, votes: Mapping[str, int], outcome: Outcome) -> None:
        """Count one pair."""
        for rule, vote in votes.items():
            counts = self.counts.setdefault(rule, Counter())
            counts[outcome] += vote > 0
        self.unexplained += outcome is Outcome.INVERT and not any(vote > 0 for vote in votes.values())

    def fate(self, rule: str) -> Fate:
        """Return what the new policy does to a rule, where the 95 % interval of a share is clear of one half.

        `broken`: most pairs that it supports are INVERT, so what it forbade is wanted; `superseded`: most are
        conflicts; `kept`: most are retained; `mixed`: none of these is clear.
        """
        counts = self.counts.get(rule, Counter())
        n = sum(counts[outcome] for outcome in TABLE)
        conflicts = counts[Outcome.INVERT] + counts[Outcome.PUNISH]
        inverted, against = proportion(counts[Outcome.INVERT], n), proportion(conflicts, n)
        if n < LEAST_PAIRS or inverted is None or against is None:
            return "too few"
        if inverted["low"] > 0.5:
            return "broken"
        if against["low"] > 0.5:
            return "superseded"
        return "kept" if against["high"] < 0.5 else "mixed"

    @property
    def surviving(self) -> tuple[str, ...]:
        """The rules that are kept, or neither clearly kept nor clearly given up."""
        return tuple(rule for rule in self.counts if self.fate(rule) in ("kept", "mixed", "too few"))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rules": {
                rule: {"fate": self.fate(rule), **{outcome.value: counts[outcome] for outcome in Outcome}}
                for rule, counts in self.counts.items()
            },
            "unexplained": self.unexplained,
        }

    def lines(self) -> list[str]:
        """Return the table for people."""
        width = max([len("old rule"), *map(len, self.counts)])
        head = "  ".join(f"{outcome.value:>8}" for outcome in TABLE)
        lines = [f"{'old rule':<{width}}  {head}  what becomes of it"]
        for rule, counts in self.counts.items():
            row = "  ".join(f"{counts[outcome]:>8,}" for outcome in TABLE)
            lines.append(f"{rule:<{width}}  {row}  {self.fate(rule)}")
        lines.append(
            f"{self.unexplained:,} pairs that are to be inverted were preferred for a reason that is no old rule"
        )
        return lines


def cross_table(old: OldPolicy, outcomes: Iterable[tuple[Pair, Outcome]]) -> CrossTable:
    """Return the table of pairs whose outcomes under the new policy are known."""
    table = CrossTable({rule.id: Counter() for rule in old.rules})
    for pair, outcome in outcomes:
        table.add(old.votes(pair), outcome)
    return table


def _found_beside(path: Path, policy: Policy) -> dict[str, Any]:
    """Return the discovery that lies beside a recovered policy, if it is of this very policy."""
    data = path.with_suffix(".json")
    if not data.is_file():
        return {}
    try:
        found = json.loads(data.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s lies beside the old policy and is not used: it cannot be read (%s)", data, error)
        return {}
    if not isinstance(found, dict) or "policy_hash" not in found:
        return {}  # some other file of that name
    if found["policy_hash"] != policy.hash:
        logger.warning("%s is not used: the policy beside it was changed since it was discovered", data)
        return {}
    return found
