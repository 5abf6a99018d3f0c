"""realigner: re-align a language model to a new policy with the preference data you already have.

The public names are imported on first use, so that `import realigner` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Oracle": "realigner.oracle",
    "Outcome": "realigner.records",
    "Pair": "realigner.records",
    "Policy": "realigner.policy",
    "PolicyOracle": "realigner.oracle",
    "Recipe": "realigner.recipe",
    "RuleOracle": "realigner.oracle",
    "ScriptedOracle": "realigner.oracle",
    "TraceConfig": "realigner.train",
    "TraceTrainer": "realigner.train",
    "VerdictStore": "realigner.oracle",
    "impact_weights": "realigner.impact",
    "losses": "realigner.losses",
    "migrate": "realigner.chain.migrate",
    "read_pairs": "realigner.data",
    "run": "realigner.pipeline",
    "triage": "realigner.triaging",
}
__all__ = [
    "Oracle",
    "Outcome",
    "Pair",
    "Policy",
    "PolicyOracle",
    "Recipe",
    "RuleOracle",
    "ScriptedOracle",
    "TraceConfig",
    "TraceTrainer",
    "VerdictStore",
    "impact_weights",
    "losses",
    "migrate",
    "read_pairs",
    "run",
    "triage",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'realigner' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = home if home.__name__ == f"realigner.{name}" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


if TYPE_CHECKING:
    from realigner import losses as losses
    from realigner.chain.migrate import migrate as migrate
    from realigner.data import read_pairs as read_pairs
    from realigner.impact import impact_weights as impact_weights
    from realigner.oracle import Oracle as Oracle
    from realigner.oracle import PolicyOracle as PolicyOracle
    from realigner.oracle import RuleOracle as RuleOracle
    from realigner.oracle import ScriptedOracle as ScriptedOracle
    from realigner.oracle import VerdictStore as VerdictStore
    from realigner.pipeline import run as run
    from realigner.policy import Policy as Policy
    from realigner.recipe import Recipe as Recipe
    from realigner.records import Outcome as Outcome
    from realigner.records import Pair as Pair
    from realigner.train import TraceConfig as TraceConfig
    from realigner.train import TraceTrainer as TraceTrainer
    from realigner.triaging import triage as triage
