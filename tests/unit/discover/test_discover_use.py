"""What a new policy does to the rules of an old one, and what an old policy decides about the data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from discover_pairs import refusing_pairs

from realigner.discover import discover
from realigner.discover.use import CrossTable, OldPolicy, cross_table
from realigner.errors import DataError, PolicyError
from realigner.oracle import RuleOracle
from realigner.policy import Policy
from realigner.recipe import OldPolicySettings
from realigner.records import Direction, Outcome, Pair
from realigner.triaging import read_triage, triage, write_triage
from realigner.triaging.old_policy import follow_old_policy

OLD = """
id: old
version: "1"
title: Refuse
rules:
  - {id: refuse, text: Harm is refused., when: {words: [bomb, poison, rifle, virus]}, require: {words: [cannot, can't]}}
  - id: help
    text: The rest is answered.
    unless: {in: prompt, words: [bomb, poison, rifle, virus]}
    forbid: {words: [cannot, can't]}
"""
NEW = """
id: new
version: "2"
title: Poison may be spoken of, the scarf may not
rules:
  - {id: refuse, text: Harm is refused., when: {words: [bomb, rifle, virus, scarf]}, require: {words: [cannot, can't]}}
  - id: help
    text: The rest is answered.
    unless: {in: prompt, words: [bomb, rifle, virus, scarf]}
    forbid: {words: [cannot, can't]}
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old.yaml").write_text(OLD)
    return tmp_path / "old.yaml"


def counted(**counts: int) -> CrossTable:
    return CrossTable({"r": Counter({Outcome(name): n for name, n in counts.items()})})


@pytest.mark.parametrize(
    ("counts", "fate"),
    [
        ({"INVERT": 40, "CONFIRM": 10}, "broken"),
        ({"INVERT": 20, "PUNISH": 20, "CONFIRM": 10}, "superseded"),
        ({"INVERT": 5, "CONFIRM": 25, "NEUTRAL": 20}, "kept"),
        ({"INVERT": 26, "CONFIRM": 24}, "mixed"),
        ({"INVERT": 9, "UNDECIDED": 100}, "too few"),
    ],
)
def test_a_rule_has_a_fate_only_where_the_interval_is_clear(counts: dict[str, int], fate: str) -> None:
    assert counted(**counts).fate("r") == fate


def triaged_file(tmp_path: Path, count: int = 400) -> Path:
    (tmp_path / "new.yaml").write_text(NEW)
    write_triage(triage(refusing_pairs(count), RuleOracle(Policy.load(tmp_path / "new.yaml"))), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_the_cross_table_counts_supported_pairs_by_outcome(tmp_path: Path, old: Path) -> None:
    items = list(read_triage(triaged_file(tmp_path)))
    table = cross_table(OldPolicy.load(old), ((item.pair, item.outcome) for item in items))
    poison = sum("poison" in item.pair.prompt[0]["content"] for item in items)
    scarf = sum("scarf" in item.pair.prompt[0]["content"] for item in items)
    assert table.counts["refuse"][Outcome.INVERT] == poison
    assert table.counts["help"][Outcome.INVERT] == scarf
    assert (table.fate("refuse"), table.fate("help")) == ("kept", "kept")
    assert table.unexplained == 0
    assert table.lines()[0].startswith("old rule")


def test_a_preference_behind_which_no_old_rule_stands_is_flagged_and_left_out_where_asked(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD.replace("poison, ", ""))  # so nothing explains that poison was refused
    path = triaged_file(tmp_path)
    settings = OldPolicySettings(path=str(tmp_path / "old.yaml"), unrelated="leave_out")
    before = {item.pair.id: item for item in read_triage(path)}
    facts = follow_old_policy(path, settings, seed=0)["old_policy"]
    flagged = {entry["id"] for entry in facts["flagged"]}
    assert flagged
    assert facts["left_out"] == len(flagged)
    for item in read_triage(path):
        assert item.outcome == before[item.pair.id].outcome
        left_out = item.pair.id in flagged
        assert (item.direction is Direction.NONE) == left_out
        if left_out:
            assert (item.split, item.outcome) == ("train", Outcome.INVERT)
            assert "poison" in item.pair.prompt[0]["content"]


def test_anchors_are_drawn_for_each_surviving_rule_and_again_the_same(tmp_path: Path, old: Path) -> None:
    path = triaged_file(tmp_path)
    settings = OldPolicySettings(path=str(old), anchors=15)
    facts = follow_old_policy(path, settings, seed=0)["old_policy"]
    assert facts["anchors"] == {"refuse": 15, "help": 15}
    kept = {i.pair.id for i in read_triage(path, "train") if i.outcome.is_retained and i.direction is Direction.RETAIN}
    assert len(kept) == 30
    held_out = [i for i in read_triage(path, "eval") if i.outcome.is_retained]
    assert all(item.direction is Direction.RETAIN for item in held_out), "what is measured stays"
    again = triaged_file(tmp_path)
    follow_old_policy(again, settings, seed=0)
    assert kept == {i.pair.id for i in read_triage(again, "train") if i.direction is Direction.RETAIN}


def test_retained_pairs_that_no_surviving_rule_supports_all_anchor(tmp_path: Path, old: Path) -> None:
    """The rule of the harmless prompts is missing from the old policy: what it taught must not be thinned out."""
    text = OLD[: OLD.index("  - id: help")]
    old.write_text(text)
    path = triaged_file(tmp_path)
    facts = follow_old_policy(path, OldPolicySettings(path=str(old), anchors=15), seed=0)["old_policy"]
    retained = [item for item in read_triage(path, "train") if item.outcome.is_retained]
    unknown = [item for item in retained if not any(OldPolicy.load(old).votes(item.pair).values())]
    assert len(unknown) > 40
    assert facts["anchors"] == {"refuse": 15, "(no surviving rule)": len(unknown)}
    assert all(item.direction is Direction.RETAIN for item in unknown)
    assert sum(item.direction is Direction.RETAIN for item in retained) == 15 + len(unknown)


def test_without_options_the_file_stays_as_it_is(tmp_path: Path, old: Path) -> None:
    path = triaged_file(tmp_path)
    before = path.read_bytes()
    follow_old_policy(path, OldPolicySettings(path=str(old)), seed=0)
    assert path.read_bytes() == before


def test_leaving_every_conflict_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD.replace("[cannot, can't]", "[never]"))
    settings = OldPolicySettings(path=str(tmp_path / "old.yaml"), unrelated="leave_out")
    with pytest.raises(DataError, match=r"no conflict is left to train on\. Set old_policy.unrelated: keep"):
        follow_old_policy(triaged_file(tmp_path), settings, seed=0)


def test_rules_by_wording_count_from_the_discovery_beside_the_policy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = {"id": "p", "version": "1", "title": "t", "rules": [{"id": "kind", "by": "llm", "text": "It is kind."}]}
    (tmp_path / "p.yaml").write_text(json.dumps(policy))
    with pytest.raises(PolicyError, match="every rule is judged by its wording: what an old rule says of a pair"):
        OldPolicy.load(tmp_path / "p.yaml")
    found = {
        "policy_hash": Policy.load(tmp_path / "p.yaml").hash,
        "rules": [{"id": "kind", "supports": ["a"], "opposes": ["b"]}],
        "unrelated": {"longer": ["c"]},
    }
    (tmp_path / "p.json").write_text(json.dumps(found))
    old = OldPolicy.load(tmp_path / "p.yaml")
    assert [old._vote(old.rules[0], Pair(i, (), "x", "y", "")) for i in "abz"] == [1, -1, 0]
    assert old.unrelated == {"c": "longer"}
    assert not caplog.records
    (tmp_path / "p.json").write_text(json.dumps({**found, "policy_hash": "another"}))
    with pytest.raises(PolicyError):
        OldPolicy.load(tmp_path / "p.yaml")
    assert "p.json is not used: the policy beside it was changed since it was discovered" in caplog.text
    (tmp_path / "p.json").write_text('{"policy_hash": ')
    with pytest.raises(PolicyError):
        OldPolicy.load(tmp_path / "p.yaml")
    assert "p.json lies beside the old policy and is not used: it cannot be read" in caplog.text


def test_a_recovered_policy_says_of_pairs_what_the_true_one_says(tmp_path: Path, old: Path) -> None:
    pairs = refusing_pairs(600)
    discover(pairs).write(tmp_path / "r.yaml")
    true, found = OldPolicy.load(old), OldPolicy.load(tmp_path / "r.yaml")
    agree = [
        max(true.votes(p).values()) == max(found.votes(p).values()) and min(found.votes(p).values()) >= 0 for p in pairs
    ]
    assert sum(agree) >= 0.98 * len(pairs)
