"""What people decided in an earlier run, as far as it still stands: for every rule that did not change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from realigner.policy.record import PolicyRecord
from realigner.records import Label, RuleVerdict, TriagedPair, Verdict, prompt_key, text_hash
from realigner.triaging.human import SAID, SIDES


class People:
    """Finds what people said of single rules in the verdicts of a run.

    A rule that they named as broken is broken. Where they found a response compliant and the old policy lets no broken
    rule pass (`any_violation`), it keeps every rule. Of other rules they said nothing.

    Args:
        old: the policy that they decided under.
        new: the policy now.
        used: how many responses they decided, as the run says.
    """

    def __init__(self, old: PolicyRecord, new: PolicyRecord, used: int) -> None:
        self._rules, self._any_breaks = len(old.rules), old.decision == "any_violation"
        by_hash = {rule.hash: rule.id for rule in reversed(old.rules)}
        self._was = {rule.id: by_hash[rule.hash] for rule in new.rules if rule.hash in by_hash}
        self.decided = used
        """Responses that they decided under the old policy."""
        self.kept = 0
        """Of these, the ones of which something stands under the new policy."""

    def known(self, verdict: Verdict) -> dict[str, RuleVerdict]:
        """Return what stands of a verdict, by the rule's id now; empty where no people decided."""
        if not self.decided:
            return {}
        said = {rule.rule: rule.label for rule in verdict.rules if rule.reason == SAID}
        whole = len(verdict.rules) < self._rules and verdict.reason.startswith(SAID)
        if whole and verdict.label is Label.COMPLIANT and self._any_breaks:
            return {rule: RuleVerdict(rule, Label.COMPLIANT, SAID) for rule in self._was}
        return {rule: RuleVerdict(rule, said[was], SAID) for rule, was in self._was.items() if was in said}

    def write(self, item: TriagedPair, policy: str, lines: TextIO) -> None:
        """Write what stands of a pair's verdicts, as the next run's `human.path` takes it, and count it."""
        for line in self._lines(item, policy):
            self.kept += 1
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _lines(self, item: TriagedPair, policy: str) -> Iterator[dict[str, Any]]:
        texts = (item.pair.chosen, item.pair.rejected)
        for side, text, verdict in zip(SIDES, texts, (item.chosen_verdict, item.rejected_verdict), strict=True):
            known = self.known(verdict)
            if known:
                yield {
                    "id": item.pair.id,
                    "side": side,
                    "by_rule": {rule: said.label.value for rule, said in known.items()},
                    "policy": policy,
                    "text": text_hash(prompt_key(item.pair.prompt), text),
                }
