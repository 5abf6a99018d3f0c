"""Votes and cascades: who is asked, what stands, and what is left to a human."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest

from realigner.errors import OracleError
from realigner.oracle import open_oracle
from realigner.oracle.build import judged_by
from realigner.oracle.ensemble import CascadeJudge, Step, VotesJudge
from realigner.oracle.judge import JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.rule_asking import ask_rules
from realigner.oracle.rule_judges import ChecksJudge, ScriptedRuleJudge
from realigner.policy import Policy, Rule
from realigner.recipe import OracleSettings
from realigner.records import Judgement, Label, RuleVerdict, user_prompt

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID
POLICY = Policy.parse(
    {
        "id": "p",
        "version": "1",
        "title": "t",
        "rules": [
            {"id": "red", "by": "llm", "text": "No red.", "forbid": {"words": ["red"]}},
            {"id": "kind", "by": "llm", "text": "Be kind."},
        ],
    }
)
RED, KIND = POLICY.rules
PAID = JudgeCosts(model="m", paid=True, max_output_tokens=10)


def says(label: Label, name: str | None = None, costs: JudgeCosts | None = None) -> ScriptedRuleJudge:
    verdict = lambda rule, _: RuleVerdict(rule.id, label, f"{name or label} said so")  # noqa: E731
    return ScriptedRuleJudge(verdict, name=name or str(label), costs=costs, facts={"input_tokens": 5})


def asked(response: str = "fine", *rules: Rule) -> RuleQuestion:
    return RuleQuestion(rules or (KIND,), Judgement(user_prompt("q"), response))


def one(judge: RuleJudge, question: RuleQuestion | None = None) -> RuleAnswer:
    [(place, answer)] = ask_rules(judge, [question or asked()])
    assert place == 0
    return answer


def expected(votes: Sequence[Label], margin: int) -> Label:
    """The rule in its slow form: try everything that the missing votes could have been."""
    missing = [number for number, vote in enumerate(votes) if vote is INVALID]
    outcomes = set()
    for filled in product((GOOD, BAD, UNSURE), repeat=len(missing)):
        complete = list(votes)
        for number, vote in zip(missing, filled, strict=True):
            complete[number] = vote
        lead = complete.count(GOOD) - complete.count(BAD)
        outcomes.add(GOOD if lead >= margin else BAD if -lead >= margin else UNSURE)
    return outcomes.pop() if len(outcomes) == 1 else INVALID


@pytest.mark.parametrize("margin", [1, 2, 3])
@pytest.mark.parametrize("votes", list(product((GOOD, BAD, UNSURE, INVALID), repeat=3)), ids=",".join)
def test_a_verdict_stands_only_if_no_missing_vote_could_change_it(votes: tuple[Label, ...], margin: int) -> None:
    answer = one(VotesJudge([says(vote, f"judge {n}") for n, vote in enumerate(votes)], margin))
    assert answer.verdicts[0].label is expected(votes, margin)
    assert answer.facts["votes"] == "; ".join(votes)


def test_each_rule_is_voted_on_by_itself() -> None:
    table = {("red", "q", "fine"): GOOD, ("kind", "q", "fine"): BAD}
    judge = VotesJudge([ScriptedRuleJudge(table), says(GOOD, "a"), says(GOOD, "b")], margin=2)
    answer = one(judge, asked("fine", RED, KIND))
    assert [verdict.label for verdict in answer.verdicts] == [GOOD, UNSURE]
    assert answer.verdicts[1].reason == "votes: 2 compliant, 1 non_compliant; no majority of 2 or more"
    assert answer.facts["votes"] == "compliant,non_compliant; compliant,compliant; compliant,compliant"


def test_only_a_verdict_that_no_vote_could_change_may_be_stored() -> None:
    assert one(VotesJudge([says(GOOD, "a"), says(GOOD, "b"), says(INVALID)], margin=1)).keep
    assert one(VotesJudge([says(GOOD), says(BAD)])).keep
    open_ = one(VotesJudge([says(GOOD), says(INVALID)], margin=1))
    assert (open_.verdicts[0].label, open_.keep) == (INVALID, False)
    assert "the missing ones could decide (invalid said so)" in open_.verdicts[0].reason


class Slow:
    """Answers in reverse, and notes how far it is asked."""

    def __init__(self, label: Label, log: list[str]) -> None:
        self.label, self.log = label, log
        self.identity = f"slow {label}"

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        try:
            for place in reversed(range(len(questions))):
                self.log.append(f"{self.label} {place}")
                yield place, RuleAnswer((RuleVerdict(questions[place].rules[0].id, self.label, ""),))
        finally:
            self.log.append(f"{self.label} closed")


def test_votes_come_as_soon_as_they_are_complete_and_judges_answer_side_by_side() -> None:
    log: list[str] = []
    votes = VotesJudge([Slow(GOOD, log), Slow(BAD, log)]).answer([asked(str(n)) for n in range(3)])
    assert [next(votes)[0], next(votes)[0]] == [2, 1]
    assert log == ["compliant 2", "non_compliant 2", "compliant 1", "non_compliant 1"]


def test_judges_are_closed_when_nobody_asks_on() -> None:
    log: list[str] = []
    for judge in (VotesJudge([Slow(UNSURE, log), Slow(GOOD, log)]), CascadeJudge([Step(Slow(GOOD, log))] * 2)):
        log.clear()
        answers = judge.answer([asked("a"), asked("b")])
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        assert "compliant closed" in log


def test_a_cascade_asks_the_next_judge_only_where_the_one_before_is_unsure() -> None:
    labels = {"good": GOOD, "bad": BAD, "hard": UNSURE, "broken": INVALID}
    cheap = ScriptedRuleJudge(lambda rule, question: labels[question.response], name="cheap")
    dear = says(BAD, "dear", PAID)
    questions = [asked(response) for response in labels]
    answers = dict(ask_rules(CascadeJudge([Step(cheap), Step(dear)]), questions))
    assert [answers[place].verdicts[0].label for place in range(4)] == [GOOD, BAD, BAD, BAD]
    assert [answers[place].facts["steps"] for place in range(4)] == [1, 1, 2, 2]
    assert [answers[place].facts["calls"] for place in range(4)] == [0, 0, 1, 1]
    assert dear.calls == 2
    # The first judge may answer next time, and then it may say something else.
    assert [answers[place].keep for place in range(4)] == [True, True, True, False]


def test_a_cascade_asks_only_about_the_rules_that_are_left() -> None:
    table = {("red", "q", "fine"): GOOD, ("kind", "q", "fine"): UNSURE}
    rest = ScriptedRuleJudge({("kind", "q", "fine"): BAD})
    answer = one(CascadeJudge([Step(ScriptedRuleJudge(table)), Step(rest)]), asked("fine", RED, KIND))
    assert [(verdict.rule, verdict.label) for verdict in answer.verdicts] == [("red", GOOD), ("kind", BAD)]


def test_what_the_last_judge_leaves_unsure_stays_unsure() -> None:
    assert one(CascadeJudge([Step(says(INVALID)), Step(says(UNSURE))])).verdicts[0].label is UNSURE
    broken = one(CascadeJudge([Step(says(UNSURE)), Step(says(INVALID))]))
    assert (broken.verdicts[0].label, broken.keep) == (INVALID, False)


def test_a_step_may_settle_one_class_only() -> None:
    found = Step(ChecksJudge(), settles="non_compliant")
    cascade = CascadeJudge([found, Step(says(UNSURE, "dear"))])
    assert one(cascade, asked("all red", RED)).verdicts[0].label is BAD
    assert one(cascade, asked("all blue", RED)).verdicts[0].label is UNSURE


def test_a_rule_without_checks_goes_on_to_the_next_judge() -> None:
    dear = says(BAD, "dear")
    answer = one(CascadeJudge([Step(ChecksJudge()), Step(dear)]), asked("all blue", RED, KIND))
    assert [verdict.label for verdict in answer.verdicts] == [GOOD, BAD]


def test_costs_of_members_are_added_up() -> None:
    free, paid, other = says(GOOD, "free"), says(GOOD, "paid", PAID), says(GOOD, "other", PAID)
    facts = one(VotesJudge([free, paid, other])).facts
    assert (facts["calls"], facts["input_tokens"]) == (2, 15)
    nested = VotesJudge([VotesJudge([paid, other]), free])
    assert one(nested).facts["calls"] == 2


def test_identities_hold_the_members_their_order_and_the_settings() -> None:
    a, b = says(GOOD, "a"), says(BAD, "b")
    ensembles = [
        VotesJudge([a, b]),
        VotesJudge([a, b], margin=2),
        VotesJudge([a, b, says(GOOD, "c")]),
        CascadeJudge([Step(a), Step(b)]),
        CascadeJudge([Step(b), Step(a)]),
        CascadeJudge([Step(a, "compliant"), Step(b)]),
    ]
    assert len({judge.identity for judge in ensembles}) == len(ensembles)
    assert VotesJudge([a, b]).identity == "votes/1:1[scripted-rules/1:a; scripted-rules/1:b]"


@pytest.mark.parametrize(("judges", "margin"), [(1, 1), (2, 3), (2, 0)])
def test_votes_that_could_never_decide_are_refused(judges: int, margin: int) -> None:
    with pytest.raises(ValueError, match="at least 2, and 1 to their number"):
        VotesJudge([says(GOOD, str(number)) for number in range(judges)], margin)
    with pytest.raises(ValueError, match="at least 2 steps"):
        CascadeJudge([Step(says(GOOD))])


def ensemble_recipe(tmp_path: Path, margin: int) -> OracleSettings:
    """A cascade of the rule's own checks and a vote of two files of verdicts."""
    for name, label in (("a", "compliant"), ("b", "compliant"), ("c", "non_compliant")):
        lines = [
            {"rule": rule, "prompt": "q", "response": response, "label": label, "reason": f"{name} says so"}
            for rule in ("red", "kind")
            for response in ("all red", "all blue")
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    votes = {
        "kind": "votes",
        "judges": [{"kind": "scripted", "path": str(tmp_path / f"{name}.jsonl")} for name in "abc"],
        "margin": margin,
    }
    steps = [{"judge": {"kind": "rules"}, "settles": "non_compliant"}, {"judge": votes}]
    return OracleSettings.model_validate({"kind": "judges", "llm": {"kind": "cascade", "steps": steps}})


def test_a_recipe_builds_them_and_each_member_remembers_what_it_said(tmp_path: Path) -> None:
    questions = [asked("all red").question, asked("all blue").question]

    def judged(margin: int) -> tuple[list[list[Label]], dict[str, int]]:
        with open_oracle(ensemble_recipe(tmp_path, margin), POLICY, tmp_path / "run") as oracle:
            verdicts = oracle.judge(questions)
            judge = judged_by(oracle)
            assert judge is not None
            return [[rule.label for rule in verdict.rules] for verdict in verdicts], dict(judge.meter.asked)

    first, asked_first = judged(1)
    assert first == [[BAD, GOOD], [GOOD, GOOD]]
    assert asked_first == {"red": 3, "kind": 6}  # "all red" is settled by the checks of `red`
    stricter, asked_then = judged(2)
    assert stricter == [[BAD, UNSURE], [UNSURE, UNSURE]]
    assert asked_then == {}


def test_a_margin_that_no_majority_can_reach_is_refused_with_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="margin is 4 and 3 judges vote"):
        ensemble_recipe(tmp_path, 4)


def test_a_judge_that_is_named_twice_is_refused() -> None:
    with pytest.raises(OracleError, match=r"judge scripted-rules/1:a is named twice: equal judges say the same"):
        VotesJudge([says(GOOD, "a"), says(BAD, "b"), says(GOOD, "a")])


def test_every_member_is_asked_whether_it_can_be_asked() -> None:
    class Gone(ScriptedRuleJudge):
        def check(self) -> str:
            raise OracleError("judge gone", "it is not there", "Bring it back")

    good, gone = says(GOOD, "a"), Gone(lambda rule, _: BAD, name="gone")
    assert VotesJudge([good, says(BAD, "b")]).check() == "judge scripted-rules/1:a; judge scripted-rules/1:b"
    for judge in (VotesJudge([good, gone]), CascadeJudge([Step(good), Step(gone)])):
        with pytest.raises(OracleError, match="judge gone: it is not there"):
            judge.check()
