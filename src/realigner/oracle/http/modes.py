"""How a judge's answer is held to its form: by a JSON schema, as any JSON object, or by the words of the prompt alone.

Which of them a server can do is found out once, before the first question, and then fixed: verdicts made in different
modes are verdicts of different judges, so the mode is part of a judge's identity and never changes inside a run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from realigner import atomic
from realigner.errors import OracleError
from realigner.oracle.http.client import ChatClient
from realigner.oracle.http.parse import Unreadable, read_answer
from realigner.oracle.http.records import ChatRequest, Completion
from realigner.policy import Rule
from realigner.policy.prompt import answer_schema
from realigner.records import Judgement, text_hash, user_prompt

PATIENCE = 60.0
"""Seconds that a probe may be tried again: a server that fails at the start is to be known soon."""
_FORM_REFUSED = re.compile(r"response_format|json_?schema|json_?object|structured|grammar|guided", re.IGNORECASE)


class Mode(StrEnum):
    """How the form of an answer is enforced, the strongest first."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Probe:
    """What one trivial question to the server showed."""

    mode: Mode
    readable: bool
    """Whether the answer was a verdict. False: the server talks, but not as a judge."""
    model: str
    """The model as the server named it."""
    seconds: float
    answer: str
    """The beginning of the last answer."""


PROBE_RULE = Rule(id="probe", by="llm", text="The response names a colour.")
PROBE_QUESTION = Judgement(user_prompt("What colour is the sky on a clear day?"), "Blue.")

Ask = Callable[[Sequence[Rule], Judgement, Mode], ChatRequest]


def response_format(mode: Mode, rules: Sequence[Rule]) -> dict[str, Any] | None:
    """Return what a request says about the form of its answer."""
    if mode is Mode.PLAIN:
        return None
    if mode is Mode.JSON_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "verdicts", "strict": True, "schema": answer_schema(rules)}}


def probe(client: ChatClient, modes: Sequence[Mode], ask: Ask) -> Probe:
    """Ask one trivial question in each mode until an answer can be read, and say what the server can do.

    A server may refuse a mode, or accept it and answer as it likes; both lead to the next one. A single mode that was
    asked for is taken also where its answer cannot be read (`readable` is false).

    Raises:
        OracleError: the server cannot be reached, refuses the key, the model, or every mode; or none of several modes
            leads to an answer that can be read.
        JudgeError: it asks to wait too long.
    """
    accepted: Probe | None = None
    refusal = ""
    for mode in modes:
        completion = _one(client, ask([PROBE_RULE], PROBE_QUESTION, mode))
        if completion.finish == "error" and completion.status != 200:
            refusal = f"{mode}: {completion.error}"
            continue
        beginning = completion.text[:80] or completion.error
        found = Probe(mode, True, completion.model, completion.seconds, beginning)
        if completion.ok and _readable(completion.text, mode):
            return found
        accepted = accepted or Probe(mode, False, completion.model, completion.seconds, beginning)
    if accepted is None:
        raise _refused(client, modes, refusal)
    if len(modes) > 1:
        raise OracleError(
            f"judge {client.model.model} at {client.endpoint.url}",
            f"it answers a trivial question in no output mode with a verdict, but: {accepted.answer!r}",
            "Take a model that follows instructions; or give it room (max_tokens), or name the mode (output)",
        )
    return accepted


def refuses_form(completion: Completion, mode: Mode) -> bool:
    """Whether a server that took a mode at first no longer does."""
    refused = completion.finish == "error" and completion.status in (400, 415, 422, 501)
    return refused and mode is not Mode.PLAIN and bool(_FORM_REFUSED.search(completion.error))


def _one(client: ChatClient, request: ChatRequest) -> Completion:
    budget = min(PATIENCE, client.patience.budget)
    return next(completion for _, completion in client.complete([request], budget=budget))


def _readable(text: str, mode: Mode) -> bool:
    try:
        read_answer(text, [PROBE_RULE], alone=mode is not Mode.PLAIN)
    except Unreadable:
        return False
    return True


def _refused(client: ChatClient, modes: Sequence[Mode], refusal: str) -> OracleError:
    given = f"judge {client.model.model} at {client.endpoint.url}"
    if len(modes) == 1 and modes[0] is not Mode.PLAIN and _FORM_REFUSED.search(refusal):
        return OracleError(
            given, f"the server does not support output: {refusal}", "Set output: auto, which falls back step by step"
        )
    return OracleError(
        given,
        f"the server refuses a trivial question ({refusal})",
        "Correct model or the settings it names; limit_field, temperature: null and extra adapt a request",
    )


def pins_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the file that remembers, for this user, which mode each server and model was found to support."""
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "realigner" / "output-modes.json"


def pinned(path: Path, *judge: str) -> Mode | None:
    """Return the mode that was found for a judge before; None where none was, or the file cannot be read."""
    with suppress(OSError, ValueError, AttributeError):
        return Mode(json.loads(path.read_text(encoding="utf-8")).get(text_hash(*judge)))
    return None


def pin(path: Path, mode: Mode, *judge: str) -> None:
    """Remember the mode that was found for a judge. A cache: where it cannot be written, the next run asks again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        known = {**(known if isinstance(known, dict) else {}), text_hash(*judge): mode.value}
        atomic.write_text(path, json.dumps(known, indent=1, sort_keys=True))
