"""From the recipe's words to an oracle.

A new kind of oracle is one function here and one word in `OracleSettings.kind`. A new judge of single rules is one
class of settings in `recipe_judges.py` and one line in `JUDGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from realigner.errors import OracleError
from realigner.oracle.judge import RuleJudge
from realigner.oracle.meter import Meter, Prices
from realigner.oracle.noise import NoisyOracle
from realigner.oracle.policy_oracle import JUDGED, PolicyOracle, remembering
from realigner.oracle.protocol import Oracle
from realigner.oracle.rule_judges import ChecksJudge
from realigner.oracle.rules import VERSION as CHECKS_VERSION
from realigner.oracle.rules import RuleOracle
from realigner.oracle.scripted import ScriptedOracle
from realigner.oracle.store import VerdictStore
from realigner.policy import Policy
from realigner.recipe import OracleSettings
from realigner.recipe_judges import JudgeSettings
from realigner.spent import Spent

STORE = "verdicts.sqlite"


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """What the builder of a judge may need beside its own settings."""

    policy: Policy
    build: Callable[[JudgeSettings], RuleJudge]
    """Builds a member of an ensemble, with its own memory."""
    may_ask: bool = True
    """False: not even to identify itself may a judge ask anybody."""


JUDGES = {
    "rules": "realigner.oracle.rule_judges:build_checks",
    "scripted": "realigner.oracle.rule_judges:build_scripted",
    "http": "realigner.oracle.http.build:build_http",
    "local": "realigner.oracle.local:build_local",
    "guard": "realigner.oracle.guards.judge:build_guard",
    "votes": "realigner.oracle.ensemble:build_votes",
    "cascade": "realigner.oracle.ensemble:build_cascade",
}
"""For each kind of `JudgeSettings` its builder `(settings, context) -> RuleJudge`, imported when it is named. It reads
files and settings, and neither loads a model nor opens a connection: identities are asked for often."""


def build_judge(settings: JudgeSettings, context: JudgeContext) -> RuleJudge:
    """Return the judge of single rules that the settings ask for.

    Raises:
        OracleError: what it needs is missing or broken.
    """
    module, function = JUDGES[settings.kind].split(":")
    judge: RuleJudge = getattr(import_module(module), function)(settings, context)
    return judge


def _rules(settings: OracleSettings, policy: Policy) -> Oracle:
    return RuleOracle(policy, settings.fallbacks)


def _scripted(settings: OracleSettings, policy: Policy) -> Oracle:
    if settings.path is None:
        raise OracleError("oracle.kind: scripted", "it needs a file of verdicts", "Set oracle.path")
    return ScriptedOracle.from_file(settings.path, policy)


def _judges(settings: OracleSettings, policy: Policy) -> Oracle:
    return build_policy_oracle(settings, policy, None, Meter())


BUILDERS: dict[str, Callable[[OracleSettings, Policy], Oracle]] = {
    "rules": _rules,
    "scripted": _scripted,
    "judges": _judges,
}


def build_oracle(settings: OracleSettings, policy: Policy) -> Oracle:
    """Return the oracle that the recipe asks for, to be identified; with `judges` it has no memory and no limits.

    Raises:
        OracleError: what it needs is missing or broken; known before the first question.
    """
    return _with_noise(BUILDERS[settings.kind](settings, policy), settings, policy)


@contextmanager
def open_oracle(
    settings: OracleSettings, policy: Policy, output: str | Path, spent: Spent | None = None
) -> Iterator[Oracle]:
    """Open the oracle that the recipe asks for, to be asked: with its store and its limits.

    Args:
        settings: `oracle` of the recipe, or `evaluate.oracle`.
        policy: the rules.
        output: the run directory; the default store lies beside it.
        spent: what the command has spent before, and where more is added.

    Raises:
        OracleError: what it needs is missing or broken, or another process writes to the store.
    """
    if settings.kind != "judges":
        yield build_oracle(settings, policy)
        return
    with open_policy_oracle(settings, policy, output, spent=spent) as oracle:
        yield _with_noise(oracle, settings, policy)


@contextmanager
def look_into_oracle(
    settings: OracleSettings, policy: Policy, output: str | Path, spent: Spent | None = None
) -> Iterator[Oracle]:
    """Open the oracle to see what it knows and what asking it would take: writes nothing, takes no lock.

    Args:
        settings: as in `open_oracle`, like the other ones.
        policy: the rules.
        output: the run directory.
        spent: what the command would have spent before.

    Raises:
        OracleError: what it needs is missing or broken.
    """
    if settings.kind != "judges":
        yield build_oracle(settings, policy)
        return
    with open_policy_oracle(settings, policy, output, reading=True, spent=spent) as oracle:
        yield _with_noise(oracle, settings, policy)


@contextmanager
def open_policy_oracle(
    settings: OracleSettings,
    policy: Policy,
    output: str | Path,
    *,
    reading: bool = False,
    spent: Spent | None = None,
) -> Iterator[PolicyOracle]:
    """Open the oracle that judges rule by rule, without noise; of kind `rules` or `judges`.

    Args:
        settings: `oracle` of a recipe.
        policy: the rules.
        output: the run directory; the default store lies beside it.
        reading: only look: nothing is written, no lock is taken, and nothing may be asked.
        spent: what the command has spent before, and where more is added.

    Raises:
        OracleError: a rule has no judge, or what a judge needs is missing or broken.
    """
    if settings.kind == "rules":
        policy.refuse_without_judge(settings.fallbacks)
        yield PolicyOracle(policy, dict.fromkeys(JUDGED, ChecksJudge()))
        return
    meter = meter_of(settings, spent)
    path = store_path(settings, output)
    if not reading:
        opened = VerdictStore.open(path)
    else:
        opened = VerdictStore.read(path) if path.exists() else VerdictStore.temporary()
    with opened as store:
        yield build_policy_oracle(settings, policy, store, meter, may_ask=not reading)


def _with_noise(oracle: Oracle, settings: OracleSettings, policy: Policy) -> Oracle:
    return oracle if settings.noise is None else NoisyOracle(oracle, settings.noise, policy)


def judged_by(oracle: Oracle) -> PolicyOracle | None:
    """Return the oracle that asks judges, also beneath noise; None for one that asks nobody."""
    inner = oracle.oracle if isinstance(oracle, NoisyOracle) else oracle
    return inner if isinstance(inner, PolicyOracle) and inner.roles else None


def judges_of(oracle: Oracle) -> dict[str, str]:
    """Return who judges the rules of each `by`; verdicts of two runs compare rule by rule where these are equal.

    Empty for an oracle that judges no single rules, or that makes mistakes on purpose.
    """
    checks = f"checks/{CHECKS_VERSION}"
    if isinstance(oracle, PolicyOracle):
        return {"rules": checks, **oracle.judges}
    if isinstance(oracle, RuleOracle):
        return dict.fromkeys(("rules", *JUDGED), checks)
    return {}


def asked_facts(oracle: Oracle) -> dict[str, Any]:
    """Return what a stage says of the judges it asked, for the manifest; empty where it asked none."""
    judged = judged_by(oracle)
    return {} if judged is None else {"asked": judged.meter.as_dict()}


def build_policy_oracle(
    settings: OracleSettings, policy: Policy, store: VerdictStore | None, meter: Meter, *, may_ask: bool = True
) -> PolicyOracle:
    """Return the oracle of kind `judges` over an open store; `may_ask` as in `JudgeContext`."""

    def member(inner: JudgeSettings) -> RuleJudge:
        return remembering(build_judge(inner, context), store, meter, settings.rules_per_call)

    context = JudgeContext(policy, member, may_ask)
    wanted = {role: getattr(settings, role) for role in JUDGED}
    judges = {role: build_judge(inner, context) for role, inner in wanted.items() if inner is not None}
    return PolicyOracle(policy, judges, store, meter=meter, rules_per_call=settings.rules_per_call)


def meter_of(settings: OracleSettings, spent: Spent | None = None) -> Meter:
    """Return the meter with the recipe's prices and limits.

    Raises:
        OracleError: the price file cannot be used.
    """
    prices = Prices.load(settings.prices) if settings.prices is not None else None
    return Meter(prices, settings.max_calls, settings.max_cost, Spent() if spent is None else spent)


def store_path(settings: OracleSettings, output: str | Path) -> Path:
    """Return where verdicts are remembered: `oracle.store`, or `verdicts.sqlite` beside the run directory."""
    return Path(settings.store) if settings.store is not None else Path(output).parent / STORE
