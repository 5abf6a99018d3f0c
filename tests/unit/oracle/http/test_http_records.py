"""Bodies out, replies in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realigner.errors import OracleError
from realigner.oracle.http.records import (
    ChatRequest,
    ModelSettings,
    NotACompletion,
    batch_line,
    decode,
    encode,
    error_text,
    read_completion,
)
from realigner.records import Message

HELLO = ChatRequest([Message(role="user", content="Hello")])


def reply(content: Any = "Hi", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def test_a_body_holds_what_was_set_and_nothing_else() -> None:
    assert ModelSettings("m").body(HELLO) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1024,
        "temperature": 0.0,
    }
    settings = ModelSettings("m", 9, None, "max_completion_tokens", {"reasoning_effort": "low"})
    assert settings.body(HELLO) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
    }


def test_a_request_overrules_the_settings() -> None:
    body = ModelSettings("m").body(ChatRequest([], {"type": "json_object"}, max_tokens=5, temperature=0.7, seed=3))
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (5, 0.7, 3)
    assert body["response_format"] == {"type": "json_object"}


def test_extra_keys_cannot_overrule_a_setting() -> None:
    with pytest.raises(OracleError, match="extra: stream"):
        ModelSettings("m", extra={"stream": True})


def test_a_batch_line_is_what_the_batch_api_takes_with_the_body_of_a_live_call() -> None:
    body = ModelSettings("m").body(ChatRequest([Message(role="user", content="é\u2028\n")]))
    line = batch_line("abc", body)
    assert json.loads(line) == {"custom_id": "abc", "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(encode(body)) == body


def test_text_that_utf8_cannot_carry_is_still_sent() -> None:
    body = ModelSettings("m").body(ChatRequest([Message(role="user", content="a\ud800b")]))
    assert json.loads(encode(body)) == body


def test_a_completion_is_read_with_what_it_cost() -> None:
    body = {**reply("Hi"), "model": "m-2", "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    found = read_completion(body)
    assert (found.text, found.finish, found.ok, found.error) == ("Hi", "stop", True, "")
    assert (found.prompt_tokens, found.completion_tokens, found.model) == (7, 2, "m-2")


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert read_completion(reply(parts)).text == "ab"


def test_nothing_of_a_reply_holds_what_cannot_be_stored() -> None:
    said = read_completion(
        decode(b'{"model": "m\\udfff", "choices": [{"message": {"content": "", "refusal": "n\\ud800"}}]}')
    )
    assert (said.model, said.error) == ("m?", "the judge refused: n?")
    for body in (b'{"error": {"message": "n\\ud800"}}', b'{"error": "n\\ud800"}', b'{"detail": "n\\ud800"}'):
        assert error_text(decode(body)) == ("", "n?")


def test_unpaired_surrogates_of_a_reply_become_question_marks() -> None:
    assert read_completion(decode(b'{"choices": [{"message": {"content": "a\\ud800"}}]}')).text == "a?"


@pytest.mark.parametrize(
    ("body", "finish", "error"),
    [
        (reply("He", "length"), "length", "cut at its token limit"),
        (reply("He", "max_tokens"), "length", "cut at its token limit"),
        (reply(None, "content_filter"), "content_filter", "withheld by a content filter"),
        (reply("", "content_filter"), "content_filter", "withheld by a content filter"),
        (reply(None, refusal="I will not"), "refusal", "the judge refused: I will not"),
        (reply("x", refusal="I will not"), "refusal", "the judge refused: I will not"),
        (reply(""), "error", "the answer is empty"),
        (reply(" \n"), "error", "the answer is empty"),
        (reply(None), "error", "the answer is empty"),
        (reply(None, "tool_calls"), "error", "the answer is empty"),
    ],
)
def test_what_is_cut_withheld_refused_or_empty_is_not_ok(body: Any, finish: str, error: str) -> None:
    found = read_completion(body)
    assert (found.ok, found.finish) == (False, finish)
    assert error in found.error


@pytest.mark.parametrize(
    "body",
    [
        None,
        3,
        [],
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": "x"},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"message": {"content": [1]}}]},
        {"error": "x"},
    ],
)
def test_other_json_is_no_completion(body: Any) -> None:
    with pytest.raises(NotACompletion):
        read_completion(body)


@pytest.mark.parametrize("raw", [b"", b"<html>", b'{"choices": [', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_no_reply(raw: bytes) -> None:
    with pytest.raises(NotACompletion, match="not JSON"):
        decode(raw)


@pytest.mark.parametrize("usage", [None, 3, {}, {"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": "7"}])
def test_counts_that_are_none_are_not_taken(usage: Any) -> None:
    assert read_completion({**reply(), "usage": usage}).prompt_tokens is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"error": {"message": "no", "code": "c"}}, ("c", "no")),
        ({"error": {"message": "no", "type": "t", "code": None}}, ("t", "no")),
        ({"error": "no"}, ("", "no")),
        ({"detail": "no"}, ("", "no")),
        ({"detail": [{"loc": ["body"]}]}, ("", '[{"loc": ["body"]}]')),
        ({"message": "no", "code": 400}, ("400", "no")),
        (None, ("", "")),
        ([1], ("", "")),
    ],
)
def test_the_words_of_an_error_are_found_however_a_vendor_writes_them(body: Any, found: tuple[str, str]) -> None:
    assert error_text(body) == found
