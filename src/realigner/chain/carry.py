"""Which verdicts of an earlier run still hold: the same rule, judged by the same judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from realigner.chain.people import People
from realigner.oracle import PolicyOracle
from realigner.oracle.build import judges_of
from realigner.policy.record import PolicyRecord
from realigner.records import Label, RuleVerdict, Verdict


class Carry:
    """Takes over verdicts of rules whose hash and whose judge are what they were.

    A renamed, re-tiered or moved rule keeps its verdicts. `invalid` is never taken over: it is asked again. What people
    said of an unchanged rule stands, whoever judges.

    Args:
        old: the policy of the earlier run.
        old_judges: who judged its rules, by `by`, as its manifest says; empty where that is not known.
        new: the policy now.
        oracle: who judges now.
        people: what people decided in the earlier run.
    """

    def __init__(
        self, old: PolicyRecord, old_judges: Mapping[str, Any], new: PolicyRecord, oracle: PolicyOracle, people: People
    ) -> None:
        judges = judges_of(oracle)
        same = {by for by, identity in judges.items() if old_judges.get(by) == identity}
        by_hash = {rule.hash: rule.id for rule in reversed(old.rules) if rule.by in same}
        self._sources = {rule.id: by_hash[rule.hash] for rule in new.rules if rule.hash in by_hash}
        self._people = people
        self.carried: Counter[str] = Counter()
        """Verdicts taken over, by rule id."""

    def verdicts(self, old: Verdict, count: bool = True) -> dict[str, RuleVerdict]:
        """Return what still holds of an old verdict, by the rule's id now."""
        before = {verdict.rule: verdict for verdict in old.rules}
        found = {
            rule: RuleVerdict(rule, before[source].label, before[source].reason)
            for rule, source in self._sources.items()
            if source in before and before[source].label is not Label.INVALID
        }
        found |= self._people.known(old)
        if count:
            self.carried.update(found.keys())
        return found
