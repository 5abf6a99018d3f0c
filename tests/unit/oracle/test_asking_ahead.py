"""Questions are looked up while others are being answered, and limits count what is under way, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from realigner.errors import LimitReached, OracleError
from realigner.oracle import (
    PolicyOracle,
    RuleAnswer,
    RuleJudge,
    RuleQuestion,
    ScriptedRuleJudge,
    VerdictStore,
    remember,
)
from realigner.oracle.ensemble import VotesJudge
from realigner.oracle.judge import JudgeCosts
from realigner.oracle.meter import Meter, Price, Prices
from realigner.oracle.policy_oracle import remembering
from realigner.oracle.rule_asking import ask_rules
from realigner.policy import Policy, Rule
from realigner.records import Judgement, Label, RuleVerdict, user_prompt

GOOD = Label.COMPLIANT
POLICY = Policy.parse(
    {"id": "p", "version": "1", "title": "t", "rules": [{"id": "kind", "by": "llm", "text": "Be kind."}]}
)
RULES = POLICY.rules


def question(number: int) -> Judgement:
    return Judgement(user_prompt("q"), f"a{number}")


def asked(*numbers: int) -> list[RuleQuestion]:
    return [RuleQuestion(RULES, question(number)) for number in numbers]


def answer_to(question: RuleQuestion) -> RuleAnswer:
    return RuleAnswer(tuple(RuleVerdict(rule.id, GOOD, question.question.response) for rule in question.rules))


class Streaming:
    """Takes `room` questions before it answers the first, then one for each answer; notes how many were looked up."""

    identity, streams = "streaming/1", True

    def __init__(self, looked_up: list[int], room: int = 1) -> None:
        self.looked_up, self.room = looked_up, room
        self.moments: list[tuple[str, int]] = []

    def answer(self, questions: Iterable[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        open_ones: list[tuple[int, RuleQuestion]] = []
        for place, taken in enumerate(questions):
            open_ones.append((place, taken))
            self.moments.append((taken.question.response, sum(self.looked_up)))
            if len(open_ones) == self.room:
                first, taken = open_ones.pop(0)
                yield first, answer_to(taken)
        for place, taken in open_ones:
            yield place, answer_to(taken)


def counted(store: VerdictStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the lookups that the store has had."""
    sizes: list[int] = []
    find = store.find

    def counting(judge: str, questions: Sequence[Judgement], rules: Iterable[str]) -> Any:
        sizes.append(len(questions))
        return find(judge, questions, rules)

    monkeypatch.setattr(store, "find", counting)
    return sizes


