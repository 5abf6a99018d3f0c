"""Verdicts of people in triage: they stand in the oracle's place, keep their provenance, and never fit by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import DataError
from realigner.oracle import RuleOracle, ScriptedOracle
from realigner.policy import Policy
from realigner.records import Label, Outcome, Pair, prompt_key, text_hash, user_prompt
from realigner.triaging import TriageTally, read_triage, triage, write_triage
from realigner.triaging.human import HumanVerdicts, read_human_verdicts

POLICY = Policy.parse(
    {
        "id": "kind",
        "version": "1",
        "title": "t",
        "rules": [{"id": "no-blame", "text": "x", "forbid": {"words": ["fault"]}}],
    }
)
PAIRS = [Pair(str(i), user_prompt(f"q{i}"), f"chosen {i}", f"rejected {i}", f"f:{i}") for i in range(4)]
UNSURE = ScriptedOracle(lambda _: Label.UNSURE, name="unsure")


def read(path: Path, *rows: dict[str, Any]) -> HumanVerdicts:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_human_verdicts(path, POLICY)


def row(id_: str = "0", side: str = "chosen", label: str = "compliant", **more: Any) -> dict[str, Any]:
    return {"id": id_, "side": side, "label": label, **more}


def test_pairs_that_people_decided_come_back_with_an_outcome_and_their_provenance(tmp_path: Path) -> None:
    human = read(
        tmp_path / "h.jsonl",
        row("1", "chosen", "non_compliant", rules=["no-blame"], reason="it blames", annotators=["a", "b"]),
        row("1", "rejected", "compliant", annotators=["a"]),
        row("2", "chosen", "compliant"),
    )
    tally = TriageTally()
    found = list(triage(PAIRS, UNSURE, human=human, tally=tally, batch_size=2))
    assert [item.outcome for item in found] == [Outcome.UNDECIDED, Outcome.INVERT, Outcome.UNDECIDED, Outcome.UNDECIDED]
    assert (found[1].chosen_verdict.reason, found[1].rejected_verdict.reason) == ("human, 2 people: it blames", "human")
    assert [rule.rule for rule in found[1].chosen_verdict.rules] == ["no-blame"]
    assert found[2].chosen_verdict.label is Label.COMPLIANT
    assert tally.as_dict()["human"] == {"used": 3, "changed": 3, "other_text": 0, "unknown": 0}
    write_triage(found, tmp_path / "triage.parquet")
    assert list(read_triage(tmp_path / "triage.parquet"))[1].chosen_verdict.reason.startswith("human")


def test_without_such_verdicts_nothing_changes() -> None:
    tally = TriageTally()
    assert list(triage(PAIRS, UNSURE, human=HumanVerdicts(()), tally=tally)) == list(triage(PAIRS, UNSURE))
    assert tally.human.as_dict() == {"used": 0, "changed": 0, "other_text": 0, "unknown": 0}


def test_a_verdict_on_another_text_is_not_used_and_counted(tmp_path: Path) -> None:
    fits = text_hash(prompt_key(PAIRS[0].prompt), PAIRS[0].chosen)
    human = read(
        tmp_path / "h.jsonl",
        row("0", text=fits),
        row("1", text=fits),
        row("gone"),
    )
    for _ in range(2):  # counts are of one pass over the data
        tally = TriageTally()
        found = list(triage(PAIRS, UNSURE, human=human, tally=tally))
        assert [item.chosen_verdict.label for item in found[:2]] == [Label.COMPLIANT, Label.UNSURE]
        assert tally.as_dict()["human"] == {"used": 1, "changed": 1, "other_text": 1, "unknown": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(id_=True)], r"h\.jsonl:1: id is True: an id is a text"),  # type: ignore[arg-type]
        ([row(side="both")], "side is 'both': a side is chosen or rejected"),
        ([row(label="unsure")], "people decide compliant or non_compliant"),
        ([row(rules=["no-blam"])], "Did you mean 'no-blame'"),
        ([row(policy="kind 0")], "decided under policy 'kind 0': this run's policy is 'kind 1'"),
        (
            [row(by_rule={"no-blame": "unsure"})],
            "by_rule is .*: it is a mapping of rules to compliant or non_compliant",
        ),
        ([row(by_rule=["no-blame"])], "by_rule is .*: it is a mapping of rules"),
        ([row(by_rule={"no-blam": "compliant"})], "Did you mean 'no-blame'"),
        ([row(), row()], r"pair '0', chosen, was decided at .*h\.jsonl:1"),
        ([], "it has no line"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "h.jsonl", *rows)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file\. Check human\.path"):
        read_human_verdicts(tmp_path / "none.jsonl", POLICY)


def test_what_people_say_of_single_rules_is_joined_with_what_the_oracle_says_of_the_others(tmp_path: Path) -> None:
    rules = [{"id": name, "text": "x", "forbid": {"words": [word]}} for name, word in (("a", "chosen"), ("b", "2"))]
    policy = Policy.parse({"id": "kind", "version": "1", "title": "t", "rules": rules})
    lines = [{"id": id_, "side": "chosen", "by_rule": {"a": "compliant"}} for id_ in ("1", "2")]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    human, tally = read_human_verdicts(tmp_path / "h.jsonl", policy), TriageTally()
    found = list(triage(PAIRS, RuleOracle(policy), human=human, tally=tally))
    assert [item.chosen_verdict.label for item in found] == [
        Label.NON_COMPLIANT,
        Label.COMPLIANT,
        Label.NON_COMPLIANT,
        Label.NON_COMPLIANT,
    ]
    assert found[1].chosen_verdict.rules[0].reason == "human"
    assert tally.as_dict()["human"] == {"used": 2, "changed": 1, "other_text": 0, "unknown": 0}
    with pytest.raises(DataError, match="single rules of pair '1': the oracle judges whole responses"):
        list(triage(PAIRS, UNSURE, human=human))
