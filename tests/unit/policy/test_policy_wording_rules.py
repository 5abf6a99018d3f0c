"""Rules that need a judge: their shape, and that checks never stand in for one unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from realigner.errors import OracleError, PolicyError, RecipeError
from realigner.oracle import RuleOracle, build_oracle
from realigner.policy import Policy
from realigner.recipe import OracleSettings, Recipe
from realigner.records import Label, user_prompt

ASKED = user_prompt("q")
BARE: dict[str, Any] = {"id": "kind", "by": "llm", "text": "Be kind."}
BACKED: dict[str, Any] = {"id": "clean", "by": "classifier", "text": "Do not swear.", "forbid": {"words": ["damn"]}}
PLAIN: dict[str, Any] = {"id": "brief", "text": "Be brief.", "require": {"length": {"max": 5}}}


def content(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"id": "p", "version": "1", "title": "t", "rules": list(rules)}


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.parse(content(*rules))


def test_a_policy_with_wording_rules_is_never_judged_by_checks_alone() -> None:
    with pytest.raises(OracleError) as caught:
        policy(BARE, BACKED, PLAIN).judge(ASKED, "r")
    assert str(caught.value) == (
        "policy p 1: 2 rules are judged by wording: kind (llm), clean (classifier): this policy needs a judge; checks "
        "alone cannot decide it. Set oracle.kind: judges"
    )


def test_a_rule_without_checks_cannot_stand_in_even_where_permitted() -> None:
    with pytest.raises(OracleError, match=r"1 rule is judged by wording without a deterministic fallback: kind \(llm"):
        RuleOracle(policy(BARE, BACKED), fallbacks=True)


def test_fallbacks_stand_in_only_when_told_to_and_the_identity_says_so() -> None:
    with pytest.raises(
        OracleError, match=r"or let their deterministic fallbacks stand in with oracle\.fallbacks: true"
    ):
        build_oracle(OracleSettings(), policy(BACKED, PLAIN))
    oracle = build_oracle(OracleSettings(fallbacks=True), policy(BACKED, PLAIN))
    assert oracle.identity == f"rules/1:{policy(BACKED, PLAIN).hash}:fallbacks=clean"
    assert policy(BACKED).judge(ASKED, "damn", fallbacks=True).label is Label.NON_COMPLIANT
    assert RuleOracle(policy(PLAIN), fallbacks=True).identity == RuleOracle(policy(PLAIN)).identity


def test_fallbacks_belong_to_the_oracle_of_rules() -> None:
    with pytest.raises(RecipeError, match=r"oracle\.fallbacks belongs to kind 'rules'"):
        Recipe.parse(
            {
                "output": "o",
                "model": {"path": "m"},
                "data": {"path": "d"},
                "policy": {"path": "p"},
                "oracle": {"kind": "scripted", "path": "v", "fallbacks": True},
            }
        )


def test_only_deterministic_rules_are_held_to_their_examples(tmp_path: Path) -> None:
    examples = [{"text": "What the heck.", "label": "non_compliant", "why": "it swears"}]
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(content({**BACKED, "examples": examples})), encoding="utf-8")
    loaded = Policy.load(path)
    assert loaded.check_examples() == []
    assert loaded.check_examples(fallbacks=True) == [
        "rule 'clean', example 1 ('What the heck.') is labelled non_compliant, but the rule says compliant: contains "
        "none of 'damn'"
    ]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"id": "r", "text": "t"}, "rule 'r': has neither forbid nor require; give exactly one, or `by: llm` to have"),
        ({**BARE, "when": {"words": ["a"]}}, "rule 'kind': has when or unless, but neither forbid nor require"),
        ({**BARE, "by": "jury"}, "rule 'kind': by: 'jury': Input should be 'rules', 'llm' or 'classifier'"),
        ({**BARE, "violates": "all"}, "rule 'kind': violates: 'all': Input should be a valid"),
        ({**BARE, "violates": [""]}, "rule 'kind': violates[1]: needs at least one character"),
        ({**BARE, "allowed": [" "]}, "rule 'kind': allowed[1]: ' ': String should match pattern"),
        ({**BARE, "alowed": ["x"]}, "rule 'kind': alowed: unknown key. Did you mean 'allowed'?"),
    ],
)
def test_a_faulty_wording_rule_is_named_with_its_remedy(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(rule)
    assert message in str(caught.value)
