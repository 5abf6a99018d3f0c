"""The contract of those who judge single rules; `PolicyOracle` joins their verdicts by the policy's decision rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from realigner.policy import Rule
from realigner.records import Judgement, RuleVerdict

Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class RuleQuestion:
    """Rules that are judged together, in one call, on one response."""

    rules: tuple[Rule, ...]
    question: Judgement


@dataclass(frozen=True, slots=True)
class RuleAnswer:
    """One judge's answer to one RuleQuestion."""

    verdicts: tuple[RuleVerdict, ...]
    """One a rule, in the order of the rules."""
    keep: bool = True
    """Whether the store may remember it: false for errors, refusals, truncations and what could not be read."""
    facts: dict[str, Fact] = field(default_factory=dict)
    """Provenance for the store, in plain JSON values: output mode, attempts, tokens, seconds, model, probability."""


@runtime_checkable
class RuleJudge(Protocol):
    """Judges responses by given rules. Everything that can change its verdicts is in its identity."""

    @property
    def identity(self) -> str:
        """Kind, version of the kind, model and settings. Equal identities give equal verdicts. Never a secret."""
        ...

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield (place in `questions`, answer) exactly once a question, in any order, each as soon as it is known.

        The caller stores each answer before it asks for the next, so that a killed process has paid for nothing
        twice. A question that cannot be answered yields `Label.INVALID` with the reason and `keep=False`.
        """
        ...
