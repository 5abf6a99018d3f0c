"""What asking will take, said before anything is asked: calls, tokens, minutes, money."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from realigner.errors import LimitReached
from realigner.oracle.asking import question_key
from realigner.oracle.judge import Fact, JudgeCosts, RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter, tokens_of
from realigner.oracle.policy_oracle import PolicyOracle
from realigner.oracle.remember import RememberingJudge
from realigner.records import Judgement, RuleVerdict

TOKENS_PER_VERDICT = 80
"""Assumed of an answer: a reason of a sentence or two and a verdict. Used until answers of the judge are stored."""
SECONDS_PER_CALL = 2.0
"""Assumed in the same way."""
ENOUGH = 20
"""Stored answers from which their means replace the assumptions."""


@dataclass
class Amount:
    """Calls and their tokens."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.calls + other.calls, self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        )


@dataclass
class JudgePlan:
    """What one judge will be asked."""

    role: str
    identity: str
    costs: JudgeCosts | None
    price: Any
    output_per_call: float
    seconds_per_call: float
    measured: int
    """Stored answers that output and seconds are the means of; 0: they are assumed."""
    sure: Amount = field(default_factory=Amount)
    perhaps: Amount = field(default_factory=Amount)
    """On top, at most: corrections, and the later judges of a cascade."""
    known: Counter[str] = field(default_factory=Counter)
    """Verdicts that the store holds, by rule id."""
    asked: Counter[str] = field(default_factory=Counter)
    """Verdicts that will surely be asked for, by rule id."""
    note: str = ""
    """What the judge has to say of its plan."""

    def cost(self, amount: Amount) -> float | None:
        """Return what an amount costs; 0 for a judge that is not paid, None for one without a price."""
        if self.costs is None or not self.costs.paid:
            return 0.0
        return None if self.price is None else float(self.price.of(amount.input_tokens, amount.output_tokens))

    def seconds(self, amount: Amount) -> float:
        """Return how long an amount takes at the judge's concurrency and rate limits."""
        costs = self.costs
        times = [amount.calls * self.seconds_per_call / (costs.concurrency if costs else 1)]
        if costs and costs.requests_per_minute:
            times.append(60 * amount.calls / costs.requests_per_minute)
        if costs and costs.tokens_per_minute:
            times.append(60 * (amount.input_tokens + amount.output_tokens) / costs.tokens_per_minute)
        return max(times)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "role": self.role,
            "judge": self.identity,
            "model": self.costs.model if self.costs else None,
            "known": sum(self.known.values()),
            "rules": {
                rule: {"known": self.known[rule], "asked": self.asked[rule]}
                for rule in dict.fromkeys((*self.known, *self.asked))
            },
            "sure": self._amount(self.sure),
            "perhaps": self._amount(self.perhaps),
            "measured_on": self.measured,
            **({"note": self.note} if self.note else {}),
        }

    def _amount(self, amount: Amount) -> dict[str, Any]:
        return {
            "calls": amount.calls,
            "input_tokens": amount.input_tokens,
            "output_tokens": amount.output_tokens,
            "seconds": round(self.seconds(amount), 1),
            "cost": self.cost(amount),
        }


@dataclass(frozen=True)
class Plan:
    """What a stage will ask. Nothing has been asked yet."""

    judges: tuple[JudgePlan, ...]
    questions: int
    """Distinct responses to be judged, those that are sure."""
    computed: tuple[str, ...]
    """Ids of the rules that are computed, not asked."""
    currency: str
    pairs: int = 0
    """Pairs of the data; 0 where they are not what is judged."""

    @property
    def calls(self) -> int:
        """Calls that are sure."""
        return sum(judge.sure.calls for judge in self.judges)

    @property
    def most_calls(self) -> int:
        """Calls at most."""
        return self.calls + sum(judge.perhaps.calls for judge in self.judges)

    def cost(self, at_most: bool = False) -> float | None:
        """Return the money that is sure, or the most; None where a paid model has no price."""
        costs = [judge.cost(judge.sure + judge.perhaps if at_most else judge.sure) for judge in self.judges]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def refuse_over(self, meter: Meter) -> None:
        """Refuse to start what could not be finished within the limits.

        Raises:
            LimitReached: the calls or the money that are sure exceed what is left.
            OracleError: there is a limit on money, and a model has no price.
        """
        remedy = "Raise the limit, take fewer pairs with data.limit, or see the plan with --dry-run"
        spent, cost = meter.spent, self.cost()
        if meter.max_calls is not None and spent.calls + self.calls > meter.max_calls:
            given = f"this takes {self.calls:,} calls{_after(spent.calls)}, max_calls is {meter.max_calls:,}"
            raise LimitReached(given, "nothing is asked that could not be finished", remedy)
        if meter.max_cost is not None and cost is not None and spent.cost + cost > meter.max_cost:
            given = f"this costs about {cost:.2f} {self.currency}{_after(spent.cost)}, max_cost is {meter.max_cost:g}"
            raise LimitReached(given, "nothing is asked that could not be finished", remedy)

    def lines(self) -> list[str]:
        """Return the plan for people: a line a judge, none where nothing is asked of one."""
        lines = []
        for judge in self.judges:
            known = f"{sum(judge.known.values()):,} verdicts are known"
            if not judge.sure.calls and not judge.perhaps.calls:
                lines.append(f"{judge.role}: {known}, nothing to ask ({judge.identity})")
                continue
            basis = f"measured on {judge.measured} answers" if judge.measured else "assumed, nothing is measured yet"
            lines.append(f"{judge.role}: {known}, to ask: {self._words(judge, judge.sure)}")
            if judge.perhaps.calls:
                lines.append(f"{judge.role}: and at most {self._words(judge, judge.perhaps)} more")
            rules = ", ".join(f"{rule} {count:,}" for rule, count in judge.asked.items())
            lines.append(f"{judge.role}: by rule: {rules or 'none for sure'}; length and time of answers {basis}")
            if judge.note:
                lines.append(f"{judge.role}: {judge.note}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "questions": self.questions,
            "computed_rules": list(self.computed),
            "calls": self.calls,
            "most_calls": self.most_calls,
            "cost": self.cost(),
            "most_cost": self.cost(at_most=True),
            "currency": self.currency,
            "judges": [judge.as_dict() for judge in self.judges],
        }

    def _words(self, judge: JudgePlan, amount: Amount) -> str:
        parts = [f"{amount.calls:,} calls"]
        if judge.costs is not None:
            parts.append(f"about {amount.input_tokens:,} tokens in and {amount.output_tokens:,} out")
        parts.append(f"about {minutes(judge.seconds(amount))}")
        cost = judge.cost(amount)
        if cost is None:
            parts.append(f"money unknown: {judge.costs.model if judge.costs else ''} is not in oracle.prices")
        elif judge.costs is not None and judge.costs.paid:
            parts.append(f"about {cost:.2f} {self.currency}")
        return ", ".join(parts)


