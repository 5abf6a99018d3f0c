"""A very small build: complete, loadable, cached, decided by its seed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from realigner.data import read_pairs
from realigner.errors import RunDirError
from realigner.lab import DemoSettings, build_demo, draw_pairs
from realigner.lab import build as build_module
from realigner.lab.small_model import Size
from realigner.lab.world import draw_corpus
from realigner.model import Encoder
from realigner.policy import Policy
from realigner.recipe import Recipe
from realigner.records import Message, Outcome, user_prompt
from realigner.triaging.outcomes import outcome as outcome_of

SMALL = DemoSettings(
    size=Size(hidden=16, intermediate=32, layers=1, heads=2),
    corpus=300,
    steps=4,
    batch=8,
    pairs=120,
    preference_steps=2,
    preference_batch=8,
    held_out=10,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    directory = tmp_path_factory.mktemp("demo")
    return directory, build_demo(directory, seed=7, settings=SMALL)


def test_the_model_loads_with_its_tokenizer_and_generates(built: tuple[Path, Recipe]) -> None:
    _, recipe = built
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    model = AutoModelForCausalLM.from_pretrained(recipe.model.path)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What helps with grief?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    assert (Path(recipe.model.path) / "model.safetensors").is_file()


def test_the_template_gives_one_beginning_and_ends_every_turn(built: tuple[Path, Recipe]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built[1].model.path)
    turns = [Message(role="user", content="What is 2 plus 3?"), Message(role="assistant", content="2 plus 3 is 5.")]
    ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 2 and ids[-1] == tokenizer.eos_token_id
    row = Encoder(tokenizer, built[1].text, 256).encode("x", tuple(turns[:1]), {"answer": turns[1]["content"]})
    assert row is not None and list(row["answer"].ids) == ids
    assert tokenizer.decode(ids[row["answer"].start : -1]) == "2 plus 3 is 5."


def test_the_tokenizer_gives_back_every_text_exactly(built: tuple[Path, Recipe]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built[1].model.path)
    texts = [text for row in draw_corpus(200, 99) for text in row] + ["Überraschung: 12 €, 🙂\n\ttab"]
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_data_reads_as_the_drawn_pairs_and_the_corrections_name_them(built: tuple[Path, Recipe]) -> None:
    _, recipe = built
    drawn = {pair.id: pair for pair in draw_pairs(120, 7, corrected=SMALL.corrected)}
    assert recipe.corrections is not None
    read = list(read_pairs(recipe.data))
    assert [pair.id for pair in read] == list(drawn)
    assert all(pair.prompt == user_prompt(drawn[pair.id].prompt) for pair in read)
    corrections = [json.loads(line) for line in Path(recipe.corrections.path).read_text("utf-8").splitlines()]
    assert {row["id"]: row["correction"] for row in corrections} == {
        pair.id: pair.correction for pair in drawn.values() if pair.correction is not None
    }


def test_the_policy_finds_the_stated_mix_in_the_data(built: tuple[Path, Recipe]) -> None:
    _, recipe = built
    policy = Policy.load(recipe.policy.path)
    found = Counter(
        outcome_of(policy.judge(p.prompt, p.chosen).label, policy.judge(p.prompt, p.rejected).label)
        for p in read_pairs(recipe.data)
    )
    assert found == {Outcome.INVERT: 30, Outcome.PUNISH: 36, Outcome.CONFIRM: 30, Outcome.NEUTRAL: 24}


def test_what_was_built_is_described_beside_it(built: tuple[Path, Recipe]) -> None:
    directory, recipe = built
    facts = json.loads((directory / "inputs" / "demo.json").read_text("utf-8"))
    assert facts["settings"]["seed"] == recipe.seed == 7
    assert set(facts["seconds"]) == {"data", "tokenizer", "answers", "preferences", "measure"}
    assert facts["behaviour"]["prompts"] == 10 and facts["parameters"] > 0
    assert recipe.output == str(directory / "run")


def test_a_second_call_takes_what_is_there(built: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, recipe = built

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build_module, "_build", refuse)
    assert build_demo(directory, seed=7, settings=SMALL) == recipe
    with pytest.raises(AssertionError, match="built again"):
        build_demo(directory, seed=8, settings=SMALL)


def test_the_same_seed_builds_the_same_bytes(built: tuple[Path, Recipe], tmp_path: Path) -> None:
    directory, _ = built
    build_demo(tmp_path, seed=7, settings=SMALL)
    for name in ("model/model.safetensors", "model/tokenizer.json", "pairs.jsonl", "corrections.jsonl", "recipe.yaml"):
        assert (tmp_path / "inputs" / name).read_bytes() == (directory / "inputs" / name).read_bytes(), name


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "_build_model", fail)
    with pytest.raises(KeyboardInterrupt):
        build_demo(tmp_path, settings=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_other_inputs_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirError, match=r"inputs.*holds no demo\.json, so the demo did not make it.*--output"):
        build_demo(tmp_path, settings=SMALL)
    assert (tmp_path / "inputs" / "thesis.tex").read_text() == "years of work"


def test_a_model_that_is_not_aligned_with_the_old_policy_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="realigner.lab.build"):
        build_demo(tmp_path, settings=SMALL)
    assert "agrees with the old policy on 0 % of held-out prompts only" in caplog.text
