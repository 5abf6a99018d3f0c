"""From the recipe's words to an oracle. A new kind is one function here and one word in `OracleSettings.kind`."""

from __future__ import annotations

from collections.abc import Callable

from realigner.errors import OracleError
from realigner.oracle.noise import NoisyOracle
from realigner.oracle.protocol import Oracle
from realigner.oracle.rules import RuleOracle
from realigner.oracle.scripted import ScriptedOracle
from realigner.policy import Policy
from realigner.recipe import OracleSettings


def _rules(settings: OracleSettings, policy: Policy) -> Oracle:
    return RuleOracle(policy, settings.fallbacks)


def _scripted(settings: OracleSettings, policy: Policy) -> Oracle:
    if settings.path is None:
        raise OracleError("oracle.kind: scripted", "it needs a file of verdicts", "Set oracle.path")
    return ScriptedOracle.from_file(settings.path, policy)


BUILDERS: dict[str, Callable[[OracleSettings, Policy], Oracle]] = {"rules": _rules, "scripted": _scripted}


def build_oracle(settings: OracleSettings, policy: Policy) -> Oracle:
    """Return the oracle that the recipe asks for.

    Raises:
        OracleError: what it needs is missing or broken; known before the first question.
    """
    oracle = BUILDERS[settings.kind](settings, policy)
    return oracle if settings.noise is None else NoisyOracle(oracle, settings.noise, policy)
