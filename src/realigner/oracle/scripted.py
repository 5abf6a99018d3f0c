"""An oracle that says what it was told to say: the public test double, and the door for verdicts made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from realigner.errors import OracleError
from realigner.oracle.verdict_lines import check_keys, lines_of, read_label, read_prompt, read_text, refusal, shorten
from realigner.policy import Policy
from realigner.records import Judgement, Label, RuleVerdict, Verdict, prompt_text, text_hash

Key = tuple[str, str]
"""The prompt as `prompt_text` gives it, and the response."""
Script = Mapping[Key, Label | Verdict] | Callable[[Judgement], Label | Verdict]

KEYS = ("prompt", "response", "label", "reason", "rules")
RULE_KEYS = ("rule", "label", "reason")


class ScriptedOracle:
    """Answers from a table or a function.

    Args:
        verdicts: by (prompt text, response), or a function of the question. A bare label becomes a verdict.
        default: the answer to questions that a table does not hold. Without one, such a question is an error.
        policy: the policy that the verdicts belong to, for the identity.
        name: identity of a function; by default its qualified name. A table is identified by its content.
    """

    def __init__(
        self,
        verdicts: Script,
        default: Label | Verdict | None = None,
        *,
        policy: Policy | None = None,
        name: str | None = None,
    ) -> None:
        self._verdicts = verdicts
        self._default = None if default is None else _as_verdict(default)
        if name is None:
            name = _qualified_name(verdicts) if callable(verdicts) else _table_hash(verdicts)
        owner = policy.hash if policy is not None else "no-policy"
        default_name = "" if self._default is None else f":default={text_hash(_canonical(self._default))}"
        self._identity = f"scripted/1:{owner}:{name}{default_name}"

    @classmethod
    def from_file(cls, path: str | Path, policy: Policy | None = None) -> ScriptedOracle:
        """Read JSON Lines of `{prompt, response, label, reason?, rules?}`; the whole file is held in memory.

        `prompt` is a text or a list of messages, `rules` a list of `{rule, label, reason?}`.

        Raises:
            OracleError: the file or a line (named by its number) cannot be used, or two lines disagree.
        """
        path = Path(path)
        if not path.is_file():
            raise OracleError(f"scripted verdicts {path}", "no such file", "Check oracle.path")
        verdicts: dict[Key, Label | Verdict] = {}
        places: dict[Key, str] = {}
        for source, columns in lines_of(path):
            key, verdict = _read_line(columns, source)
            if verdicts.setdefault(key, verdict) != verdict:
                raise OracleError(
                    f"{source}: another verdict than at {places[key]} for the same prompt and response",
                    "a response has one verdict",
                    "Remove one of the two lines",
                )
            places.setdefault(key, source)
        if not verdicts:
            raise OracleError(f"scripted verdicts {path}", "it has no line", "Check oracle.path")
        return cls(verdicts, policy=policy)

    @property
    def identity(self) -> str:
        """`scripted/1:POLICY_HASH:CONTENT`."""
        return self._identity

    def judge(self, questions: Sequence[Judgement]) -> list[Verdict]:
        """Return the scripted verdicts, in order.

        Raises:
            OracleError: a question has no scripted verdict and there is no default.
        """
        return [self._answer(question) for question in questions]

    def _answer(self, question: Judgement) -> Verdict:
        if callable(self._verdicts):
            return _as_verdict(self._verdicts(question))
        found = self._verdicts.get((prompt_text(question.prompt), question.response))
        if found is not None:
            return _as_verdict(found)
        if self._default is not None:
            return self._default
        raise OracleError(
            f"prompt {shorten(prompt_text(question.prompt))}, response {shorten(question.response)}",
            "it has no scripted verdict and there is no default",
            "Add a line for it, or give a default",
        )


def _as_verdict(answer: Label | Verdict) -> Verdict:
    # Anything else goes on as it is: `ask` names it as a breach of contract.
    return Verdict(answer, reason="scripted") if isinstance(answer, Label) else answer


def _qualified_name(function: object) -> str:
    module = getattr(function, "__module__", type(function).__module__)
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _table_hash(verdicts: Mapping[Key, Label | Verdict]) -> str:
    lines = ((*key, _canonical(_as_verdict(answer))) for key, answer in verdicts.items())
    return text_hash(*(part for line in sorted(lines) for part in line))


def _canonical(verdict: Verdict) -> str:
    rules = [[rule.rule, rule.label, rule.reason] for rule in verdict.rules]
    return json.dumps([verdict.label, verdict.reason, rules])


def _read_line(columns: Mapping[str, Any], source: str) -> tuple[Key, Verdict]:
    check_keys(columns, KEYS, ("prompt", "response", "label"), source)
    rules = columns.get("rules") or []
    if not isinstance(rules, list):
        raise refusal(source, "rules", rules, "a list of {rule, label, reason?}")
    verdict = Verdict(
        read_label(columns["label"], source),
        tuple(_rule(rule, source) for rule in rules),
        read_text(columns.get("reason", "scripted"), "reason", source),
    )
    return (read_prompt(columns["prompt"], source), read_text(columns["response"], "response", source)), verdict


def _rule(content: Any, source: str) -> RuleVerdict:
    if not isinstance(content, dict):
        raise refusal(source, "rules", content, "a list of {rule, label, reason?}")
    check_keys(content, RULE_KEYS, ("rule", "label"), source)
    reason = read_text(content.get("reason", "scripted"), "reason", source)
    return RuleVerdict(read_text(content["rule"], "rule", source), read_label(content["label"], source), reason)
