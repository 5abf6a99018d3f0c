"""Judges of single rules that ask no model: a rule's own checks, and verdicts that were made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.errors import OracleError
from realigner.oracle.judge import Fact, JudgeCosts, RuleAnswer, RuleQuestion
from realigner.oracle.rules import VERSION
from realigner.oracle.verdict_lines import check_keys, lines_of, read_label, read_prompt, read_text, shorten
from realigner.policy import Rule
from realigner.recipe_judges import RulesJudgeSettings, ScriptedJudgeSettings
from realigner.records import Judgement, Label, RuleVerdict, prompt_text, text_hash

if TYPE_CHECKING:
    from realigner.oracle.build import JudgeContext

KEYS = ("rule", "prompt", "response", "label", "reason")
RuleKey = tuple[str, str, str]
"""The rule's id, the prompt as `prompt_text` gives it, and the response."""
RuleScript = Mapping[RuleKey, Label | RuleVerdict] | Callable[[Rule, Judgement], Label | RuleVerdict]


class ChecksJudge:
    """Judges wording rules by their own checks. Free, so nothing of it is stored; a rule without checks is unsure."""

    free = True

    @property
    def identity(self) -> str:
        """`checks/VERSION`."""
        return f"checks/{VERSION}"

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield what the rules' checks say."""
        for place, asked in enumerate(questions):
            verdicts = tuple(_by_checks(rule, asked.question) for rule in asked.rules)
            yield place, RuleAnswer(verdicts, keep=all(verdict.label is not Label.INVALID for verdict in verdicts))


def _by_checks(rule: Rule, question: Judgement) -> RuleVerdict:
    if not rule.has_checks:
        return RuleVerdict(rule.id, Label.UNSURE, "the rule has no checks")
    return rule.judge(question.prompt, question.response)


class ScriptedRuleJudge:
    """Answers from a table or a function: the public test double, and the door for verdicts made elsewhere.

    Args:
        verdicts: by (rule id, prompt text, response), or a function of (rule, question). A bare label becomes a
            verdict; `invalid` is an answer that is not kept.
        default: the answer to questions that a table does not hold. Without one, such a question is an error.
        name: identity of a function; by default its qualified name. A table is identified by its content.
        costs: what it claims to cost, for tests of plans and hard stops.
        facts: what every answer says of how it was made.
    """

    def __init__(
        self,
        verdicts: RuleScript,
        default: Label | None = None,
        *,
        name: str | None = None,
        costs: JudgeCosts | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        self._verdicts, self._default, self._facts = verdicts, default, dict(facts or {})
        if name is None:
            name = verdicts.__qualname__ if callable(verdicts) else _table_hash(verdicts)
        self._identity = f"scripted-rules/1:{name}{'' if default is None else f':default={default.value}'}"
        if costs is not None:
            self.costs = costs
        self.calls = 0
        """Questions answered so far."""

    @classmethod
    def from_file(cls, path: str | Path) -> ScriptedRuleJudge:
        """Read JSON Lines of `{rule, prompt, response, label, reason?}`; the whole file is held in memory.

        `prompt` is a text or a list of messages.

        Raises:
            OracleError: the file or a line (named by its number) cannot be used, or two lines disagree.
        """
        path = Path(path)
        if not path.is_file():
            raise OracleError(f"scripted verdicts of rules {path}", "no such file", "Check the judge's path")
        verdicts: dict[RuleKey, Label | RuleVerdict] = {}
        for source, columns in lines_of(path):
            key, verdict = _read_line(columns, source)
            if verdicts.setdefault(key, verdict) != verdict:
                raise OracleError(
                    f"{source}: another verdict than before for the same rule, prompt and response",
                    "a rule has one verdict on a response",
                    "Remove one of the two lines",
                )
        if not verdicts:
            raise OracleError(f"scripted verdicts of rules {path}", "it has no line", "Check the judge's path")
        return cls(verdicts)

    @property
    def identity(self) -> str:
        """`scripted-rules/1:CONTENT`."""
        return self._identity

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield the scripted verdicts, in order.

        Raises:
            OracleError: a question has no scripted verdict and there is no default.
        """
        for place, asked in enumerate(questions):
            self.calls += 1
            verdicts = tuple(self._verdict(rule, asked.question) for rule in asked.rules)
            keep = all(verdict.label is not Label.INVALID for verdict in verdicts)
            yield place, RuleAnswer(verdicts, keep, dict(self._facts))

    def _verdict(self, rule: Rule, question: Judgement) -> RuleVerdict:
        found: Label | RuleVerdict | None
        if callable(self._verdicts):
            found = self._verdicts(rule, question)
        else:
            found = self._verdicts.get((rule.id, prompt_text(question.prompt), question.response), self._default)
        if found is None:
            raise OracleError(
                f"rule {rule.id!r}, prompt {shorten(prompt_text(question.prompt))}, "
                f"response {shorten(question.response)}",
                "it has no scripted verdict and there is no default",
                "Add a line for it, or give a default",
            )
        return RuleVerdict(rule.id, found, "scripted") if isinstance(found, Label) else found


def _table_hash(verdicts: Mapping[RuleKey, Label | RuleVerdict]) -> str:
    lines = sorted(
        (*key, found.value, "") if isinstance(found, Label) else (*key, found.label.value, found.reason)
        for key, found in verdicts.items()
    )
    return text_hash(*(part for line in lines for part in line))


def _read_line(columns: Mapping[str, Any], source: str) -> tuple[RuleKey, RuleVerdict]:
    check_keys(columns, KEYS, KEYS[:4], source)
    rule = read_text(columns["rule"], "rule", source)
    reason = read_text(columns.get("reason", "scripted"), "reason", source)
    key = (rule, read_prompt(columns["prompt"], source), read_text(columns["response"], "response", source))
    return key, RuleVerdict(rule, read_label(columns["label"], source), reason)


def build_checks(settings: RulesJudgeSettings, context: JudgeContext) -> ChecksJudge:  # noqa: ARG001
    """Return the judge of kind `rules`."""
    return ChecksJudge()


def build_scripted(settings: ScriptedJudgeSettings, context: JudgeContext) -> ScriptedRuleJudge:  # noqa: ARG001
    """Return the judge of kind `scripted`.

    Raises:
        OracleError: the file cannot be used.
    """
    return ScriptedRuleJudge.from_file(settings.path)
