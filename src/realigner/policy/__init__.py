"""Policy-as-code: one versioned file of rules, and what its deterministic rules say of a response."""

from __future__ import annotations

from realigner.policy.checks import Check
from realigner.policy.policy import Policy
from realigner.policy.rule import Rule, RuleExample

__all__ = ["Check", "Policy", "Rule", "RuleExample"]
