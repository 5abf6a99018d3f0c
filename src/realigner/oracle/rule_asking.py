"""Asking a judge of single rules, and holding it to its contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from realigner.errors import OracleError
from realigner.oracle.judge import RuleAnswer, RuleJudge, RuleQuestion
from realigner.records import Label, RuleVerdict

REMEDY = "Mend the judge's answer(): (place, RuleAnswer) exactly once a question"


def ask_rules(judge: RuleJudge, questions: Iterable[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
    """Yield (place, answer) as the judge gives them, each once, with the verdicts in the order of the rules.

    A judge that `streams` takes the questions one by one as it has room; any other gets a list of all.

    Raises:
        OracleError: the judge left a question out, answered one twice, or gave something that is no answer.
    """
    given = f"judge {judge.identity}"
    taken: list[RuleQuestion] = []
    open_places: set[int] = set()
    passing = _noted(questions, taken, open_places)
    given_to_it: Any = passing if getattr(judge, "streams", False) else list(passing)
    for place, answer in judge.answer(given_to_it):
        if place not in open_places:
            raise OracleError(f"{given} answered place {place!r}", "it answers each question exactly once", REMEDY)
        fault = _fault(answer, taken[place])
        if fault:
            raise OracleError(
                f"{given}, question {place + 1}: {fault}",
                "an answer has one verdict a rule, in their order, and keeps nothing invalid",
                REMEDY,
            )
        open_places.discard(place)
        yield place, _sendable(answer)
    for _ in passing:  # a judge that streams may have ended before the questions did
        pass
    if open_places:
        raise OracleError(
            f"{given} left {len(open_places)} of {len(taken)} questions without an answer",
            "what cannot be answered is Label.INVALID with a reason",
            REMEDY,
        )


def _noted(
    questions: Iterable[RuleQuestion], taken: list[RuleQuestion], open_places: set[int]
) -> Iterator[RuleQuestion]:
    for question in questions:
        open_places.add(len(taken))
        taken.append(question)
        yield question


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
