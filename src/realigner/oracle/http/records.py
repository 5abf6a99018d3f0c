"""Requests and replies as the chat-completions API writes them: one definition for live calls and for batch files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, to_json

from realigner.endpoint import check_extra
from realigner.records import Message

BATCH_URL = "/v1/chat/completions"
"""What a line of a batch file calls the place that it is meant for."""

Finish = Literal["stop", "length", "content_filter", "refusal", "error"]

_FINISHES: dict[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}
_OWN_KEYS = (
    "model",
    "messages",
    "response_format",
    "stream",
    "n",
    "temperature",
    "max_tokens",
    "max_completion_tokens",
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation to be continued by a model. What is None is left to `ModelSettings`, or else to the server."""

    messages: Sequence[Message]
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The model that is asked, and what every request says to it."""

    model: str
    max_tokens: int = 1024
    """The most tokens of an answer, reasoning included."""
    temperature: float | None = 0.0
    """None: not sent, for models that refuse it."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the request's body, e.g. `{"chat_template_kwargs": {"enable_thinking": false}}`."""

    def __post_init__(self) -> None:
        check_extra(self.extra)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the JSON body of a request."""
        temperature = self.temperature if request.temperature is None else request.temperature
        body: dict[str, Any] = {"model": self.model, "messages": list(request.messages)}
        body[self.limit_field] = self.max_tokens if request.max_tokens is None else request.max_tokens
        if temperature is not None:
            body["temperature"] = temperature
        if request.seed is not None:
            body["seed"] = request.seed
        if request.response_format is not None:
            body["response_format"] = request.response_format
        body.update(self.extra)
        return body


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one request: a text, or the reason why there is none."""

    text: str
    """Empty where there is none."""
    finish: Finish
    """`length`: cut. `content_filter`, `refusal`: withheld by the server or the model. `error`: no answer at all."""
    error: str = ""
    """Why there is no whole text; empty where there is one. Never contains the key."""
    status: int = 200
    """HTTP status of the last reply; 0 where there was none."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str = ""
    """The model as the server named it."""
    attempts: int = 1
    """Requests sent for it, this one included."""
    seconds: float = 0.0
    """From the first attempt's start to the reply, waiting between attempts included."""

    @property
    def ok(self) -> bool:
        """Whether the text is there and whole."""
        return self.finish == "stop"


class NotACompletion(ValueError):
    """The body of a reply is no chat completion; the message says what is wrong with it."""


def batch_line(custom_id: str, body: Mapping[str, Any]) -> str:
    """Return a request as one line of a batch file, without the line break. Pure ASCII, so that no reader can err."""
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": BATCH_URL, "body": body})


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a body as it is sent. Unpaired surrogates, which UTF-8 cannot carry, go as JSON escapes."""
    try:
        return to_json(body)  # four times as fast as json.dumps, and in the path of every call
    except PydanticSerializationError:
        return json.dumps(body).encode("ascii")


def decode(raw: bytes) -> Any:
    """Return the JSON value of a reply's body.

    Raises:
        NotACompletion: it is not JSON.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise NotACompletion(f"the reply is not JSON; it begins {_beginning(raw)}") from None


def read_completion(body: Any) -> Completion:
    """Return what a reply's body says.

    Raises:
        NotACompletion: it does not have the form of a chat completion.
    """
    try:
        choice = body["choices"][0]
        # Text completions, of the older API that goes on from a prompt, have the text where chats have a message.
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        text = _text(message.get("content"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NotACompletion(
            "the reply has no choices[0].message with a content, so it is no chat completion"
        ) from None
    refusal = message.get("refusal")
    finish: Finish = _FINISHES.get(str(choice.get("finish_reason")), "stop")
    error = ""
    if isinstance(refusal, str) and refusal:
        finish, error = "refusal", f"the judge refused: {sendable(refusal[:200])}"
    elif finish == "length":
        error = "the answer was cut at its token limit"
    elif finish == "content_filter":
        error = "the answer was withheld by a content filter"
    elif not text.strip():
        finish, error = "error", "the answer is empty"
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    model = body.get("model")
    return Completion(
        text=text,
        finish=finish,
        error=error,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        model=sendable(model[:200]) if isinstance(model, str) else "",
    )


def error_text(body: Any) -> tuple[str, str]:
    """Return (code, message) of an error reply, as vendors write it; empty where it has none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return "", sendable(error)
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") or error.get("type") or ""
    return str(code), sendable(message) if isinstance(message, str) else json.dumps(message)


def _text(content: Any) -> str:
    """Join the parts of a content; None is an empty one."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(type(content))
    return sendable(content)


def sendable(text: str) -> str:
    """Return text that UTF-8 can carry, so that it can be stored: an unpaired surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _beginning(raw: bytes, length: int = 60) -> str:
    text = raw[: 4 * length].decode("utf-8", "replace")
    return repr(text if len(text) <= length else text[:length] + "…")
