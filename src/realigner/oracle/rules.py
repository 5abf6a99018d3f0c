"""The oracle that is the policy's own deterministic rules."""

from __future__ import annotations

from collections.abc import Sequence

from realigner.policy import Policy
from realigner.records import Judgement, Verdict

VERSION = 1
"""Raise it when a check begins to judge differently: stored verdicts are then not taken for new ones."""


class RuleOracle:
    """Judges by the policy's checks alone: free, repeatable, and no better than they are.

    Args:
        policy: the policy.
        fallbacks: let the checks of wording rules stand in for their judge. The identity then names these rules.

    Raises:
        OracleError: a rule needs a judge.
    """

    def __init__(self, policy: Policy, fallbacks: bool = False) -> None:
        policy.refuse_without_judge(fallbacks)
        self._policy, self._fallbacks = policy, fallbacks

    @property
    def identity(self) -> str:
        """`rules/VERSION:POLICY_HASH`, and `:fallbacks=RULE,RULE` where checks stand in for a judge."""
        stand_ins = ",".join(rule.id for rule in self._policy.wording_rules)
        return f"rules/{VERSION}:{self._policy.hash}{f':fallbacks={stand_ins}' if stand_ins else ''}"

    def judge(self, questions: Sequence[Judgement]) -> list[Verdict]:
        """Return the policy's verdict on each question, in order."""
        return [self._policy.judge(question.prompt, question.response, self._fallbacks) for question in questions]