def test_a_judge_that_streams_has_its_first_question_before_the_last_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remember, "AHEAD", 4)
    questions = [question(number) for number in range(10)]
    with VerdictStore.temporary() as store:
        inner = Streaming(counted(store, monkeypatch), room=3)
        verdicts = PolicyOracle(POLICY, {"llm": inner}, store).judge(questions)
    assert [verdict.rules[0].reason for verdict in verdicts] == [f"a{number}" for number in range(10)]
    assert inner.moments == [(f"a{number}", min(4 * (number // 4 + 1), 10)) for number in range(10)]


@pytest.mark.parametrize("room", [1, 2, 5])
@pytest.mark.parametrize("stored", [True, False])
def test_the_same_question_in_two_parts_is_asked_once(monkeypatch: pytest.MonkeyPatch, room: int, stored: bool) -> None:
    monkeypatch.setattr(remember, "AHEAD", 2)
    inner, meter = Streaming([], room), Meter()
    numbers = (0, 1, 0, 2, 1, 0, 3, 3)
    with VerdictStore.temporary() as store:
        judge = remembering(inner, store if stored else None, meter, 1)
        found = dict(ask_rules(judge, asked(*numbers)))
    assert [found[place].verdicts[0].reason for place in range(8)] == [f"a{number}" for number in numbers]
    assert [response for response, _ in inner.moments] == ["a0", "a1", "a2", "a3"]
    assert (meter.asked["kind"], meter.reused["kind"]) == (4, 4)


def test_what_is_known_is_not_asked_and_comes_out_all_the_same() -> None:
    with VerdictStore.temporary() as store:
        first = Streaming([])
        dict(ask_rules(remembering(first, store, Meter(), 1), asked(0, 2, 4)))
        inner = Streaming([])
        found = dict(ask_rules(remembering(inner, store, Meter(), 1), asked(*range(6))))
    assert [response for response, _ in inner.moments] == ["a1", "a3", "a5"]
    assert [found[place].verdicts[0].reason for place in range(6)] == [f"a{number}" for number in range(6)]


class EndsEarly:
    identity, streams = "early/1", True

    def answer(self, questions: Iterable[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        yield 0, answer_to(next(iter(questions)))


def test_a_judge_that_streams_and_ends_early_is_named_with_what_it_left() -> None:
    with pytest.raises(OracleError, match="judge early/1 left 2 of 3 questions without an answer"):
        list(ask_rules(EndsEarly(), asked(0, 1, 2)))


def test_a_streaming_judge_is_held_to_a_limit_and_uses_all_of_it() -> None:
    for limit in (0, 1, 5, 9):
        inner, meter = Streaming([], room=4), Meter(max_calls=limit)
        with VerdictStore.temporary() as store:
            oracle = PolicyOracle(POLICY, {"llm": inner}, store, meter=meter)
            with pytest.raises(LimitReached, match=f"{limit} of max_calls {limit} calls are made"):
                oracle.judge([question(number) for number in range(10)])
            assert len(inner.moments) == limit == meter.spent.calls == store.counts()["votes"]
            assert meter.promised.calls == 0


# -- two judges under one limit

COSTS = JudgeCosts(model="m", paid=True, max_output_tokens=10, most_calls=2)


def voters(calls: int, meter: Meter, store: VerdictStore) -> list[RuleJudge]:
    """Two judges that may take two calls for a question, and take `calls`."""
    facts = {"calls": calls, "input_tokens": 100, "output_tokens": 10}
    made = (ScriptedRuleJudge(lambda *_: GOOD, name=name, costs=COSTS, facts=facts) for name in ("one", "two"))
    return [remembering(judge, store, meter, 1) for judge in made]


def votes(calls: int, meter: Meter, count: int = 10) -> list[RuleAnswer]:
    with VerdictStore.temporary() as store:
        found = dict(ask_rules(VotesJudge(voters(calls, meter, store)), asked(*range(count))))
    return [found[place] for place in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 20, 39])
def test_judges_that_vote_side_by_side_pass_no_limit_together(limit: int) -> None:
    meter = Meter(max_calls=limit)
    with pytest.raises(LimitReached, match="of max_calls"):
        votes(2, meter)
    assert limit - 1 <= meter.spent.calls <= limit


@pytest.mark.parametrize("limit", [21, 22, 30, 40])
def test_a_judge_that_waits_for_what_others_may_take_goes_on_when_they_took_less(limit: int) -> None:
    meter = Meter(max_calls=limit)
    assert all(answer.verdicts[0].label is GOOD for answer in votes(1, meter))
    assert (meter.spent.calls, meter.promised.calls) == (20, 0)


def prices() -> Prices:
    return Prices(currency="EUR", models={"m": Price(input=10_000, output=100_000)})  # an answer costs 2


def test_money_is_held_for_what_is_under_way() -> None:
    meter = Meter(prices(), max_cost=60.0)
    with pytest.raises(LimitReached, match="is spent, and one more call could pass it"):
        votes(1, meter, 40)
    assert 40 < meter.spent.cost <= 60
    assert meter.promised.cost == 0.0


def test_calls_tokens_and_money_are_told_by_judge() -> None:
    meter = Meter(prices())
    votes(1, meter, 4)
    each = {"model": "m", "calls": 4, "input_tokens": 400, "output_tokens": 40, "cost": 8.0}
    assert meter.as_dict()["judges"] == {"scripted-rules/1:one": each, "scripted-rules/1:two": each}
    assert (meter.as_dict()["cost"], meter.as_dict()["calls"]) == (16.0, 8)


def test_a_paid_judge_without_a_price_has_an_unknown_cost_and_a_free_one_none() -> None:
    meter, free = Meter(), JudgeCosts(model="f", paid=False, max_output_tokens=5)
    meter.spend(COSTS, 1, 10, 5, "paid")
    meter.spend(free, 1, 10, 5, "free")
    assert {name: judge["cost"] for name, judge in meter.as_dict()["judges"].items()} == {"paid": None, "free": 0.0}


def test_a_rule_is_known_to_the_judge_by_what_it_is_asked() -> None:
    """Two rules of one wording are one question also where the judge streams."""
    twin = Rule(id="again", by="llm", text="Be kind.")
    inner = Streaming([])
    [(_, answer)] = ask_rules(remembering(inner, None, Meter(), 1), [RuleQuestion((*RULES, twin), question(1))])
    assert [verdict.rule for verdict in answer.verdicts] == ["kind", "again"]
    assert len(inner.moments) == 1
