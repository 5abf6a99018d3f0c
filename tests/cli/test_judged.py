"""A judge at the command line: its cost is said before, limits hold, and a killed triage pays nothing twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realigner.oracle import VerdictStore

from .conftest import Say, write_pairs

POLICY = """
id: kind
version: "1"
title: No blame
rules:
  - {id: computed, text: No shouting., forbid: {words: [SHUT]}}
  - {id: blame, by: llm, text: A response does not blame., violates: [it says whose fault it is]}
  - {id: help, by: llm, text: A response helps., requires: [a step to take]}
"""
JUDGED = """
oracle: {kind: judges, llm: {kind: scripted, path: verdicts.jsonl}}
"""


@pytest.fixture
def judged(folder: Path) -> Path:
    (folder / "policy.yaml").write_text(POLICY)
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(JUDGED)
    write_pairs(folder / "old.jsonl", 10)
    write_verdicts(folder, blame="non_compliant")
    return folder


def write_verdicts(folder: Path, blame: str, rules: tuple[str, ...] = ("blame", "help")) -> None:
    lines = [
        {
            "rule": rule,
            "prompt": f"Why does disk {i} fail?",
            "response": response,
            "label": blame if rule == "blame" and "fault" in response else "compliant",
        }
        for rule in rules
        for i in range(10)
        for response in ("It is your fault.", "Let us look.")
    ]
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_dry_run_says_what_would_be_asked_and_asks_and_writes_nothing(judged: Path, say: Say) -> None:
    before = set(judged.iterdir())
    said = say("triage", "recipe.yaml", "--dry-run")
    assert said.code == 0
    assert "triage: llm: 0 verdicts are known, to ask: 40 calls" in said.out
    assert "by rule: blame 20, help 20" in said.out
    assert said.out.endswith("nothing was asked\n")
    assert set(judged.iterdir()) == before
    plan = json.loads(say("triage", "recipe.yaml", "--dry-run", "--json").out)["plan"]["triage"]
    assert (plan["questions"], plan["calls"], plan["computed_rules"]) == (20, 40, ["computed"])
    (judge,) = plan["judges"]
    assert judge["rules"] == {"blame": {"known": 0, "asked": 20}, "help": {"known": 0, "asked": 20}}
    whole = json.loads(say("run", "recipe.yaml", "--dry-run", "--json").out)["plan"]
    assert whole["triage"] == plan
    assert whole["evaluate"]["calls"] == 0 < whole["evaluate"]["most_calls"]


def test_a_dry_run_of_computed_rules_has_nothing_to_say(folder: Path, say: Say) -> None:
    said = say("run", "recipe.yaml", "--dry-run", "--max-calls", "0")
    assert (said.code, said.out.splitlines()[0]) == (0, "triage: its rules are computed, no judge is asked")


def test_triage_asks_once_and_an_edited_rule_alone_is_asked_again(judged: Path, say: Say) -> None:
    first = json.loads(say("triage", "recipe.yaml", "--json").out)["facts"]
    assert first["asked"]["rules"]["blame"] == {"asked": 20, "reused": 0, "invalid": 0}
    assert first["asked"]["calls"] == 40
    assert first["outcomes"]["INVERT"] == 10
    assert first["oracle"].startswith("judges/1.1:")
    # Its rules are known: the judge's file need not even hold them any more (another file is another judge).
    assert (judged / "verdicts.sqlite").is_file()
    again = json.loads(say("triage", "recipe.yaml", "--set", "output=again", "--json").out)["facts"]
    assert (again["asked"]["calls"], again["asked"]["rules"]["help"]) == (0, {"asked": 0, "reused": 20, "invalid": 0})
    (judged / "policy.yaml").write_text(POLICY.replace("a step to take", "two steps to take"))
    edited = json.loads(say("triage", "recipe.yaml", "--set", "output=edited", "--json").out)["facts"]
    assert edited["asked"]["rules"] == {
        "help": {"asked": 20, "reused": 0, "invalid": 0},
        "blame": {"asked": 0, "reused": 20, "invalid": 0},
    }


def test_limits_are_held_before_the_start(judged: Path, say: Say) -> None:
    refused = say("triage", "recipe.yaml", "--max-calls", "39")
    assert refused.code == 3
    assert refused.error.startswith("error: this takes 40 calls, max_calls is 39: nothing is asked that could not be")
    with VerdictStore.read(judged / "verdicts.sqlite") as store:
        assert store.counts()["votes"] == 0
    forecast = say("triage", "recipe.yaml", "--max-calls", "39", "--dry-run")
    assert (forecast.code, "refused: triage: this takes 40 calls" in forecast.out) == (3, True)
    assert say("triage", "recipe.yaml", "--max-calls", "40").code == 0
    assert say("triage", "recipe.yaml", "--redo", "--max-calls", "0").code == 0


def test_a_limit_on_money_needs_prices(judged: Path, say: Say) -> None:
    refused = say("triage", "recipe.yaml", "--max-cost", "1")
    assert refused.code == 2
    assert "'oracle': oracle.max_cost needs oracle.prices" in refused.error
    for content, message in {
        "models: [a]": "models: input should be a valid dictionary",
        "models: {m: {input: -1, output: 2}}": "models.m.input: input should be greater than or equal to 0",
        "{": "it is not valid YAML",
    }.items():
        (judged / "prices.yaml").write_text(content)
        refused = say("triage", "recipe.yaml", "--set", "oracle.prices=prices.yaml", "--max-cost", "1")
        assert (refused.code, message in refused.error) == (2, True), refused.error
    refused = say("triage", "recipe.yaml", "--set", "oracle.prices=none.yaml")
    assert (refused.code, "it cannot be read (No such file" in refused.error) == (2, True)
    (judged / "prices.yaml").write_text("models: {m: {input: 1, output: 2}}")
    settings = ("--set", "oracle.prices=prices.yaml", "--max-cost", "0")
    assert say("triage", "recipe.yaml", *settings).code == 0  # this judge costs nothing


def test_check_says_what_judges_would_take_and_asks_nothing(judged: Path, say: Say) -> None:
    said = say("check", "recipe.yaml", "--json")
    texts = [finding["text"] for finding in json.loads(said.out)["findings"]]
    assert any("for all 10 pairs, llm: 0 verdicts are known, to ask: 40 calls" in text for text in texts)
    assert any("not tried on a sample, because its judge is not free" in text for text in texts)
    assert not (judged / "verdicts.sqlite").exists()
    say("triage", "recipe.yaml")
    said = say("check", "recipe.yaml", "--set", "output=other", "--json")
    texts = [finding["text"] for finding in json.loads(said.out)["findings"]]
    assert any(text.startswith("of all 10 pairs: INVERT 100.0%") for text in texts)


def test_a_rule_by_wording_needs_a_judge(judged: Path, say: Say) -> None:
    refused = say("triage", "recipe.yaml", "--set", "oracle={kind: judges, classifier: {kind: rules}}")
    assert (refused.code, "rules by llm: blame, help: there is no judge for them" in refused.error) == (2, True)


_SLOW = """
import sys, time
from pathlib import Path
from realigner.oracle import PolicyOracle, ScriptedRuleJudge, VerdictStore
from realigner.policy import Policy
from realigner.records import Label, Pair, user_prompt
from realigner.triaging import triage

