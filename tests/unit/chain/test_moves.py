"""Which pairs a new policy moves, and by which rules: counted as they stream, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realigner.chain.moves import DECISION, Moves, RulePair, pair_rules
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.records import Label, Outcome, RuleVerdict, Verdict
from realigner.triaging import outcome

GOOD, BAD, UNSURE = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE


def record(*rules: dict[str, Any]) -> PolicyRecord:
    return PolicyRecord.of(Policy.parse({"id": "p", "version": "1", "title": "t", "rules": list(rules)}))


def rule(name: str, word: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "text": "T.", "forbid": {"words": [word]}, **more}


def test_rules_belong_together_by_hash_then_by_id() -> None:
    old = record(rule("a", "1"), rule("b", "2"), rule("c", "3"), rule("d", "4"))
    new = record(rule("d", "5"), rule("bb", "2", tier="critical"), rule("a", "1"), rule("e", "6"))
    assert pair_rules(old, new) == [
        RulePair("d", "d", "edited"),
        RulePair("bb", "b", "kept"),
        RulePair("a", "a", "kept"),
        RulePair("e", None, "added"),
        RulePair("c", "c", "dropped"),
    ]


def test_rules_of_one_wording_are_paired_by_their_ids() -> None:
    twins = record(rule("a", "1"), rule("b", "1"))
    assert pair_rules(twins, twins) == [RulePair("a", "a", "kept"), RulePair("b", "b", "kept")]
    assert pair_rules(twins, record(rule("b", "1"))) == [RulePair("b", "b", "kept"), RulePair("a", "a", "dropped")]


def verdict(label: Label, **rules: Label) -> Verdict:
    return Verdict(label, tuple(RuleVerdict(name, found, "") for name, found in rules.items()))


RULES = [RulePair("kept", "kept", "kept"), RulePair("new", None, "added"), RulePair("old", "old", "dropped")]


@pytest.mark.parametrize(
    ("was", "now", "behind"),
    [
        (verdict(GOOD, kept=GOOD, old=GOOD), verdict(BAD, kept=GOOD, new=BAD), ["new"]),
        (verdict(BAD, kept=GOOD, old=BAD), verdict(GOOD, kept=GOOD, new=GOOD), ["old"]),
        (verdict(BAD, kept=GOOD, old=BAD), verdict(UNSURE, kept=GOOD, new=UNSURE), ["new", "old"]),
        (verdict(GOOD, kept=BAD, old=GOOD), verdict(BAD, kept=BAD, new=GOOD), [DECISION]),
        (verdict(GOOD, kept=GOOD, old=GOOD), verdict(BAD, kept=BAD, new=BAD), ["kept", "new"]),
    ],
)
def test_behind_a_change_stand_the_rules_that_judge_otherwise_or_the_decision(
    was: Verdict, now: Verdict, behind: list[str]
) -> None:
    moves = Moves(RULES)
    other = verdict(BAD, kept=BAD)
    before, after = outcome(was.label, other.label), outcome(now.label, other.label)
    assert moves.add((was, other), (now, other), (before, after)) == behind
    found = {item["rule"]: item["changed"] for item in moves.as_dict()["rules"]}
    assert {name for name, count in found.items() if count} == set(behind)


def test_a_rule_that_judges_otherwise_without_moving_a_pair_is_counted_as_a_flip_alone() -> None:
    moves = Moves(RULES)
    was, now = verdict(BAD, kept=BAD, old=GOOD), verdict(BAD, kept=BAD, new=BAD)
    assert moves.add((was, was), (now, now), (Outcome.PUNISH, Outcome.PUNISH)) == []
    (new,) = [item for item in moves.as_dict()["rules"] if item["rule"] == "new"]
    assert (new["changed"], new["flips"]) == (0, [{"from": "absent", "to": "non_compliant", "responses": 2}])


LABELS = st.sampled_from([GOOD, BAD, UNSURE])


@given(st.lists(st.tuples(LABELS, LABELS, LABELS, LABELS), max_size=30))
def test_the_matrix_and_the_debt_are_those_of_a_plain_count(labels: list[tuple[Label, Label, Label, Label]]) -> None:
    moves = Moves([RulePair("r", "r", "edited")])
    pairs = []
    for chosen_was, rejected_was, chosen_is, rejected_is in labels:
        before, after = outcome(chosen_was, rejected_was), outcome(chosen_is, rejected_is)
        pairs.append((before, after))
        old, new = ([verdict(x, r=x) for x in side] for side in ((chosen_was, rejected_was), (chosen_is, rejected_is)))
        behind = moves.add((old[0], old[1]), (new[0], new[1]), (before, after))
        assert behind == (["r"] if before is not after else [])
    found = moves.as_dict()
    assert found["pairs"] == len(pairs)
    assert found["changed"] == sum(b is not a for b, a in pairs)
    for before in Outcome:
        for after in Outcome:
            assert found["matrix"][before][after] == pairs.count((before, after))
    conflict = {Outcome.INVERT, Outcome.PUNISH}
    retained = {Outcome.CONFIRM, Outcome.NEUTRAL}
    assert found["debt"]["new_conflicts"] == sum(b in retained and a in conflict for b, a in pairs)
    assert found["debt"]["turned"] == sum({b, a} == conflict for b, a in pairs)
    assert found["debt"]["released"] == sum(b in conflict and a in retained for b, a in pairs)
    assert found["debt"]["pairs"] == sum(found["debt"][kind] for kind in ("new_conflicts", "turned", "released"))
    (by_rule,) = found["rules"]
    assert by_rule["changed"] == found["changed"] == sum(move["pairs"] for move in by_rule["moves"])
