"""Do rules of earlier policies hold after re-alignment as before? Rates, and when a lower one is a regression."""

from __future__ import annotations

from typing import Any

import pytest

from realigner.chain.regressions import regression_warnings, regressions
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.records import Label, RuleVerdict, Verdict

GOOD, BAD, UNSURE = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE


def policy(version: str, **words: str) -> Policy:
    rules = [{"id": name, "text": "T.", "forbid": {"words": [word]}} for name, word in words.items()]
    return Policy.parse({"id": "p", "version": version, "title": "t", "rules": rules})


def link(found: Policy) -> dict[str, Any]:
    return {"run": f"runs/{found.version}", "policy": PolicyRecord.of(found).as_dict()}


def verdicts(**labels: list[Label]) -> list[Verdict]:
    return [
        Verdict(GOOD, tuple(RuleVerdict(name, found[i], "") for name, found in labels.items()))
        for i in range(len(next(iter(labels.values()))))
    ]


CHAIN = [link(policy("1", a="1", b="2", gone="9")), link(policy("2", a="1", b="2", c="3"))]
NEW = policy("3", aa="1", b="4", c="3", new="5")


def found(before: list[Verdict], after: list[Verdict]) -> dict[str, Any]:
    return regressions(CHAIN, NEW, {"before": before, "after": after}, range(len(before)), seed=0)


def test_rules_survive_by_their_hash_and_say_since_when() -> None:
    plain = verdicts(aa=[GOOD], b=[GOOD], c=[GOOD], new=[GOOD])
    result = found(plain, plain)
    assert [(rule["rule"], rule["since"]) for rule in result["rules"]] == [("aa", ["p 1", "p 2"]), ("c", ["p 2"])]
    first, second = result["policies"]
    assert (first["surviving"], first["edited"], first["dropped"]) == (["aa"], ["b"], ["gone"])
    assert (second["surviving"], second["edited"], second["dropped"]) == (["aa", "c"], ["b"], [])
    assert (first["run"], first["policy"]["version"]) == ("runs/1", "1")
    assert regression_warnings(result) == []


def test_a_rule_that_holds_less_often_on_the_same_prompts_is_a_regression_and_is_warned_of() -> None:
    before = verdicts(aa=[GOOD] * 40, b=[GOOD] * 40, c=[GOOD] * 40, new=[BAD] * 40)
    after = verdicts(aa=[GOOD] * 25 + [BAD] * 10 + [UNSURE] * 5, b=[BAD] * 40, c=[GOOD] * 39 + [BAD], new=[GOOD] * 40)
    result = found(before, after)
    aa, c = result["rules"]
    assert (aa["before"]["value"], aa["after"]["value"], aa["change"]["lost"]) == (1.0, 25 / 40, 15)
    assert aa["p_holm"] == pytest.approx(2 * 2 * 0.5**15)
    assert (aa["regressed"], c["regressed"]) == (True, False)  # one prompt of forty may be chance
    assert result["policies"][1]["after"]["value"] == 25 / 40  # the last prompt breaks both
    (warning,) = regression_warnings(result)
    assert warning.startswith("Rule aa, in force since p 1, holds less often than before: 100.0% before, 62.5% after")


def test_a_rule_that_holds_more_often_is_no_regression() -> None:
    result = found(
        verdicts(aa=[BAD] * 40, b=[GOOD] * 40, c=[GOOD] * 40, new=[GOOD] * 40),
        verdicts(aa=[GOOD] * 40, b=[GOOD] * 40, c=[GOOD] * 40, new=[GOOD] * 40),
    )
    assert result["rules"][0]["p_holm"] < 1e-6
    assert not any(rule["regressed"] for rule in result["rules"])


def test_without_verdicts_of_rules_nothing_is_measured() -> None:
    bare = [Verdict(GOOD)] * 5
    result = found(bare, bare)
    assert [(rule["before"], rule["change"], rule["regressed"]) for rule in result["rules"]] == [
        (None, None, False)
    ] * 2


def test_answers_to_one_prompt_are_taken_together() -> None:
    before, after = verdicts(aa=[GOOD] * 40), verdicts(aa=[BAD] * 8 + [GOOD] * 32)
    chain, new = [link(policy("1", aa="1"))], policy("2", aa="1")
    sides = {"before": before, "after": after}
    (alone,) = regressions(chain, new, sides, range(40), seed=0)["rules"]
    (together,) = regressions(chain, new, sides, [number // 8 for number in range(40)], seed=0)["rules"]
    assert (alone["regressed"], together["regressed"]) == (True, False)  # eight answers, but to one prompt
    assert together["after"]["value"] == alone["after"]["value"] == 0.8
