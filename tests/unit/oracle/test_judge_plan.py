"""What asking will take, said before: against what it then took."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import LimitReached
from realigner.oracle import PolicyOracle, ScriptedRuleJudge, VerdictStore
from realigner.oracle.judge import JudgeCosts, RuleQuestion
from realigner.oracle.meter import Meter, Price, Prices, tokens_of
from realigner.oracle.plan import ENOUGH, Planner, minutes
from realigner.policy import Policy
from realigner.policy.prompt import judge_messages, new_nonce
from realigner.records import Judgement, Label, user_prompt

COSTS = JudgeCosts(model="m", paid=True, max_output_tokens=50, concurrency=4)
PRICES = Prices(currency="EUR", models={"m": Price(input=2, output=8)})


def policy_of(count: int, **last: Any) -> Policy:
    rules = [{"id": f"r{n}", "by": "llm", "text": f"Rule {n}.", "violates": ["x"]} for n in range(count)]
    return Policy.parse({"id": "p", "version": "1", "title": "t", "rules": [*rules[:-1], {**rules[-1], **last}]})


def question(response: str) -> Judgement:
    return Judgement(user_prompt("What is to be done?"), response)


def judge(**facts: Any) -> ScriptedRuleJudge:
    return ScriptedRuleJudge(lambda *_: Label.COMPLIANT, name="yes", costs=COSTS, facts=facts)


@pytest.mark.parametrize("rules_per_call", [1, 3])
def test_the_calls_that_are_planned_are_the_calls_that_are_made(tmp_path: Path, rules_per_call: int) -> None:
    draw = random.Random(0)
    questions = [question(str(draw.randrange(30))) for _ in range(60)]
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        for count, last in ((4, {}), (4, {"allowed": ["irony"]}), (5, {}), (3, {})):
            inner = judge()
            oracle = PolicyOracle(policy_of(count, **last), {"llm": inner}, store, rules_per_call=rules_per_call)
            with Planner(oracle) as planner:
                for start in range(0, 60, 7):
                    planner.add(questions[start : start + 7])
                plan = planner.plan()
            assert inner.calls == 0
            oracle.judge(questions)
            assert plan.calls == inner.calls == oracle.meter.spent.calls
            (planned,) = plan.judges
            assert {rule: n for rule, n in planned.asked.items() if n} == {
                r: n for r, n in oracle.meter.asked.items() if n
            }
            assert plan.questions == len({q.response for q in questions})


def test_money_and_time_follow_prices_measurements_and_limits_of_rate() -> None:
    with VerdictStore.temporary() as store:
        oracle = PolicyOracle(policy_of(2), {"llm": judge(output_tokens=10, seconds=3.0)}, store, meter=Meter(PRICES))

        def plan_of(first: int, last: int) -> Any:
            with Planner(oracle) as planner:
                planner.add([question(str(number)) for number in range(first, last)])
                return planner.plan()

        assumed = plan_of(0, ENOUGH)
        (planned,) = assumed.judges
        assert (planned.measured, planned.sure.calls) == (0, 2 * ENOUGH)
        assert planned.sure.output_tokens == 2 * ENOUGH * 50  # assumed to be 80, but an answer has at most 50
        assert planned.seconds(planned.sure) == 2 * ENOUGH * 2.0 / 4
        oracle.judge([question(str(number)) for number in range(ENOUGH)])
        measured = plan_of(ENOUGH, 2 * ENOUGH)
        (planned,) = measured.judges
        assert (planned.measured, planned.sure.output_tokens) == (2 * ENOUGH, 2 * ENOUGH * 10)
        assert planned.seconds(planned.sure) == 2 * ENOUGH * 3.0 / 4
        money = (planned.sure.input_tokens * 2 + planned.sure.output_tokens * 8) / 1e6
        assert measured.cost() == pytest.approx(money)
        assert f"about {money:.2f} EUR" in measured.lines()[0]
        assert measured.lines()[1].endswith("length and time of answers measured on 40 answers")
        slow = JudgeCosts("m", True, 50, concurrency=4, requests_per_minute=10, tokens_per_minute=100)
        planned.costs = slow
        tokens = planned.sure.input_tokens + planned.sure.output_tokens
        assert planned.seconds(planned.sure) == max(60 * 40 / 10, 60 * tokens / 100)


def test_what_is_perhaps_asked_is_said_apart_and_counted_once() -> None:
    oracle = PolicyOracle(policy_of(1), {"llm": judge()}, meter=Meter(PRICES, max_calls=3))
    with Planner(oracle) as planner:
        planner.add([question("a"), question("b")])
        planner.add([question("b"), question("c"), question("c")], sure=False)
        plan = planner.plan()
    assert (plan.calls, plan.most_calls, plan.questions) == (2, 3, 2)
    assert plan.lines()[1].startswith("llm: and at most 1 calls")
    plan.refuse_over(Meter(max_calls=2))
    assert plan.as_dict()["most_cost"] > plan.as_dict()["cost"]


def test_a_plan_over_a_limit_is_refused_with_the_figures() -> None:
    oracle = PolicyOracle(policy_of(1), {"llm": judge()}, meter=Meter(PRICES))
    with Planner(oracle) as planner:
        planner.add([question("a"), question("b")])
        plan = planner.plan()
    with pytest.raises(LimitReached, match="this takes 2 calls, max_calls is 1: nothing is asked"):
        plan.refuse_over(Meter(max_calls=1))
    meter = Meter(PRICES, max_calls=3)
    meter.spent.calls = 2
    with pytest.raises(LimitReached, match="this takes 2 calls after 2 so far, max_calls is 3"):
        plan.refuse_over(meter)
    with pytest.raises(LimitReached, match=r"this costs about 0\.00 EUR, max_cost is 0\.0001"):
        plan.refuse_over(Meter(PRICES, max_cost=0.0001))


def test_a_paid_model_without_a_price_makes_the_money_unknown() -> None:
    oracle = PolicyOracle(policy_of(1), {"llm": judge()})
    with Planner(oracle) as planner:
        planner.add([question("a")])
        plan = planner.plan()
    assert plan.cost() is None
    assert "money unknown: m is not in oracle.prices" in plan.lines()[0]


def test_the_estimate_of_tokens_is_the_size_of_the_prompt_within_a_tenth() -> None:
    for text in ("short", "A long answer. " * 100):
        asked = RuleQuestion(policy_of(3).rules, question(text))
        sent = judge_messages(asked.rules, asked.question, new_nonce())
        size = sum(len(message["content"].encode()) for message in sent)
        assert tokens_of(asked) == pytest.approx(size / 4, rel=0.1)


def test_times_are_said_in_the_unit_that_fits() -> None:
    assert [minutes(s) for s in (0.4, 119, 120, 3599, 9000)] == ["0 s", "119 s", "2 min", "60 min", "2 h 30 min"]