def slow(rule, asked):
    with open("asked.log", "a") as log:
        log.write(f"{rule.id} {asked.prompt[0]['content']} {asked.response}\\n")
    time.sleep(0.005)
    return Label.NON_COMPLIANT if "fault" in asked.response else Label.COMPLIANT

pairs = [Pair(str(i), user_prompt(f"disk {i % 30}?"), f"fault {i % 30}", "look", "here") for i in range(40)]
with VerdictStore.open("verdicts.sqlite") as store:
    oracle = PolicyOracle(Policy.load("policy.yaml"), {"llm": ScriptedRuleJudge(slow)}, store)
    outcomes = [item.outcome.value for item in triage(pairs, oracle, batch_size=16)]
print(",".join(outcomes))
"""


def test_after_two_kills_in_mid_triage_nothing_is_lost_and_nothing_is_asked_twice(judged: Path) -> None:
    """A question that was being answered when the process died may be asked again: one for each kill."""
    command = [sys.executable, "-c", _SLOW]
    log = judged / "asked.log"
    log.touch()
    for _ in range(2):
        begun = len(log.read_text().splitlines())
        process = subprocess.Popen(command)
        while len(log.read_text().splitlines()) < begun + 25:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    asked = log.read_text().splitlines()
    assert done.stdout.strip() == ",".join(["INVERT"] * 40)
    assert len(set(asked)) == 30 * 2 * 2
    assert len(asked) <= len(set(asked)) + 2
    with VerdictStore.read(judged / "verdicts.sqlite") as store:
        assert store.counts()["votes"] == 30 * 2 * 2
        assert all(vote["number"] == 0 for vote in store.votes())
