"""Judge and completion calls against a real OpenAI-compatible server that serves a real model: `transformers serve`.

The model writes children's stories and is no judge: what is under test is the protocol, and that nonsense becomes
`invalid` and never a verdict. Sensible replies come from the fault server, in the other tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realigner.corrections.writers import HttpWriter, Order
from realigner.errors import OracleError
from realigner.oracle.http import ChatClient, ChatRequest, HttpJudge, ModelSettings, http_judge, open_endpoint
from realigner.oracle.judge import RuleQuestion
from realigner.policy import Rule
from realigner.recipe_corrections import GenerateCorrections, HttpWriterSettings
from realigner.recipe_judges import HttpJudgeSettings
from realigner.records import Judgement, Label, Message, user_prompt

KIND = Rule(id="kind", by="llm", text="The response is kind.")


@pytest.fixture(scope="module")
def model(story_model: Path) -> Path:
    return story_model


@pytest.fixture(scope="module")
def url(story_server: str) -> str:
    return story_server


def judge_at(url: str, model: Path, **settings: Any) -> HttpJudge:
    given = {"kind": "http", "url": url, "model": str(model), "max_tokens": 16, "timeout": 60.0, "budget": 60.0}
    return http_judge(HttpJudgeSettings.model_validate({**given, **settings}), pins=model.parent / "pins.json")


def test_completions_arrive_with_their_tokens_counted(url: str, model: Path) -> None:
    client = ChatClient(open_endpoint(url), ModelSettings(str(model), max_tokens=12))
    starts = ("Once upon a time", "There was a little dog", "Lily and Tom")
    requests = [ChatRequest([Message(role="user", content=start)]) for start in starts]
    found = dict(client.complete(requests))
    client.close()
    assert sorted(found) == [0, 1, 2]
    for completion in found.values():
        assert (completion.status, completion.attempts) == (200, 1)
        assert completion.text.strip()
        assert completion.finish in ("stop", "length")
        assert completion.prompt_tokens is not None
        assert completion.completion_tokens is not None
        assert 0 < completion.completion_tokens <= 12
        assert str(model) in completion.model


def test_a_writer_of_corrections_gets_drafts(url: str, model: Path) -> None:
    settings = HttpWriterSettings.model_validate({"kind": "http", "url": url, "model": str(model)})
    writer = HttpWriter(settings, GenerateCorrections(writer=settings, max_tokens=12, temperature=0.8))
    assert str(model) in writer.check()
    orders = [Order([Message(role="user", content="Write a story about a kind dog.")], seed) for seed in range(3)]
    drafts = dict(writer.write(orders))
    assert sorted(drafts) == [0, 1, 2]
    for seed, draft in drafts.items():
        assert draft.keep
        assert draft.text.strip()
        assert draft.seed == seed
        assert draft.output_tokens is not None
        assert draft.output_tokens <= 12


def test_equal_requests_have_equal_answers_at_temperature_0(url: str, model: Path) -> None:
    client = ChatClient(open_endpoint(url), ModelSettings(str(model), max_tokens=12))
    requests = [ChatRequest([Message(role="user", content="Once upon a time")])] * 3
    assert len({completion.text for _, completion in client.complete(requests)}) == 1
    client.close()


@pytest.mark.parametrize("output", ["json_schema", "json_object", "plain"])
def test_what_a_story_teller_says_is_invalid_in_every_mode_and_kept_in_none(url: str, model: Path, output: str) -> None:
    """This server accepts a response format and does not keep to it."""
    judge = judge_at(url, model, output=output)
    questions = [RuleQuestion((KIND,), Judgement(user_prompt("Hi"), text)) for text in ("Hello!", "Go away.")]
    found = dict(judge.answer(questions))
    assert sorted(found) == [0, 1]
    for answer in found.values():
        assert [verdict.label for verdict in answer.verdicts] == [Label.INVALID]
        assert not answer.keep
        assert answer.facts["output"] == output
    assert "WARNING: its answer to a trivial question is no verdict" in judge.check()


def test_auto_finds_that_it_is_no_judge_before_the_first_question(url: str, model: Path) -> None:
    with pytest.raises(OracleError, match="in no output mode with a verdict"):
        judge_at(url, model).check()
    assert not (model.parent / "pins.json").exists()


def test_an_unknown_model_is_refused_in_the_words_of_the_server(url: str, model: Path) -> None:
    with pytest.raises(OracleError, match=r"refuses a trivial question .*Server is pinned to"):
        judge_at(url, model.parent / "another").check()


def test_a_url_without_its_path_is_refused_with_the_path_that_is_usual(url: str, model: Path) -> None:
    with pytest.raises(OracleError, match=r"no API at this url.*most base URLs end in /v1"):
        judge_at(url.removesuffix("/v1"), model).check()
