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
    """Provenance for the store, in plain JSON values: output mode, attempts, model, probability. Four names are read
    by the meter of what was spent: `calls` (requests that the model answered, repair turns included; 1 if absent),
    `input_tokens`, `output_tokens` (over these calls; estimated if absent) and `seconds` (from question to answer)."""


@dataclass(frozen=True, slots=True)
class JudgeCosts:
    """What is known of a judge's costs before it is asked; the plan and the hard stops are made from it."""

    model: str
    """The name under which the price file lists it."""
    paid: bool
    """Whether calls may cost money: then `max_cost` needs a price for the model, were it 0."""
    max_output_tokens: int
    """The most tokens of one answer."""
    concurrency: int = 1
    """Questions that are being answered at the same time."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    most_calls: int = 1
    """The most calls that one question can take, repair turns included."""


@runtime_checkable
class RuleJudge(Protocol):
    """Judges responses by given rules. Everything that can change its verdicts is in its identity.

    More members are looked for and may be absent: `costs: JudgeCosts` (without it, calls cost no money);
    `check() -> str`, called before the first question, which says in one line that the judge can be asked, or raises
    OracleError (no server, wrong key); `free: bool` (asking is as cheap as looking up, so nothing is stored); `note:
    str`, what a plan has to say of it; `streams: bool` (`answer` is given an iterator and takes the next question as it
    has room, so that what comes before a question, such as looking it up, is done while others are being answered);
    and, for those that ask others, `members: Sequence[RuleJudge]` and `asks_all: bool` (false: later members are asked
    at most).
    """

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
