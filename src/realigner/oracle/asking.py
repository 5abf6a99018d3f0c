"""Asking an oracle in batches, each distinct question once, and holding it to its contract."""

from __future__ import annotations

from collections.abc import Sequence

from realigner.errors import OracleError
from realigner.oracle.protocol import Oracle
from realigner.progress import SILENT, Progress
from realigner.records import Judgement, Label, RuleVerdict, Verdict

REMEDY = "Mend the oracle's judge(): one Verdict a question, in the order of the questions"
Key = tuple[tuple[tuple[str, str], ...], str]


def ask(
    oracle: Oracle, questions: Sequence[Judgement], batch_size: int = 256, progress: Progress = SILENT
) -> list[Verdict]:
    """Return one verdict a question, in order. Identical questions are asked once.

    Args:
        oracle: who judges.
        questions: all of them are held in memory; stream by calling this for a part at a time.
        batch_size: the most questions that the oracle is given in one call, at least 1.
        progress: counts distinct questions.

    Raises:
        OracleError: the oracle gave too few or too many verdicts, or something that is no verdict.
    """
    if batch_size < 1:
        raise OracleError(
            f"batch_size = {batch_size}", "an oracle is asked at least one question at a time", "Raise it"
        )
    keys = [question_key(question) for question in questions]
    distinct = dict(zip(keys, questions, strict=True))
    asked, answers = list(distinct.values()), []
    with progress.task("Judging", len(asked)) as advance:
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            answers.extend(_checked(oracle, batch))
            advance(len(batch))
    verdicts = dict(zip(distinct, answers, strict=True))
    return [verdicts[key] for key in keys]


def question_key(question: Judgement) -> Key:
    """Return the question as something hashable: equal keys are equal questions, with no hash between."""
    return tuple((turn["role"], turn["content"]) for turn in question.prompt), question.response


def _checked(oracle: Oracle, batch: Sequence[Judgement]) -> list[Verdict]:
    given = f"oracle {getattr(oracle, 'identity', type(oracle).__name__)}"
    answers: object = oracle.judge(batch)
    if not isinstance(answers, list | tuple):
        raise OracleError(f"{given} returned {type(answers).__name__}", "judge() returns a list of verdicts", REMEDY)
    if len(answers) != len(batch):
        raise OracleError(
            f"{given} returned {len(answers)} verdicts for {len(batch)} questions",
            "every question has exactly one verdict",
            REMEDY,
        )
    for number, answer in enumerate(answers, start=1):
        fault = _fault(answer)
        if fault:
            raise OracleError(f"{given}, answer {number} of {len(batch)}: {fault}", "an answer is a Verdict", REMEDY)
    return list(answers)


def _fault(answer: object) -> str:
    """Return what is wrong with an answer, or an empty string."""
    if not isinstance(answer, Verdict):
        return f"{type(answer).__name__} instead of Verdict"
    if not isinstance(answer.label, Label):
        return f"the label {answer.label!r} is no Label"
    if not isinstance(answer.reason, str):
        return f"the reason is {type(answer.reason).__name__}, not text"
    if not isinstance(answer.rules, tuple):
        return f"the rules are a {type(answer.rules).__name__}, not a tuple of RuleVerdict"
    for rule in answer.rules:
        if not isinstance(rule, RuleVerdict) or not isinstance(rule.label, Label):
            return f"{rule!r} is no RuleVerdict with a Label"
    return ""
