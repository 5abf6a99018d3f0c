"""Checks in words, for people who do not read YAML: auditors, `policy show`, `policy diff`."""

from __future__ import annotations

from realigner.policy.base import BaseCheck, Target, quote
from realigner.policy.checks import AllCheck, AnyCheck, NotCheck
from realigner.policy.code import PythonCheck
from realigner.policy.rule import Rule
from realigner.policy.text_checks import LengthCheck, ReadabilityCheck, RegexCheck, TextCheck, WordsCheck

_PLACES = {"prompt": "the prompt", "last_user_turn": "the last user turn", "response": "the response"}


def describe_checks(rule: Rule) -> tuple[str, ...]:
    """Return a rule's checks, one sentence each, in the order in which they are asked."""
    lines = []
    if rule.when is not None:
        lines.append(f"Applies only where {describe(rule.when, 'prompt')}.")
    if rule.forbid is not None:
        lines.append(f"Broken where {describe(rule.forbid, 'response')}.")
    if rule.require is not None:
        lines.append(f"Broken unless {describe(rule.require, 'response')}.")
    if rule.unless is not None:
        lines.append(f"Excused where {describe(rule.unless, 'response')}.")
    return tuple(lines)


def describe(check: BaseCheck, default: Target) -> str:
    """Return when a check matches, as a clause; `default` is the text it looks at where it names none."""
    if isinstance(check, AllCheck):
        return " and ".join(_inner(part, default) for part in check.every)
    if isinstance(check, AnyCheck):
        return " or ".join(_inner(part, default) for part in check.some)
    if isinstance(check, NotCheck):
        return f"it is not so that {_inner(check.negated, default)}"
    if isinstance(check, PythonCheck):
        return f"the function {check.target} says yes"
    assert isinstance(check, TextCheck)
    return f"{_PLACES[check.where or default]} {_predicate(check)}"


def _predicate(check: TextCheck) -> str:
    if isinstance(check, WordsCheck):
        shown = ", ".join(quote(word) for word in check.words)
        return f"contains {shown}" if len(check.words) == 1 else f"contains one of {shown}"
    if isinstance(check, RegexCheck):
        return f"matches the expression `{check.pattern}`{' in any case' if check.ignore_case else ''}"
    if isinstance(check, LengthCheck):
        return f"has {check.length.in_words()}"
    if isinstance(check, ReadabilityCheck):
        return f"has {check.readability.in_words()}"
    raise TypeError(f"no words for {type(check).__name__}")


def _inner(check: BaseCheck, default: Target) -> str:
    """Combinations inside combinations stand in brackets."""
    text = describe(check, default)
    return f"({text})" if isinstance(check, (AllCheck, AnyCheck)) else text
