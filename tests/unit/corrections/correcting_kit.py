"""A writer that writes what it is told, and a policy, judges and pairs for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from realigner.corrections.journal import Draft
from realigner.corrections.writers import Order
from realigner.oracle.judge import JudgeCosts
from realigner.policy import Policy
from realigner.recipe_corrections import GenerateCorrections
from realigner.records import Judgement, Label, Pair, RuleVerdict, Verdict, user_prompt

POLICY = Policy.parse(
    {
        "id": "kind-words",
        "version": "1",
        "title": "t",
        "rules": [
            {"id": "kind", "text": "Be kind.", "forbid": {"words": ["fool"]}},
            {"id": "no-refusing", "tier": "reduced", "by": "llm", "text": "Do not refuse.", "forbid": {"words": ["x"]}},
        ],
    }
)


def settings(**given: Any) -> GenerateCorrections:
    return GenerateCorrections.model_validate({"writer": {"kind": "local", "path": "w"}, **given})


def pair(number: int, prompt: str | None = None) -> Pair:
    return Pair(
        str(number),
        user_prompt(prompt or f"question {number}"),
        f"You fool, number {number}.",
        f"Old fool {number}.",
        "s",
    )


class ScriptedWriter:
    """Writes by a function of (the last user turn, the number of the candidate within the prompt)."""

    def __init__(self, write: Callable[[str, int], str | Draft], name: str = "script", **costs: Any) -> None:
        self._write, self._name = write, name
        self.costs = JudgeCosts(model="writer", paid=False, max_output_tokens=50, **costs)
        self.orders: list[Order] = []
        self.checks = 0
        self._numbers: dict[str, int] = {}

    @property
    def weights(self) -> str:
        return f":{self._name}@"

    @property
    def identity(self) -> str:
        return f"scripted:{self._name}"

    def check(self) -> str:
        self.checks += 1
        return self._name

    def write(self, orders: Sequence[Order]) -> Iterator[tuple[int, Draft]]:
        for place in reversed(range(len(orders))):  # any order is allowed
            order = orders[place]
            self.orders.append(order)
            asked = order.messages[-1]["content"]
            number = self._numbers[asked] = self._numbers.get(asked, -1) + 1
            said = self._write(asked, number)
            yield place, said if isinstance(said, Draft) else Draft(said, "stop", seed=order.seed)


def judged(label: Callable[[Judgement], Label]) -> Callable[[Judgement], Verdict]:
    """A verdict on every rule of POLICY: the label for `kind`, compliance with the other."""

    def verdict(question: Judgement) -> Verdict:
        found = label(question)
        rules = (RuleVerdict("kind", found, "said so"), RuleVerdict("no-refusing", Label.COMPLIANT, ""))
        return Verdict(found, rules, "said so")

    return verdict


def kind(question: Judgement) -> Label:
    return Label.NON_COMPLIANT if "fool" in question.response else Label.COMPLIANT
