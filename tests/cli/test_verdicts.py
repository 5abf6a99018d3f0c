"""The verbs of the verdict store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realigner.oracle import VerdictStore
from realigner.policy import Policy
from realigner.records import Judgement, Label, RuleVerdict, user_prompt

from .conftest import Say


@pytest.fixture
def store(folder: Path) -> Path:
    policy = Policy.load(folder / "policy.yaml")
    with VerdictStore.open(folder / "v.sqlite") as opened:
        for number in range(4):
            asked = Judgement(user_prompt("q\x1b[2J"), f"answer {number}")
            for rule in ("gone", policy.rules[0].hash):
                opened.add("judge/1", asked, [(rule, RuleVerdict("r", Label.UNSURE, "who knows"))], {"calls": 1})
    return folder / "v.sqlite"


def test_info_counts_by_judge_and_rule(store: Path, say: Say) -> None:
    said = say("verdicts", "info", store)
    assert (said.code, said.out.splitlines()[0].startswith("8 votes on 4 responses, ")) == (0, True)
    assert "judge judge/1: 8 votes" in said.out
    facts = json.loads(say("verdicts", "info", store, "--json").out)
    assert (facts["votes"], facts["questions"], facts["judges"]) == (8, 4, {"judge/1": 8})


def test_export_prints_each_vote(store: Path, say: Say) -> None:
    lines = [json.loads(line) for line in say("verdicts", "export", store).out.splitlines()]
    assert len(lines) == 8
    assert lines[0]["response"] == "answer 0"
    assert "\x1b" not in say("verdicts", "export", store).out
    assert json.loads(say("verdicts", "export", store, "--json").out)["votes"] == lines


def test_compact_drops_what_no_policy_has(store: Path, say: Say) -> None:
    with VerdictStore.open(store):
        refused = say("verdicts", "compact", store)
        assert (refused.code, "is writing to it, and only one may" in refused.error) == (2, True)
    said = say("verdicts", "compact", store, "--keep", "policy.yaml")
    assert (said.code, said.out.startswith("4 votes dropped, ")) == (0, True)
    assert json.loads(say("verdicts", "compact", store, "--json").out)["dropped"] == 0


@pytest.mark.parametrize("verb", ["info", "export", "compact"])
def test_a_store_that_is_not_there_is_not_made(folder: Path, say: Say, verb: str) -> None:
    said = say("verdicts", verb, "none.sqlite")
    assert (said.code, "verdict store none.sqlite: no such file" in said.error) == (2, True)
    assert not list(folder.glob("none*"))
