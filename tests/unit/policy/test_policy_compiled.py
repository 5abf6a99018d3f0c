"""What a rule compiles to beside the judge's prompt: categories of a guard model, wording for auditors, words."""

from __future__ import annotations

from typing import Any

import pytest

from realigner.policy import Policy, Rule
from realigner.policy.checks import KINDS
from realigner.policy.describe import describe, describe_checks
from realigner.policy.guard import category_blocks
from realigner.policy.wording import AuditorExample, auditor_wording

RULE: dict[str, Any] = {
    "id": "no-dose",
    "tier": "critical",
    "by": "classifier",
    "text": "State no dose.",
    "zero_tolerance": True,
    "applies_when": "the answer is about a medicine",
    "violates": ["a dose in milligrams"],
    "requires": ["name who can be asked"],
    "category": "Specialized Advice",
    "when": {"words": ["pill"]},
    "forbid": {"any": [{"words": ["mg"]}, {"all": [{"regex": r"\d g", "ignore_case": True}, {"length": {"min": 3}}]}]},
    "unless": {"not": {"words": ["leaflet", "box"], "in": "prompt"}},
    "examples": [{"prompt": "How much?", "text": "400 mg.", "label": "non_compliant", "why": "a dose"}],
}
PLAIN: dict[str, Any] = {"id": "be_brief", "text": "Be brief.", "require": {"readability": {"min": 1, "max": 40.5}}}


def rule(content: dict[str, Any], **changes: Any) -> Rule:
    return Rule.model_validate({**content, **changes})


def test_a_guard_model_gets_one_block_a_rule_with_codes_in_their_order() -> None:
    policy = Policy.parse({"id": "p", "version": "1", "title": "t", "rules": [PLAIN, RULE]})
    blocks = category_blocks(policy)
    assert [(block.code, block.rule, block.name) for block in blocks] == [
        ("S1", "be_brief", "Be brief"),
        ("S2", "no-dose", "Specialized Advice"),
    ]
    assert blocks[0].render() == "S1: Be brief.\nBe brief."
    assert blocks[1].text.splitlines() == [
        "State no dose.",
        "This category applies only when the answer is about a medicine",
        "Falls under this category:",
        "- a dose in milligrams",
        "So does an answer that fails to:",
        "- name who can be asked",
        "There are no exceptions.",
    ]
    assert category_blocks(policy.wording_rules)[0].code == "S1"


def test_exceptions_are_part_of_a_category() -> None:
    block = category_blocks([rule(PLAIN, by="llm", allowed=["a poem"])])[0]
    assert block.text == "Be brief.\nDoes not fall under it:\n- a poem"


def test_an_auditor_sees_everything_that_a_judge_is_told() -> None:
    wording = auditor_wording(rule(RULE))
    assert (wording.rule, wording.tier, wording.no_exceptions) == ("no-dose", "critical", True)
    assert wording.examples == (AuditorExample("How much?", "400 mg.", True, "a dose"),)
    assert wording.lines() == [
        "no-dose (critical). State no dose.",
        "Does the answer keep this rule? Where the rule does not apply, it is kept.",
        "It applies only when the answer is about a medicine",
        "It is broken by:",
        "- a dose in milligrams",
        "An answer must:",
        "- name who can be asked",
        "There are no exceptions.",
        "Decided by a classifier. Where no judge is configured, these checks may stand in:",
        *(f"- {line}" for line in describe_checks(rule(RULE))),
        "Examples:",
        "- asked 'How much?', '400 mg.' breaks the rule: a dose",
    ]


def test_an_auditor_is_told_who_decides() -> None:
    assert auditor_wording(rule(PLAIN)).judged_by == "Decided by deterministic checks."
    bare = Rule(id="r", text="t", by="llm")
    assert auditor_wording(bare).lines()[-1] == "Decided by a language model that reads this wording."


def test_checks_are_put_into_words() -> None:
    assert describe_checks(rule(RULE)) == (
        "Applies only where the prompt contains 'pill'.",
        r"Broken where the response contains 'mg' or (the response matches the expression `\d g` in any case and "
        "the response has at least 3 words).",
        "Excused where it is not so that the prompt contains one of 'leaflet', 'box'.",
    )
    assert describe_checks(rule(PLAIN)) == (
        "Broken unless the response has a readability index of at least 1 and at most 40.5.",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_check_has_words(kind: str) -> None:
    bodies: dict[str, Any] = {"regex": "x", "words": ["x"], "length": {"max": 1}, "readability": {"max": 1}}
    bodies |= {"python": "operator:contains", "all": [{"words": ["x"]}], "any": [{"words": ["x"]}]}
    body = {kind: bodies.get(kind, {"words": ["x"]})}
    policy = Policy.parse(
        {"id": "p", "version": "1", "title": "t", "rules": [{"id": "r", "text": "t", "forbid": body}]}, allow_code=True
    )
    assert policy.rules[0].forbid is not None
    assert len(describe(policy.rules[0].forbid, "response").split()) > 3
