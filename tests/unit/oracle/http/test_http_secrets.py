"""A key is in the header of a request, and nowhere else: not in an error, a traceback, a log, a store or an answer."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_server import FaultServer

from realigner.endpoint import open_endpoint
from realigner.errors import RealignerError
from realigner.oracle.http import ChatClient, ChatRequest, HttpJudge, ModelSettings, Patience
from realigner.oracle.judge import RuleQuestion
from realigner.policy import Rule
from realigner.recipe import Recipe
from realigner.records import Judgement, Message, user_prompt

KEY = "sk-very-secret-0123456789"
WITH_KEY = {"key_env": "JUDGE_KEY", "environment": {"JUDGE_KEY": KEY}}
KIND = Rule(id="kind", by="llm", text="The response is kind.")
MakeJudge = Callable[..., HttpJudge]
Connect = Callable[..., ChatClient]


def everything_of(error: BaseException) -> str:
    """Return all that any way of printing an error could show, what caused it included."""
    shown = []
    seen: list[BaseException] = [error]
    for link in seen:
        shown += [str(link), repr(link), repr(vars(link)), *traceback.format_exception(link)]
        shown += [
            repr(value) for frame, _ in traceback.walk_tb(link.__traceback__) for value in frame.f_locals.values()
        ]
        seen += [other for other in (link.__cause__, link.__context__) if other is not None and other not in seen]
    return "\n".join(shown)


def test_the_key_travels_in_the_header_alone(connect: Connect, server: FaultServer) -> None:
    list(connect("ok,8", **WITH_KEY).complete([ChatRequest([Message(role="user", content="item-1")])]))
    request = server.last("ok,8")
    assert request["headers"]["authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps([request["body"], request["path"]])


FAULTS = (
    "401*",
    "403*",
    "404*",
    "429-quota*",
    "429-hour*",
    "elsewhere*",
    "html*",
    "500*",
    "hang*",
    "reset*",
    "half*",
    "huge*",
)


@pytest.mark.parametrize("fault", [*FAULTS, "echo-error*"])
def test_no_error_shows_the_key_however_it_is_printed(judge: MakeJudge, fault: str) -> None:
    asked = judge(fault, budget=0.3, timeout=0.2, **WITH_KEY)
    with pytest.raises(RealignerError) as caught:
        list(asked.answer([RuleQuestion((KIND,), Judgement(user_prompt("q"), "item-1"))]))
    assert KEY not in everything_of(caught.value)


def test_unreachable_servers_do_not_show_the_key() -> None:
    for url in ("http://127.0.0.1:9/v1", "https://no-such-host.invalid/v1", "https://127.0.0.1:9/v1"):
        client = ChatClient(open_endpoint(url, "K", environment={"K": KEY}), ModelSettings("m"), patience=Patience(0.1))
        with pytest.raises(RealignerError) as caught:
            list(client.complete([ChatRequest([Message(role="user", content="x")])]))
        assert KEY not in everything_of(caught.value)
        client.close()


def test_a_key_that_the_server_echoes_is_taken_out_of_answers(connect: Connect) -> None:
    ((_, completion),) = connect("echo", **WITH_KEY).complete([ChatRequest([Message(role="user", content="item-1")])])
    assert completion.text == '{"key": "Bearer [key]"}'
    ((_, refused),) = connect("echo-error", **WITH_KEY).complete(
        [ChatRequest([Message(role="user", content="item-1")])]
    )
    assert refused.error == "status 400: bad key Bearer [key]"


def test_neither_a_judge_nor_its_answers_show_the_key(judge: MakeJudge) -> None:
    asked = judge("ok", **WITH_KEY)
    (answer,) = dict(asked.answer([RuleQuestion((KIND,), Judgement(user_prompt("q"), "item-1"))])).values()
    client = asked.client
    shown = [
        asked,
        vars(asked),
        client,
        vars(client),
        client.endpoint,
        asked.identity,
        asked.costs,
        asked.check(),
        answer,
    ]
    assert KEY not in repr(shown)


def test_no_log_line_shows_the_key(judge: MakeJudge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = judge("429-now,500,reset", **WITH_KEY)
    list(asked.answer([RuleQuestion((KIND,), Judgement(user_prompt("q"), "item-1"))]))
    assert KEY not in caplog.text


COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main())"
RECIPE = {"output": "runs/x", "model": {"path": "m"}, "data": {"path": "d.jsonl"}, "policy": {"path": "p.yaml"}}


@pytest.mark.parametrize(
    "settings",
    [
        {"url": f"https://user:{KEY}@host/v1"},
        {"url": f"https://host/v1?key={KEY}"},
        {"url": "https://host/v1", "key_env": KEY},
        {"url": "https://host/v1", "api_key": KEY},
        {"url": "https://host/v1", "extra": {"api_key": KEY}},
        {"url": f"https://{KEY}@host/v1", "concurrency": 0},
        {"url": "https://host/v1", "key_env": KEY, "timeout": -1},
    ],
)
def test_a_recipe_with_a_key_in_it_is_refused_without_repeating_it(settings: dict[str, object]) -> None:
    oracle = {"kind": "judges", "llm": {"kind": "http", "model": "m", **settings}}
    with pytest.raises(RealignerError) as caught:
        Recipe.parse({**RECIPE, "oracle": oracle})
    assert KEY not in str(caught.value)


def test_a_recipe_names_the_variable_and_never_holds_the_key() -> None:
    oracle = {"kind": "judges", "llm": {"kind": "http", "model": "m", "url": "https://host/v1", "key_env": "JUDGE_KEY"}}
    assert "JUDGE_KEY" in Recipe.parse({**RECIPE, "oracle": oracle}).to_yaml()


@pytest.mark.parametrize(("fault", "code"), [("401*", 2), ("500*", 2), ("echo-error*", 2), ("ok", 0)])
def test_debug_output_of_the_command_and_its_files_do_not_hold_the_key(
    server: FaultServer, tmp_path: Path, fault: str, code: int
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(f'{{"prompt": "q{n}", "chosen": "item-{n}", "rejected": "item-{n + 50}"}}\n' for n in range(40))
    )
    rule = {"id": "kind", "by": "llm", "text": "The response is kind."}
    (tmp_path / "p.yaml").write_text(json.dumps({"id": "p", "version": "1", "title": "t", "rules": [rule]}))
    llm = {"kind": "http", "model": fault, "url": server.url, "key_env": "JUDGE_KEY", "budget": 0.3, "output": "plain"}
    recipe = {**RECIPE, "data": {"path": str(data)}, "oracle": {"kind": "judges", "llm": llm}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, "triage", str(tmp_path / "r.yaml"), "--debug"],
        env={**os.environ, "JUDGE_KEY": KEY, "XDG_CACHE_HOME": str(tmp_path), "PYTHONASYNCIODEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == code, run.stderr
    assert "judge" in run.stderr or "llm: " in run.stderr  # the judge that fails, or the plan of one that does not
    assert KEY not in run.stdout + run.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= (3 if code else 6)
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
