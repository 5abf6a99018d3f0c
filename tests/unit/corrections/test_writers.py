"""Writers: what they are asked, what their drafts say, and what is in their identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from correcting_kit import settings
from scripted_model import scripted_model
from tiny import saved_tiny

from realigner.corrections.journal import Draft
from realigner.corrections.writers import HttpWriter, LocalWriter, Order, build_writer
from realigner.errors import ModelError
from realigner.oracle.local import LocalJudge
from realigner.recipe_corrections import GenerateCorrections
from realigner.recipe_judges import LocalJudgeSettings
from realigner.records import Message


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny("llama", tmp_path_factory.mktemp("writer"), max_position_embeddings=256, layers=1)


def local(model: Path | str, family: dict[str, Any] | None = None, **given: Any) -> LocalWriter:
    wanted = settings(writer={"kind": "local", "path": str(model), **(family or {})}, **given)
    writer = build_writer(wanted)
    assert isinstance(writer, LocalWriter)
    return writer


def order(text: str = "Hi", seed: int = 1, system: str = "Be kind.") -> Order:
    return Order([Message(role="system", content=system), Message(role="user", content=text)], seed)


def test_a_local_model_writes_a_draft_for_each_order_and_the_same_again(model: Path) -> None:
    orders = [order(text, seed) for seed, text in enumerate(("Hi", "A longer question", "Why?"))]
    given: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0, "family": {"batch_size": 2}}
    first, again = (dict(local(model, **given).write(orders)) for _ in range(2))
    assert sorted(first) == [0, 1, 2]
    assert first == again
    assert all(draft.output_tokens is not None and draft.output_tokens <= 6 for draft in first.values())
    assert all(draft.finish in ("stop", "length") for draft in first.values())
    other = dict(local(model, **given).write([order(o.messages[-1]["content"], 99) for o in orders]))
    assert [other[place].text for place in range(3)] != [first[place].text for place in range(3)]


def test_what_a_model_ends_itself_is_whole_and_what_is_cut_says_so(model: Path) -> None:
    class Told(LocalWriter):
        @property
        def _model(self) -> Any:  # type: ignore[override]
            ids = self._encoder.tokenizer("Be calm and begin.", add_special_tokens=False)["input_ids"]
            return scripted_model(self._encoder, lambda _: [*ids, self._encoder.stop_ids[0]])

    def written(max_tokens: int) -> Draft:
        wanted = settings(writer={"kind": "local", "path": str(model)}, max_tokens=max_tokens, temperature=0.0)
        assert wanted.writer.kind == "local"
        return dict(Told(wanted.writer, wanted).write([order()]))[0]

    assert (written(40).text, written(40).finish) == ("Be calm and begin.", "stop")
    assert written(3).finish == "length"


def test_a_prompt_that_would_lose_its_rules_is_not_written_to(model: Path) -> None:
    orders = [order("word " * 300), order("Hi"), order("bad <|eot_id|> token")]
    drafts = dict(local(model, max_tokens=5).write(orders))
    assert [drafts[place].finish == "error" for place in range(3)] == [True, False, True]
    assert "leaves no room" in drafts[0].error
    assert not drafts[0].keep


def test_a_template_without_a_system_role_gets_the_rules_in_the_first_turn(tmp_path: Path) -> None:
    gemma = saved_tiny("gemma2", tmp_path / "gemma", max_position_embeddings=256, layers=1)
    drafts = dict(local(gemma, max_tokens=5).write([order()]))
    assert drafts[0].finish in ("stop", "length")


def test_a_local_identity_follows_weights_and_settings(model: Path, tmp_path: Path) -> None:
    other = saved_tiny("llama", tmp_path / "other", seed=1, max_position_embeddings=256, layers=1)
    writers = [
        local(model),
        local(other),
        local(model, temperature=0.1),
        local(model, max_tokens=7),
        local(model, {"dtype": "bfloat16"}),
        local(model, {"template_arguments": {"enable_thinking": False}}),
    ]
    assert len({writer.identity for writer in writers}) == len(writers)
    assert local(model, {"batch_size": 3}, candidates=9, most_similar=0.1).identity == writers[0].identity
    judge = LocalJudge(LocalJudgeSettings(kind="local", path=str(model)))
    assert writers[0].weights in judge.identity
    assert writers[1].weights not in judge.identity


def test_a_model_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such directory"):
        local(tmp_path / "none").check()


def test_an_http_identity_needs_no_key_and_follows_model_place_and_settings() -> None:
    def writer(**given: Any) -> HttpWriter:
        server = {"kind": "http", "url": "http://localhost:1/v1", "model": "m", "key_env": "NOT_SET_ANYWHERE"}
        wanted = GenerateCorrections.model_validate({"writer": {**server, **given.pop("server", {})}, **given})
        built = build_writer(wanted)
        assert isinstance(built, HttpWriter)
        return built

    plain = writer()
    assert plain.identity.startswith("http/1:m@localhost:1/v1:prompt-1:")
    assert plain.costs.paid
    assert not writer(server={"key_env": None}).costs.paid
    others = [writer(server={"model": "n"}), writer(server={"url": "http://other/v1"}), writer(temperature=0.1)]
    others += [writer(max_tokens=9), writer(server={"extra": {"top_k": 5}})]
    assert len({plain.identity, *(other.identity for other in others)}) == 6
    assert writer(server={"concurrency": 1, "timeout": 5.0}).identity == plain.identity
    assert plain.weights in "http/1:m@elsewhere/v1:json_schema:prompt-1:x"