class Planner:
    """Counts what an oracle would ask about the questions it is shown. Use it as a context manager.

    Args:
        oracle: whose store is looked into; nothing is asked.
    """

    def __init__(self, oracle: PolicyOracle) -> None:
        self._oracle = oracle
        self._plans: dict[int, JudgePlan] = {}
        self._questions = 0
        # What is counted once is remembered on disk, so that memory does not grow with the data.
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("PRAGMA synchronous = OFF")
        self._seen.execute("CREATE TABLE seen (question BLOB PRIMARY KEY, sure INTEGER) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        for role, judge in oracle.roles.items():
            for leaf, _ in leaves(judge):
                self._plans[id(leaf)] = self._begin(role, leaf)

    def __enter__(self) -> Planner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seen.close()

    def add(
        self,
        questions: Sequence[Judgement],
        sure: bool = True,
        given: Sequence[Mapping[str, RuleVerdict]] | None = None,
    ) -> None:
        """Count questions; those that were counted before are not counted again.

        Args:
            questions: any number; they are looked up together.
            sure: whether they will be asked in any case.
            given: for each question, the verdicts of rules that need not be asked, by rule id.
        """
        known = [{} for _ in questions] if given is None else given
        pairs = zip(questions, known, strict=True)
        fresh = [(question, verdicts) for question, verdicts in pairs if self._is_new(question, sure)]
        self._questions += len(fresh) if sure else 0
        for judge, asked, _ in self._oracle.calls([q for q, _ in fresh], [verdicts for _, verdicts in fresh]):
            for leaf, always in leaves(judge):
                self._count(leaf, asked, sure and always)

    def plan(self) -> Plan:
        """Return what the questions so far will take."""
        prices = self._oracle.meter.prices
        return Plan(
            tuple(self._plans.values()), self._questions, self._oracle.computed, prices.currency if prices else "USD"
        )

    def _count(self, leaf: RememberingJudge, asked: Sequence[RuleQuestion], sure: bool) -> None:
        plan = self._plans[id(leaf)]
        amount = plan.sure if sure else plan.perhaps
        for question, known in zip(asked, leaf.known(asked), strict=True):
            missing = tuple(rule for rule in question.rules if rule.hash not in known)
            for rule in question.rules:
                if rule.hash in known:
                    plan.known[rule.id] += 1
                elif sure:
                    plan.asked[rule.id] += 1
            if missing:
                amount.calls += 1
                if plan.costs is not None:
                    amount.input_tokens += tokens_of(RuleQuestion(missing, question.question))
                    amount.output_tokens += round(min(plan.output_per_call, plan.costs.max_output_tokens))

    def _is_new(self, question: Judgement, sure: bool) -> bool:
        digest = hashlib.sha256(repr(question_key(question)).encode("utf-8", "replace")).digest()
        insert = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        return self._seen.execute(insert, (digest, sure)).rowcount == 1

    def _begin(self, role: str, leaf: RememberingJudge) -> JudgePlan:
        store = self._oracle.store
        facts = store.facts(leaf.identity) if store is not None else []
        output, seconds = _mean(facts, "output_tokens"), _mean(facts, "seconds")
        return JudgePlan(
            role=role,
            identity=leaf.identity,
            costs=leaf.costs,
            price=self._oracle.meter.price(leaf.costs),
            output_per_call=TOKENS_PER_VERDICT * self._oracle.rules_per_call if output is None else output,
            seconds_per_call=SECONDS_PER_CALL if seconds is None else seconds,
            measured=len(facts) if output is not None or seconds is not None else 0,
            note=getattr(leaf.judge, "note", ""),
        )


def leaves(judge: RuleJudge, always: bool = True) -> Iterator[tuple[RememberingJudge, bool]]:
    """Yield the judges beneath one that really ask, and whether each is asked about every question."""
    if isinstance(judge, RememberingJudge):
        yield judge, always
        return
    for place, member in enumerate(getattr(judge, "members", ())):
        yield from leaves(member, always and (place == 0 or getattr(judge, "asks_all", True)))


def minutes(seconds: float) -> str:
    """Return a time for people, in whole minutes from two on."""
    if seconds < 120:
        return f"{round(seconds)} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 120 else f"{whole // 60} h {whole % 60} min"


def _mean(facts: Sequence[dict[str, Fact]], name: str) -> float | None:
    values = [float(fact[name] or 0) for fact in facts if isinstance(fact.get(name), int | float)]
    return sum(values) / len(values) if len(values) >= ENOUGH else None


def _after(spent: float) -> str:
    return f" after {spent:,.4g} so far" if spent else ""
