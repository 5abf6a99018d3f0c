"""Who judges: anything with an `identity` and a `judge` method that keeps the contract of `Oracle`."""

from __future__ import annotations

from realigner.oracle.asking import ask
from realigner.oracle.build import build_oracle
from realigner.oracle.noise import NoisyOracle
from realigner.oracle.protocol import Oracle
from realigner.oracle.rules import RuleOracle
from realigner.oracle.scripted import ScriptedOracle

__all__ = ["NoisyOracle", "Oracle", "RuleOracle", "ScriptedOracle", "ask", "build_oracle"]
