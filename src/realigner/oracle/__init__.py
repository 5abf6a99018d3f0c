"""Who judges: anything with an `identity` and a `judge` method that keeps the contract of `Oracle`."""

from __future__ import annotations

from realigner.oracle.asking import ask
from realigner.oracle.build import build_oracle, open_oracle
from realigner.oracle.judge import RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.noise import NoisyOracle
from realigner.oracle.policy_oracle import PolicyOracle
from realigner.oracle.protocol import Oracle
from realigner.oracle.rule_judges import ScriptedRuleJudge
from realigner.oracle.rules import RuleOracle
from realigner.oracle.scripted import ScriptedOracle
from realigner.oracle.store import VerdictStore

__all__ = [
    "NoisyOracle",
    "Oracle",
    "PolicyOracle",
    "RuleAnswer",
    "RuleJudge",
    "RuleOracle",
    "RuleQuestion",
    "ScriptedOracle",
    "ScriptedRuleJudge",
    "VerdictStore",
    "ask",
    "build_oracle",
    "open_oracle",
]
