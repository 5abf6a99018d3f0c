"""The oracle of a whole policy: who judges which rule, what is asked, what is remembered, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.errors import LimitReached, OracleError
from realigner.oracle import (
    Oracle,
    PolicyOracle,
    RuleAnswer,
    RuleJudge,
    RuleQuestion,
    ScriptedRuleJudge,
    VerdictStore,
    ask,
)
from realigner.oracle.judge import JudgeCosts
from realigner.oracle.meter import Meter, Price, Prices
from realigner.oracle.rule_judges import ChecksJudge
from realigner.policy import Policy, Rule
from realigner.records import Judgement, Label, RuleVerdict, user_prompt

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID


def wording(number: int, by: str = "llm", **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "by": by, "text": f"Rule {number}.", "violates": [f"word {number}"], **more}


def policy_of(*rules: dict[str, Any]) -> Policy:
    return Policy.parse({"id": "p", "version": "1", "title": "t", "rules": list(rules)})


def question(response: str, prompt: str = "q") -> Judgement:
    return Judgement(user_prompt(prompt), response)


def says_its_number(rule: Rule, asked: Judgement) -> Label:
    """A response breaks the rules whose numbers it contains."""
    return BAD if rule.id.removeprefix("r") in asked.response.split() else GOOD


def judge(**more: Any) -> ScriptedRuleJudge:
    return ScriptedRuleJudge(says_its_number, name="numbers", **more)


TEN = policy_of(*map(wording, range(10)))


def test_each_rule_is_judged_as_it_says_and_the_policy_decides() -> None:
    checked = {"id": "r1", "text": "No bad.", "forbid": {"words": ["bad"]}}
    policy = policy_of(checked, wording(2), wording(3, "classifier"))
    llm = ScriptedRuleJudge(lambda rule, asked: BAD if rule.id == "r2" and "2" in asked.response else GOOD)
    classifier = ScriptedRuleJudge(lambda rule, asked: RuleVerdict(rule.id, UNSURE, "who knows"))
    oracle = PolicyOracle(policy, {"llm": llm, "classifier": classifier})
    assert isinstance(oracle, Oracle)
    first, second, third = oracle.judge([question("a"), question("2 bad"), question("a bad")])
    assert [verdict.rule for verdict in first.rules] == ["r1", "r2", "r3"]
    assert (first.label, first.reason) == (UNSURE, "r3: who knows")
    assert [v.label for v in second.rules] == [BAD, BAD, UNSURE]
    assert second.label is third.label is BAD
    assert (llm.calls, classifier.calls) == (3, 3)


def test_the_identity_names_the_policy_and_who_judges() -> None:
    oracle = PolicyOracle(TEN, {"llm": judge()})
    assert oracle.identity == f"judges/1.1:{TEN.hash}:llm=scripted-rules/1:numbers"
    together = PolicyOracle(TEN, {"llm": judge(), "classifier": judge()}, rules_per_call=5)
    assert together.identity == f"judges/1.1:{TEN.hash}:rules_per_call=5:llm=scripted-rules/1:numbers (5 rules a call)"


def test_a_rule_without_its_judge_is_refused_with_the_setting_to_make() -> None:
    message = r"rules by classifier: r2: there is no judge for them: oracle\.classifier is not set"
    with pytest.raises(OracleError, match=message):
        PolicyOracle(policy_of(wording(1), wording(2, "classifier")), {"llm": judge()})


def test_what_is_stored_is_not_asked_again(tmp_path: Path) -> None:
    questions = [question(f"{number} {number + 1}") for number in range(30)]
    asked, results = [], []
    for _ in range(2):
        with VerdictStore.open(tmp_path / "v.sqlite") as store:
            inner = judge()
            results.append(PolicyOracle(TEN, {"llm": inner}, store).judge(questions))
            asked.append(inner.calls)
    assert asked == [300, 0]
    assert results[0] == results[1] == PolicyOracle(TEN, {"llm": judge()}).judge(questions)


def test_after_an_edit_of_one_rule_of_ten_that_rule_alone_is_asked(tmp_path: Path) -> None:
    questions = [question(f"{number}") for number in range(40)]
    edited = policy_of(*map(wording, range(9)), wording(9, allowed=["irony"]))
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        PolicyOracle(TEN, {"llm": judge()}, store).judge(questions)
        names: list[str] = []
        again = ScriptedRuleJudge(lambda rule, _: names.append(rule.id) or GOOD, name="numbers")
        oracle = PolicyOracle(edited, {"llm": again}, store)
        oracle.judge(questions)
        assert names == ["r9"] * 40
        assert oracle.meter.asked == {"r9": 40}
        assert oracle.meter.reused == {f"r{number}": 40 for number in range(9)}
        # A renamed rule, another tier, another order: nothing is asked.
        renamed = policy_of(wording(9, allowed=["irony"]), {**wording(8), "id": "eight", "tier": "critical"})
        verdicts = PolicyOracle(renamed, {"llm": again}, store).judge(questions)
        assert len(names) == 40
        assert [v.rule for v in verdicts[0].rules] == ["r9", "eight"]
        # Another judge knows nothing of these verdicts.
        PolicyOracle(edited, {"llm": ScriptedRuleJudge(says_its_number, name="other")}, store).judge(questions)
        assert len(names) == 40


def test_the_same_prompt_and_response_are_judged_once_within_and_across_batches(tmp_path: Path) -> None:
    questions = [question(f"{number % 3}") for number in range(20)]
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        inner = judge()
        oracle = PolicyOracle(TEN, {"llm": inner}, store)
        verdicts = ask(oracle, questions, batch_size=2)
        assert inner.calls == 30
        oracle.judge(questions)
        assert inner.calls == 30
    alone = judge()
    assert PolicyOracle(TEN, {"llm": alone}).judge(questions) == verdicts
    assert alone.calls == 30


def test_two_rules_of_the_same_wording_cost_one_question() -> None:
    twins = policy_of(wording(1), {**wording(1), "id": "again"})
    inner = ScriptedRuleJudge(lambda *_: BAD)
    with VerdictStore.temporary() as store:
        oracle = PolicyOracle(twins, {"llm": inner}, store)
        assert [verdict.rule for verdict in oracle.judge([question("1")])[0].rules] == ["r1", "again"]
    assert inner.calls == 1


def test_what_could_not_be_judged_is_asked_once_now_and_again_next_time(tmp_path: Path) -> None:
    questions = [question("a"), question("b"), question("a")]
    for _ in range(2):
        with VerdictStore.open(tmp_path / "v.sqlite") as store:
            inner = ScriptedRuleJudge(lambda rule, asked: INVALID if asked.response == "a" else GOOD, name="shaky")
            oracle = PolicyOracle(policy_of(wording(1)), {"llm": inner}, store)
            assert [v.label for v in ask(oracle, questions, batch_size=1)] == [INVALID, GOOD, INVALID]
            assert ask(oracle, [question("a")])[0].label is INVALID
            assert oracle.meter.invalid == {"r1": 1}
            assert store.counts()["votes"] == 1
    assert inner.calls == 1  # `b` was known, `a` was asked again, once


@pytest.mark.parametrize("rules_per_call", [2, 3, 10, 99])
def test_rules_judged_together_give_the_same_verdicts_and_are_remembered_apart(
    tmp_path: Path, rules_per_call: int
) -> None:
    questions = [question(f"{number} 3") for number in range(6)]
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        expected = PolicyOracle(TEN, {"llm": judge()}, store).judge(questions)
        inner = judge()
        together = PolicyOracle(TEN, {"llm": inner}, store, rules_per_call=rules_per_call)
        assert together.judge(questions) == expected
        assert inner.calls == 6 * -(-10 // rules_per_call)
        edited = policy_of(*map(wording, range(9)), wording(9, allowed=["irony"]))
        PolicyOracle(edited, {"llm": inner}, store, rules_per_call=rules_per_call).judge(questions)
        assert inner.calls == 6 * -(-10 // rules_per_call) + 6


RESPONSES = st.lists(st.text("0123456789 ", min_size=1, max_size=4), max_size=8)


@settings(max_examples=25, deadline=None)
@given(first=RESPONSES, second=RESPONSES, batch=st.integers(1, 5), rules_per_call=st.integers(1, 4))
def test_with_and_without_a_store_the_verdicts_are_the_same(
    first: list[str], second: list[str], batch: int, rules_per_call: int
) -> None:
    policy = policy_of(*map(wording, range(4)), {"id": "c", "text": "No 7.", "forbid": {"words": ["7"]}})
    with VerdictStore.temporary() as store:
        for responses in (first, second, first):
            questions = [question(response) for response in responses]
            stored = PolicyOracle(policy, {"llm": judge()}, store, rules_per_call=rules_per_call)
            plain = PolicyOracle(policy, {"llm": judge()})
            assert ask(stored, questions, batch) == ask(plain, questions)


@pytest.mark.parametrize("limit", [0, 1, 7, 49, 50])
def test_no_more_calls_are_made_than_allowed_and_none_is_wasted(tmp_path: Path, limit: int) -> None:
    policy, questions = policy_of(*map(wording, range(5))), [question(str(number)) for number in range(10)]
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        inner = judge()
        oracle = PolicyOracle(policy, {"llm": inner}, store, meter=Meter(max_calls=limit))
        if limit < 50:
            message = rf"{limit} of max_calls {limit} calls are made: the limit holds\. Raise --max-calls"
            with pytest.raises(LimitReached, match=message):
                oracle.judge(questions)
        else:
            oracle.judge(questions)
        assert inner.calls == limit == oracle.meter.spent.calls
        assert store.counts()["votes"] == limit
        PolicyOracle(policy, {"llm": inner}, store).judge(questions)
        assert inner.calls == 50


PAID = JudgeCosts(model="m", paid=True, max_output_tokens=100, most_calls=2)
PRICES = Prices(models={"m": Price(input=0, output=1e4)})  # 0.01 a token


def test_the_limit_on_calls_counts_repair_turns() -> None:
    inner = judge(costs=PAID, facts={"calls": 2})
    oracle = PolicyOracle(TEN, {"llm": inner}, meter=Meter(max_calls=9))
    with pytest.raises(LimitReached, match="8 of max_calls 9"):
        oracle.judge([question("a")])
    assert (inner.calls, oracle.meter.spent.calls) == (4, 8)


def test_the_limit_on_money_is_never_passed_and_nearly_used_up() -> None:
    # An answer costs 0.10, at worst 2.00: the limit reserves the worst and gives back what was not used.
    inner = judge(costs=PAID, facts={"calls": 1, "output_tokens": 10, "input_tokens": 5})
    oracle = PolicyOracle(TEN, {"llm": inner}, meter=Meter(PRICES, max_cost=6.0))
    with pytest.raises(LimitReached, match=r"of max_cost 6 is spent, and one more call could pass it"):
        oracle.judge([question(str(number)) for number in range(20)])
    assert 6.0 - 2.0 - 0.1 < oracle.meter.spent.cost <= 6.0
    assert oracle.meter.spent.cost == pytest.approx(0.1 * inner.calls)


def test_a_paid_model_without_a_price_is_refused_under_a_limit_on_money_only() -> None:
    inner = judge(costs=JudgeCosts(model="n", paid=True, max_output_tokens=10))
    PolicyOracle(TEN, {"llm": inner}, meter=Meter(PRICES)).judge([question("a")])
    oracle = PolicyOracle(TEN, {"llm": inner}, meter=Meter(PRICES, max_cost=5))
    with pytest.raises(OracleError, match=r"model 'n' has no price, and max_cost is 5: .* Add it to oracle\.prices"):
        oracle.judge([question("a")])
    assert inner.calls == 10


def test_a_reason_that_no_file_can_hold_is_mended_before_it_is_stored() -> None:
    inner = ScriptedRuleJudge(lambda rule, _: RuleVerdict(rule.id, BAD, "half \ud83d"))
    with VerdictStore.temporary() as store:
        for _ in range(2):
            (verdict,) = PolicyOracle(policy_of(wording(1)), {"llm": inner}, store).judge([question("a")])
            assert verdict.rules[0].reason == "half ?"
    assert inner.calls == 1


def test_facts_that_json_cannot_hold_do_not_lose_an_answer() -> None:
    inner = judge(facts={"probability": float("nan"), "seconds": 1.0})
    with VerdictStore.temporary() as store:
        PolicyOracle(policy_of(wording(1)), {"llm": inner}, store).judge([question("a")])
        assert [vote["facts"] for vote in store.votes()] == [{"probability": None, "seconds": 1.0}]


class Broken:
    identity = "broken/1"

    def __init__(self, *answers: Any) -> None:
        self.answers = answers

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        yield from self.answers


FINE = RuleAnswer((RuleVerdict("r1", GOOD, ""),))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "left 1 of 1 questions without an answer"),
        ([(0, FINE), (0, FINE)], "answered place 0: it answers each question exactly once"),
        ([(1, FINE)], "answered place 1"),
        ([(0, "yes")], "str instead of RuleAnswer"),
        ([(0, RuleAnswer(()))], r"verdicts on \[\], asked for \['r1'\]"),
        ([(0, RuleAnswer((RuleVerdict("r2", GOOD, ""),)))], r"verdicts on \['r2'\]"),
        ([(0, RuleAnswer(("good",)))], "'good' is no RuleVerdict with a Label"),  # type: ignore[arg-type]
        ([(0, RuleAnswer((RuleVerdict("r1", GOOD, 3),)))], "the reason of r1 is int, not text"),  # type: ignore[arg-type]
        ([(0, RuleAnswer((RuleVerdict("r1", INVALID, ""),)))], "an invalid verdict is to be kept"),
    ],
)
def test_a_judge_that_breaks_its_contract_is_named(answers: list[Any], message: str) -> None:
    broken = Broken(*answers)
    with VerdictStore.temporary() as store, pytest.raises(OracleError, match=f"judge broken/1.*{message}"):
        PolicyOracle(policy_of(wording(1)), {"llm": broken}, store).judge([question("a")])


def test_answers_are_stored_before_the_next_is_awaited() -> None:
    with VerdictStore.temporary() as store:
        counts = []

        def counting(rule: Rule, asked: Judgement) -> Label:
            counts.append(store.counts()["votes"])
            return GOOD

        PolicyOracle(TEN, {"llm": ScriptedRuleJudge(counting)}, store).judge([question("a")])
    assert counts == list(range(10))


def test_the_checks_of_wording_rules_are_a_judge_that_costs_and_stores_nothing() -> None:
    policy = policy_of(wording(1, forbid={"words": ["bad"]}), wording(2))
    with VerdictStore.temporary() as store:
        verdicts = PolicyOracle(policy, {"llm": ChecksJudge()}, store).judge([question("a"), question("bad")])
        assert [[v.label for v in verdict.rules] for verdict in verdicts] == [[GOOD, UNSURE], [BAD, UNSURE]]
        assert verdicts[0].rules[1].reason == "the rule has no checks"
        assert store.counts()["votes"] == 0


class Any2:
    """Two judges, asked in turn where the first is unsure; its members have their own memory."""

    identity, asks_all = "cascade/1", False

    def __init__(self, *members: RuleJudge) -> None:
        self.members = members

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        for place, answer in self.members[0].answer(questions):
            if any(verdict.label is UNSURE for verdict in answer.verdicts):
                [(_, answer)] = self.members[1].answer([questions[place]])
            yield place, answer


def test_members_that_remember_are_not_remembered_twice() -> None:
    from realigner.oracle.policy_oracle import remembering

    policy, meter = policy_of(wording(1)), Meter()
    cheap = ScriptedRuleJudge(lambda _, asked: UNSURE if "?" in asked.response else GOOD, name="cheap")
    dear = ScriptedRuleJudge(lambda *_: BAD, name="dear")
    with VerdictStore.temporary() as store:
        for _ in range(2):
            members = [remembering(member, store, meter, 1) for member in (cheap, dear)]
            oracle = PolicyOracle(policy, {"llm": Any2(*members)}, store, meter=meter)
            labels = [v.label for v in oracle.judge([question("a"), question("b?")])]
            assert labels == [GOOD, BAD]
        assert (cheap.calls, dear.calls) == (2, 1)
        assert set(store.counts()["judges"]) == {"scripted-rules/1:cheap", "scripted-rules/1:dear"}


def test_scripted_verdicts_of_rules_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(
        '{"rule": "r1", "prompt": "q", "response": "a", "label": "non_compliant", "reason": "why"}\n'
        '{"rule": "r1", "prompt": [{"role": "user", "content": "q"}], "response": "b", "label": "unsure"}\n',
        encoding="utf-8",
    )
    inner = ScriptedRuleJudge.from_file(path)
    verdicts = PolicyOracle(policy_of(wording(1)), {"llm": inner}).judge([question("a"), question("b")])
    assert [v.rules[0] for v in verdicts] == [RuleVerdict("r1", BAD, "why"), RuleVerdict("r1", UNSURE, "scripted")]
    assert inner.identity == ScriptedRuleJudge.from_file(path).identity
    with pytest.raises(OracleError, match="rule 'r1', prompt 'q', response 'c': it has no scripted verdict"):
        PolicyOracle(policy_of(wording(1)), {"llm": inner}).judge([question("c")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no line"),
        ('{"rule": "r", "prompt": "q", "response": "a"}', "no key 'label'"),
        ('{"rule": "r", "prompt": "q", "response": "a", "label": "fine"}', "label is 'fine'"),
        ('{"rule": 1, "prompt": "q", "response": "a", "label": "unsure"}', "rule is '1': it must be a text"),
        (
            '{"rule": "r", "prompt": "q", "response": "a", "label": "unsure"}\n'
            '{"rule": "r", "prompt": "q", "response": "a", "label": "compliant"}',
            "v.jsonl:2: another verdict than before",
        ),
    ],
)
def test_a_bad_file_of_scripted_verdicts_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(OracleError, match=message):
        ScriptedRuleJudge.from_file(path)
    with pytest.raises(OracleError, match="no such file"):
        ScriptedRuleJudge.from_file(tmp_path / "none")
