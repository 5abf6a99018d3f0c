"""Corrections and guards against a real OpenAI-compatible server that serves a real model: `transformers serve`.

The model writes children's stories, whatever it is asked: what is under test is that candidates arrive over the real
protocol, are judged, are used or rejected for true reasons, and are not asked for twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realigner.corrections.stage import JOURNAL
from realigner.oracle.guards.judge import GuardJudge
from realigner.oracle.judge import RuleQuestion
from realigner.oracle.rule_asking import ask_rules
from realigner.policy import Rule
from realigner.recipe import Recipe
from realigner.recipe_judges import GuardJudgeSettings
from realigner.records import Judgement, Label, user_prompt
from realigner.triaging.correct import correct

PAIRS = 6


def recipe_of(folder: Path, writer: dict[str, Any], **generate: Any) -> Recipe:
    rows = [
        {"prompt": f"Once upon a time, there was a {animal}", "chosen": "You fool, go away.", "rejected": "Old fool."}
        for animal in ("dog", "cat", "bird", "fish", "frog", "bear")
    ]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = [{"id": "kind-1", "text": "Be kind.", "forbid": {"words": ["fool"]}}]
    (folder / "policy.yaml").write_text(json.dumps({"id": "p-1", "version": "1", "title": "t", "rules": rules}))
    content = {
        "output": "run",
        "model": {"path": "never-loaded"},
        "data": {"path": "old.jsonl", "eval_fraction": 0.3},
        "policy": {"path": "policy.yaml"},
        "corrections": {"generate": {"writer": writer, "candidates": 2, "temperature": 0.9, **generate}},
    }
    return Recipe.parse(content, base=folder)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["http", "local"])
def test_candidates_come_from_a_real_model_and_have_true_fates(
    tmp_path: Path, story_server: str, story_model: Path, kind: str
) -> None:
    writer: dict[str, Any] = {"kind": "http", "url": story_server, "model": str(story_model), "timeout": 60.0}
    if kind == "local":
        writer = {"kind": "local", "path": str(story_model), "format": "plain"}
    recipe = recipe_of(tmp_path, writer, max_tokens=24)
    found = correct(recipe, tmp_path / "c.jsonl")
    every = lines(tmp_path / "c.candidates.jsonl")
    assert len(every) == 2 * PAIRS
    for line in every:
        if line["finish"] == "length":  # a story is never over in 24 tokens, or its prompt was too long
            assert line["fate"] == "truncated"
        assert (line["fate"] == "accepted") == (line["finish"] == "stop" and line["judge"] == "compliant")
    assert found["corrections_written"]["pairs"] == PAIRS
    assert found["accepted"] == len(lines(tmp_path / "c.jsonl")) == len({x["id"] for x in every if x["chosen"]})
    remembered = (tmp_path / JOURNAL).read_bytes()
    again = correct(recipe, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    assert again["corrections_written"]["from_journal"] == len(lines(tmp_path / JOURNAL))
    assert (tmp_path / JOURNAL).read_bytes().startswith(remembered)


def test_a_guard_behind_a_real_server_is_asked_by_text_and_by_chat(story_server: str, story_model: Path) -> None:
    rule = Rule(id="kind", by="classifier", text="Be kind.")
    server = {"url": story_server, "model": str(story_model), "timeout": 60.0}
    for family in ("llama-guard-3", "shieldgemma"):
        given = {"kind": "guard", "family": family, "server": server, "categories": "policy", "max_tokens": 6}
        judge = GuardJudge(GuardJudgeSettings.model_validate(given))
        [(_, answer)] = ask_rules(judge, [RuleQuestion((rule,), Judgement(user_prompt("Hi"), "Hello!"))])
        assert answer.verdicts[0].label is Label.INVALID  # a story is no verdict
        assert not answer.keep
        assert answer.facts["calls"] == 1
