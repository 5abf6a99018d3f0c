"""Asking a judge of single rules, and holding it to its contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from realigner.errors import OracleError
from realigner.oracle.judge import RuleAnswer, RuleJudge, RuleQuestion
from realigner.records import Label, RuleVerdict

REMEDY = "Mend the judge's answer(): (place, RuleAnswer) exactly once a question"


def ask_rules(judge: RuleJudge, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
    """Yield (place, answer) as the judge gives them, each once, with the verdicts in the order of the rules.

    Raises:
        OracleError: the judge left a question out, answered one twice, or gave something that is no answer.
    """
    given = f"judge {judge.identity}"
    open_places = set(range(len(questions)))
    for place, answer in judge.answer(questions):
        if place not in open_places:
            raise OracleError(f"{given} answered place {place!r}", "it answers each question exactly once", REMEDY)
        fault = _fault(answer, questions[place])
        if fault:
            raise OracleError(
                f"{given}, question {place + 1} of {len(questions)}: {fault}",
                "an answer has one verdict a rule, in their order, and keeps nothing invalid",
                REMEDY,
            )
        open_places.discard(place)
        yield place, _sendable(answer)
    if open_places:
        raise OracleError(
            f"{given} left {len(open_places)} of {len(questions)} questions without an answer",
            "what cannot be answered is Label.INVALID with a reason",
            REMEDY,
        )


def _sendable(answer: RuleAnswer) -> RuleAnswer:
    """Return the answer with reasons that every file can hold: a model may write half of a surrogate pair."""
    if not any(_broken(verdict.reason) for verdict in answer.verdicts):
        return answer
    clean = (replace(v, reason=v.reason.encode("utf-8", "replace").decode("utf-8")) for v in answer.verdicts)
    return replace(answer, verdicts=tuple(clean))


def _broken(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _fault(answer: object, asked: RuleQuestion) -> str:
    """Return what is wrong with an answer, or an empty string."""
    if not isinstance(answer, RuleAnswer):
        return f"{type(answer).__name__} instead of RuleAnswer"
    for verdict in answer.verdicts:
        if not isinstance(verdict, RuleVerdict) or not isinstance(verdict.label, Label):
            return f"{verdict!r} is no RuleVerdict with a Label"
        if not isinstance(verdict.reason, str):
            return f"the reason of {verdict.rule} is {type(verdict.reason).__name__}, not text"
    found, wanted = ([verdict.rule for verdict in answer.verdicts], [rule.id for rule in asked.rules])
    if found != wanted:
        return f"verdicts on {found}, asked for {wanted}"
    if answer.keep and any(verdict.label is Label.INVALID for verdict in answer.verdicts):
        return "an invalid verdict is to be kept (keep=True)"
    return ""
