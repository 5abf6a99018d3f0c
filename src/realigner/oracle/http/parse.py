"""The one strict parser of a judge's answer. What it does not accept is no verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from realigner.oracle.http.records import sendable
from realigner.policy import Rule
from realigner.policy.prompt import VERDICTS, answer_keys
from realigner.records import Label, RuleVerdict

LONGEST_ANSWER = 200_000
"""Characters of an answer that is looked at."""
LONGEST_REASON = 2_000
"""Characters of a reason that are kept."""
MOST_STARTS = 100
"""Opening braces of an answer in prose at which an object is looked for."""

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE_END = re.compile(r"\s*(?:```)?\s*\Z")


class Unreadable(ValueError):
    """The answer is not a verdict; the message says why, in words for the judge and for people."""


def read_answer(text: str, rules: Sequence[Rule], *, alone: bool) -> tuple[RuleVerdict, ...]:
    """Return the verdicts of an answer, one a rule, in the order of the rules.

    The object has the keys `answer_keys(rules)`, each an object of exactly `reason` (not blank) and `verdict` (one of
    compliant, non_compliant, unsure). No key may stand twice.

    Args:
        text: what the judge wrote.
        rules: what it was asked.
        alone: the text must be the object and nothing else. Otherwise words may stand before it, as plain models write
            them, but nothing after it; and no second, different object with the same keys: an answer that first
            quotes what the response under judgement wants to hear is no verdict.

    Raises:
        Unreadable: anything else.
    """
    if len(text) > LONGEST_ANSWER:
        raise Unreadable(f"it is longer than {LONGEST_ANSWER:,} characters")
    keys = answer_keys(rules)
    answer = _object(text.strip()) if alone else _last_object(_THOUGHT.sub("", text, count=1), keys)
    if tuple(sorted(answer)) != tuple(sorted(keys)):
        raise Unreadable(f"its keys are {_named(answer)}, not {_named(keys)}")
    return tuple(_verdict(rule, key, answer[key]) for rule, key in zip(rules, keys, strict=True))


def _verdict(rule: Rule, key: str, entry: Any) -> RuleVerdict:
    if not isinstance(entry, dict) or set(entry) != {"reason", "verdict"}:
        raise Unreadable(f"{key} is not an object of a reason and a verdict")
    reason, verdict = entry["reason"], entry["verdict"]
    if not isinstance(reason, str) or not reason.strip():
        raise Unreadable(f"{key} gives no reason")
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        raise Unreadable(f"{key} has a verdict that is none of {', '.join(VERDICTS)}")
    return RuleVerdict(rule.id, Label(verdict), sendable(reason.strip())[:LONGEST_REASON])


def _object(text: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(_fault(error)) from None
    if not isinstance(value, dict):
        raise Unreadable("it is JSON, but no object")
    return value


def _last_object(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the object that ends the text."""
    found: list[dict[str, Any]] = []
    end = start = 0
    for _ in range(MOST_STARTS):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, start = _DECODER.raw_decode(text, start)
        except Unreadable as error:  # a key twice: hidden by nothing
            raise error from None
        except (ValueError, RecursionError):
            start += 1
            continue
        end = start
        found.append(value)
    if not found:
        raise Unreadable("it contains no JSON object")
    if not _FENCE_END.match(text, end):
        raise Unreadable("something follows its JSON object")
    if any(value != found[-1] for value in found if set(value) & set(keys)):
        raise Unreadable("it contains two different answers")
    return found[-1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("a key stands twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not JSON")


def _fault(error: Exception) -> str:
    return str(error) if isinstance(error, Unreadable) else "it is not JSON from its first to its last character"


def _named(keys: Any) -> str:
    return ", ".join(str(key)[:40] for key in list(keys)[:5]) or "none"


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
