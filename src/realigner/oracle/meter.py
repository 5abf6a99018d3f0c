"""What judges have cost so far, and the limits that no answer may pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realigner.errors import LimitReached, OracleError, did_you_mean
from realigner.oracle.judge import Fact, JudgeCosts, RuleQuestion
from realigner.policy import Rule
from realigner.policy.prompt import instructions
from realigner.spent import Spent
from realigner.strict_yaml import load_yaml

BYTES_PER_TOKEN = 4
"""What English text has on average; the plan says that its tokens are estimated."""
LEAST_BYTES_PER_TOKEN = 2
"""For the limits, which count on the worst."""
FENCES = 600
"""Bytes around the text under judgement in a judge's prompt."""
_AGAIN = "give the same command again: every answer so far is kept"
_NOTHING = Spent()


class Price(BaseModel):
    """What a million tokens of a model cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Return what a call costs."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class Prices(BaseModel):
    """The price file: a currency, and a price for each model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    currency: str = "USD"
    models: dict[str, Price]

    @classmethod
    def load(cls, path: str | Path) -> Prices:
        """Read a YAML file of `currency` and `models: {NAME: {input, output}}`, per million tokens.

        Raises:
            OracleError: there is no such file, or it says something else.
        """
        remedy = "Write `models: {NAME: {input: 2.5, output: 10}}`, each per million tokens; see docs/oracles.md"
        try:
            return cls.model_validate(load_yaml(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise OracleError(f"oracle.prices = {path}", f"it cannot be read ({error.strerror})", remedy) from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise OracleError(f"oracle.prices = {path}", "it is not valid YAML", remedy) from None
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise OracleError(f"oracle.prices = {path}: {place}", fault["msg"].lower(), remedy) from None


@dataclass
class JudgeSpent:
    """What the answers of one judge took."""

    costs: JudgeCosts | None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """None: it is paid and has no price."""

    def add(self, calls: int, input_tokens: int, output_tokens: int, cost: float | None) -> None:
        """Count one answer."""
        self.calls += calls
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.costs.model if self.costs else None,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": None if self.cost is None else round(self.cost, 6),
        }


class HeldBack(LimitReached):
    """A question waits until others, of another judge, are answered: they may take all that a limit leaves."""


@dataclass
class Meter:
    """Counts calls, tokens and money, and refuses what would pass a limit."""

    prices: Prices | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    spent: Spent = field(default_factory=Spent)
    computed: Counter[str] = field(default_factory=Counter)
    """Verdicts that were computed by checks, by rule id."""
    asked: Counter[str] = field(default_factory=Counter)
    """Verdicts that a judge gave now, by rule id."""
    reused: Counter[str] = field(default_factory=Counter)
    """Verdicts that were known, by rule id; the same question asked again counts here."""
    invalid: Counter[str] = field(default_factory=Counter)
    """Verdicts of those asked that could not be had, by rule id."""
    by_judge: dict[str, JudgeSpent] = field(default_factory=dict)
    """What each judge took, by its identity; only those that were asked."""
    may_ask: bool = True
    """Whether judges may be asked at all; where not, what is not remembered raises `NotRemembered`."""
    promised: Spent = field(default_factory=Spent)
    """The most that the questions under way can take; only counted where there are limits."""
    advance: Callable[[int], object] | None = None
    """Told of each answer, for progress."""

    def price(self, costs: JudgeCosts | None) -> Price | None:
        """Return the price of a judge's model; None where calls are free or no price is known.

        Raises:
            OracleError: there is a limit on money, and the model has no price.
        """
        if costs is None or not costs.paid:
            return None
        known = self.prices.models if self.prices else {}
        if costs.model not in known and self.max_cost is not None:
            raise OracleError(
                f"model {costs.model!r} has no price, and max_cost is {self.max_cost:g}",
                "a limit on money needs a price for every model that is paid",
                f"Add it to oracle.prices (0 if it is free).{did_you_mean(costs.model, known)}",
            )
        return known.get(costs.model)

    def promise(self, costs: JudgeCosts | None, question: RuleQuestion) -> Spent | None:
        """Set aside the most that a question can take; None where that, with what others may take, passes a limit.

        Raises:
            OracleError: there is a limit on money, and the model has no price.
        """
        price = self.price(costs)
        if self.max_calls is None and (self.max_cost is None or price is None):
            return _NOTHING
        most = Spent(calls=costs.most_calls if costs else 1)
        if self.max_cost is not None and price is not None and costs is not None:
            most.cost = _worst_cost(price, costs, tokens_of(question, LEAST_BYTES_PER_TOKEN))
        calls, cost = self.spent.calls + self.promised.calls, self.spent.cost + self.promised.cost
        if self.max_calls is not None and calls + most.calls > self.max_calls:
            return None
        if self.max_cost is not None and most.cost and cost + most.cost > self.max_cost:
            return None
        self.promised.calls += most.calls
        self.promised.cost += most.cost
        return most

    def release(self, promise: Spent) -> None:
        """Take back what was set aside for a question: it was answered, or will not be asked."""
        self.promised.calls -= promise.calls
        # Sums of fractions do not come back to nothing by themselves.
        self.promised.cost = self.promised.cost - promise.cost if self.promised.calls else 0.0

    def refuse(self, costs: JudgeCosts | None, question: RuleQuestion) -> NoReturn:
        """Say why not even one question can be asked now.

        Raises:
            LimitReached: always.
        """
        self.room(costs, 1, [tokens_of(question, LEAST_BYTES_PER_TOKEN)])
        # There is room, but for questions that another judge was asked and has not answered yet.
        raise HeldBack(
            "what other judges are being asked may take what is left of a limit", "the limit holds", _AGAIN.capitalize()
        )

    def room(self, costs: JudgeCosts | None, count: int, input_tokens: Iterable[int]) -> int:
        """Return how many of `count` requests, from the first on, can be made whatever they cost.

        Args:
            costs: of who is asked; None: free.
            count: how many are waiting.
            input_tokens: of each, counting on the worst; read only where there is a limit on money.

        Raises:
            LimitReached: not even one.
        """
        price = self.price(costs)
        if self.max_calls is not None:
            count = min(count, (self.max_calls - self.spent.calls) // (costs.most_calls if costs else 1))
        if count < 1:
            self._stop(f"{self.spent.calls:,} of max_calls {self.max_calls:,} calls are made", "Raise --max-calls")
        if self.max_cost is not None and price is not None and costs is not None:
            cost = self.spent.cost
            for place, entered in enumerate(islice(input_tokens, count)):
                cost += _worst_cost(price, costs, entered)
                if cost > self.max_cost:
                    if place == 0:
                        money = f"{self.spent.cost:.4f} of max_cost {self.max_cost:g} is spent"
                        self._stop(f"{money}, and one more call could pass it", "Raise --max-cost")
                    return place
        return count

    def record(
        self, costs: JudgeCosts | None, question: RuleQuestion, facts: Mapping[str, Fact], judge: str = ""
    ) -> None:
        """Count one answer of a judge, by what it says it took; tokens that it does not say are estimated."""
        calls = _whole(facts, "calls", 1)
        most = costs.max_output_tokens if costs else 0
        entered = _whole(facts, "input_tokens", calls * tokens_of(question))
        written = _whole(facts, "output_tokens", calls * most)
        if self.advance is not None:
            self.advance(1)
        self.spend(costs, calls, entered, written, judge)

    def spend(
        self, costs: JudgeCosts | None, calls: int, input_tokens: int, output_tokens: int, judge: str = ""
    ) -> None:
        """Count calls of a judge or a writer, their tokens and their money."""
        price = self.price(costs)
        cost = price.of(input_tokens, output_tokens) if price is not None else 0.0
        self.spent.calls += calls
        self.spent.input_tokens += input_tokens
        self.spent.output_tokens += output_tokens
        self.spent.cost += cost
        known = price is not None or costs is None or not costs.paid
        self.by_judge.setdefault(judge, JudgeSpent(costs)).add(
            calls, input_tokens, output_tokens, cost if known else None
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: verdicts asked, reused and invalid by rule, and what asking took, also by judge."""
        rules = dict.fromkeys((*self.asked, *self.reused))
        return {
            "computed": dict(self.computed),
            "rules": {
                rule: {"asked": self.asked[rule], "reused": self.reused[rule], "invalid": self.invalid[rule]}
                for rule in rules
            },
            "calls": self.spent.calls,
            "input_tokens": self.spent.input_tokens,
            "output_tokens": self.spent.output_tokens,
            "cost": round(self.spent.cost, 6) if self.prices else None,
            "currency": self.prices.currency if self.prices else None,
            "judges": {judge: spent.as_dict() for judge, spent in self.by_judge.items()},
        }

    def _stop(self, given: str, remedy: str) -> None:
        raise LimitReached(given, "the limit holds", f"{remedy} and {_AGAIN}")


def tokens_of(question: RuleQuestion, bytes_per_token: int = BYTES_PER_TOKEN) -> int:
    """Return about how many tokens the prompt of a question has."""
    texts = (*(turn["content"] for turn in question.question.prompt), question.question.response)
    size = _instruction_bytes(question.rules) + FENCES + sum(len(text.encode("utf-8", "replace")) for text in texts)
    return -(-size // bytes_per_token)


def _worst_cost(price: Price, costs: JudgeCosts, entered: int) -> float:
    """Return the most that an answer can cost: a repair turn repeats the prompt and the answer."""
    repeats = costs.most_calls * (costs.most_calls - 1) // 2 * costs.max_output_tokens
    return price.of(costs.most_calls * entered + repeats, costs.most_calls * costs.max_output_tokens)


_INSTRUCTION_BYTES: dict[tuple[str, ...], int] = {}


def _instruction_bytes(rules: tuple[Rule, ...]) -> int:
    key = tuple(rule.hash for rule in rules)
    if key not in _INSTRUCTION_BYTES:
        _INSTRUCTION_BYTES[key] = len(instructions(rules).encode("utf-8", "replace"))
    return _INSTRUCTION_BYTES[key]


def _whole(facts: Mapping[str, Fact], name: str, otherwise: int) -> int:
    value = facts.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
