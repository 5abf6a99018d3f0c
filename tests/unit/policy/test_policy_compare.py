"""Policy diff: complete (empty exactly for equal policies), reversible, and never surer than the file allows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.policy import Policy, Rule
from realigner.policy.compare import PolicyDiff, compare
from realigner.records import Label, RuleVerdict, user_prompt

LLM: dict[str, Any] = {
    "id": "r",
    "by": "llm",
    "text": "Be kind.",
    "violates": ["mockery", "threats"],
    "allowed": ["satire"],
    "requires": ["greet"],
    "examples": [{"text": "Hi.", "label": "compliant", "why": "kind"}],
}
PLAIN: dict[str, Any] = {"id": "r", "text": "Be clean.", "forbid": {"words": ["damn", "hell"]}}


def policy(*rules: Mapping[str, Any], **changes: Any) -> Policy:
    content = {"id": "p", "version": "1", "title": "t", "rules": [dict(rule) for rule in rules], **changes}
    return Policy.parse(content, allow_code=True)


def edit(base: Mapping[str, Any], **changes: Any) -> PolicyDiff:
    """Compare a one-rule policy with itself after an edit; `...` removes a key."""
    edited = {key: value for key, value in {**base, **changes}.items() if value is not ...}
    return compare(policy(base), policy(edited))


@pytest.mark.parametrize(
    ("changes", "direction", "words"),
    [
        ({"tier": "high"}, "tightened", "tier raised from standard to high"),
        ({"tier": "reduced"}, "loosened", "tier lowered from standard to reduced"),
        ({"text": "Be very kind."}, "changed", "text 'Be very kind.' instead of 'Be kind.'"),
        ({"violates": ["mockery", "threats", "spam"]}, "tightened", "now also breaks it: spam"),
        ({"violates": ["threats"]}, "loosened", "no longer breaks it: mockery"),
        ({"violates": ["threats", "mockery"]}, "changed", "violates: the same entries in another order"),
        ({"violates": ["mocking", "threats"]}, "changed", "now also breaks it: mocking"),
        ({"allowed": ["satire", "quotes"]}, "loosened", "now allowed: quotes"),
        ({"allowed": []}, "tightened", "no longer allowed: satire"),
        ({"requires": ["greet", "thank"]}, "tightened", "now required: thank"),
        ({"requires": []}, "loosened", "no longer required: greet"),
        ({"applies_when": "asked"}, "loosened", "now applies only when asked"),
        ({"zero_tolerance": True}, "tightened", "now without any exception"),
        ({"by": "classifier"}, "changed", "judged by classifier instead of llm"),
        ({"category": "Hate"}, "no_effect", "category 'Hate' instead of none"),
        ({"examples": []}, "changed", "examples: 0 added, 1 removed"),
        ({"forbid": {"words": ["damn"]}}, "changed", "fallback: forbid: Broken where the response contains 'damn'."),
        ({"requires": [], "violates": ["mockery", "threats", "spam"]}, "changed", "now also breaks it: spam"),
    ],
)
def test_each_edit_of_a_wording_rule_counts_as_documented(changes: dict[str, Any], direction: str, words: str) -> None:
    (change,) = edit(LLM, **changes).changed
    assert change.direction == direction
    assert words in [field.words for field in change.changes]


@pytest.mark.parametrize(
    ("changes", "direction"),
    [
        ({"forbid": {"words": ["damn", "hell", "crap"]}}, "tightened"),
        ({"forbid": {"words": ["hell"]}}, "loosened"),
        ({"forbid": {"words": ["hell", "crap"]}}, "changed"),
        ({"forbid": {"words": ["HELL", "damn"]}}, "no_effect"),
        ({"forbid": {"words": ["damn", "hell"], "in": "prompt"}}, "changed"),
        ({"forbid": {"regex": "damn|hell"}}, "changed"),
        ({"forbid": {"any": [{"words": ["damn", "hell"]}, {"regex": "x"}]}}, "tightened"),
        ({"forbid": {"all": [{"words": ["damn", "hell"]}, {"regex": "x"}]}}, "loosened"),
        ({"forbid": {"any": [{"words": ["damn", "hell", "crap"]}, {"regex": "x"}]}}, "changed"),
        ({"unless": {"words": ["quote"]}}, "loosened"),
        ({"when": {"words": ["quote"]}}, "loosened"),
        ({"forbid": ..., "require": {"words": ["damn", "hell"]}}, "changed"),
        ({"forbid": {"python": "operator:contains"}}, "changed"),
        ({"text": "Be cleaner."}, "no_effect"),
        ({"violates": ["x"]}, "no_effect"),
        ({"examples": [{"text": "damn", "label": "non_compliant", "why": "x"}]}, "no_effect"),
        ({"by": "llm"}, "changed"),
    ],
)
def test_each_edit_of_a_deterministic_rule_counts_as_documented(changes: dict[str, Any], direction: str) -> None:
    (change,) = edit(PLAIN, **changes).changed
    assert change.direction == direction


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        ({"length": {"max": 9}}, {"length": {"max": 5}}, "tightened"),
        ({"length": {"max": 9}}, {"length": {"min": 1, "max": 9}}, "tightened"),
        ({"length": {"min": 2, "max": 9}}, {"length": {"min": 1, "max": 10}}, "loosened"),
        ({"length": {"min": 2, "max": 9}}, {"length": {"min": 1, "max": 8}}, "changed"),
        ({"length": {"max": 9}}, {"length": {"max": 9, "unit": "characters"}}, "changed"),
        ({"readability": {"max": 50}}, {"readability": {"max": 40}}, "tightened"),
        ({"regex": "a"}, {"regex": "a", "ignore_case": True}, "changed"),
        ({"not": {"words": ["a"]}}, {"not": {"words": ["a", "b"]}}, "tightened"),
        ({"words": ["a"]}, {"words": ["a", "b"]}, "loosened"),
    ],
)
def test_what_a_requirement_asks_for_is_compared_the_other_way_round(
    old: dict[str, Any], new: dict[str, Any], direction: str
) -> None:
    base = {"id": "r", "text": "t"}
    (change,) = compare(policy({**base, "require": old}), policy({**base, "require": new})).changed
    assert change.direction == direction


def test_rules_are_added_dropped_and_renamed() -> None:
    other = {**LLM, "id": "other", "text": "Be fair."}
    found = compare(policy(LLM, PLAIN | {"id": "plain"}), policy({**LLM, "id": "renamed"}, other))
    assert [(rule.rule, rule.by) for rule in found.added] == [("other", "llm")]
    assert [rule.rule for rule in found.dropped] == ["plain"]
    assert [(change.rule, change.was, change.direction) for change in found.changed] == [("renamed", "r", "no_effect")]
    assert found.judged_again == ("other",)


def test_only_rules_that_a_judge_reads_differently_are_judged_again() -> None:
    again = {
        field: edit(LLM, **{field: value}).judged_again
        for field, value in {"tier": "high", "id": "renamed", "text": "New.", "allowed": [], "category": "x"}.items()
    }
    assert again == {"tier": (), "id": (), "text": ("r",), "allowed": ("r",), "category": ()}
    assert edit(PLAIN, forbid={"words": ["x"]}).judged_again == ()


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        ("any_violation", "any_critical", "loosened"),
        ("any_violation", "threshold", "loosened"),
        ("any_violation", "all_requirements", "loosened"),
        ("all_requirements", "threshold", "changed"),
        ("any_critical", "threshold", "tightened"),
        ("any_critical", "all_requirements", "tightened"),
    ],
)
def test_decisions_are_ordered_by_what_they_count(old: str, new: str, direction: str) -> None:
    rules = [{**LLM, "id": "a", "tier": "critical"}, {**LLM, "id": "b"}, {**LLM, "id": "c", "requires": []}]
    (change,) = compare(policy(*rules, decision=old), policy(*rules, decision=new)).policy
    assert (change.field, change.direction) == ("decision", direction)
    before, after = (
        [
            policy(*rules, decision=name).decide(_verdicts(rules, bad)).label
            for bad in itertools.product([0, 1], repeat=3)
        ]
        for name in (old, new)
    )
    stricter = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    ends = {y for _, y in stricter}
    if direction == "tightened":
        assert ends <= {Label.NON_COMPLIANT}
    if direction == "loosened":
        assert ends <= {Label.COMPLIANT}


def _verdicts(rules: list[dict[str, Any]], bad: tuple[int, ...]) -> list[RuleVerdict]:
    labels = (Label.NON_COMPLIANT if broken else Label.COMPLIANT for broken in bad)
    return [RuleVerdict(rule["id"], label, "") for rule, label in zip(rules, labels, strict=True)]


@pytest.mark.parametrize(
    ("threshold", "direction"),
    [
        ({"at": 4}, "tightened"),
        ({"weights": {"high": 5}}, "tightened"),
        ({"weights": {"high": 3}}, "loosened"),
        ({"weights": {"high": 3, "reduced": 2}}, "changed"),
    ],
)
def test_a_threshold_tightens_by_weight_and_loosens_by_height(threshold: dict[str, Any], direction: str) -> None:
    rules = [{**LLM, "tier": "critical"}]
    old = policy(*rules, decision="threshold")
    (change,) = compare(old, policy(*rules, decision="threshold", threshold=threshold)).policy
    assert (change.field, change.direction) == ("threshold", direction)


def test_head_and_order_are_told_but_have_no_effect() -> None:
    a, b = {**LLM, "id": "a"}, {**PLAIN, "id": "b"}
    found = compare(policy(a, b), policy(b, a, version="2", title="u", supersedes="p 1"))
    assert [change.words for change in found.policy] == [
        "version '2' instead of '1'",
        "title 'u' instead of 't'",
        "supersedes 'p 1' instead of none",
        "the rules stand in another order",
    ]
    assert {change.direction for change in found.policy} == {"no_effect"}
    assert not found.changed


def test_the_difference_reads_as_plain_lines() -> None:
    old = policy(LLM, {**PLAIN, "id": "old"})
    new = policy({**LLM, "violates": ["threats", "spam"]}, {**PLAIN, "id": "new", "text": "New."}, version="2")
    lines = compare(old, policy(*[rule.model_dump(by_alias=True) for rule in new.rules], version="2")).lines()
    assert lines == [
        "p 1 -> p 2",
        "0 rules unchanged, 1 added, 1 dropped, 0 tightened, 0 loosened, 1 changed, 0 changed without effect",
        "policy: version '2' instead of '1'",
        "added: new (standard, by rules): New.",
        "dropped: old (standard, by rules): Be clean.",
        "changed: r",
        "    now also breaks it: spam (tightened)",
        "    no longer breaks it: mockery (loosened)",
        "to be judged again: r",
    ]


TEXTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(lambda words: {"words": words})
LENGTHS = st.tuples(st.integers(0, 3), st.integers(3, 5)).map(lambda x: {"length": {"min": x[0], "max": x[1]}})
CHECKS = st.recursive(
    st.one_of(WORDS, LENGTHS, st.sampled_from([{"regex": "a"}, {"regex": "b", "ignore_case": True}])),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda x: {"all": x}),
        st.lists(inner, min_size=1, max_size=2).map(lambda x: {"any": x}),
        inner.map(lambda x: {"not": x}),
    ),
    max_leaves=3,
)
RULES = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["x", "y", "z"]),
        "text": st.sampled_from(["one", "two"]),
        "tier": st.sampled_from(["critical", "high"]),
        "by": st.sampled_from(["rules", "llm", "classifier"]),
        "zero_tolerance": st.booleans(),
        "violates": TEXTS,
        "allowed": TEXTS,
        "requires": TEXTS,
        "applies_when": st.sampled_from([None, "p", "q"]),
        "category": st.sampled_from([None, "k"]),
        "forbid": CHECKS,
        "when": st.one_of(st.none(), CHECKS),
        "unless": st.one_of(st.none(), CHECKS),
        "examples": st.lists(
            st.sampled_from([{"text": "a", "label": "compliant", "why": "w", "prompt": p} for p in ("", "b")]),
            max_size=2,
        ),
    }
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    rules = draw(st.lists(RULES, min_size=1, max_size=3, unique_by=lambda rule: rule["id"]))
    return policy(*rules, version=draw(st.sampled_from(["1", "2"])))


@settings(deadline=None, max_examples=50)
@given(policies())
def test_a_policy_does_not_differ_from_itself(one: Policy) -> None:
    again = Policy.parse(one.model_dump(mode="json", by_alias=True), allow_code=True)
    found = compare(one, again)
    assert not found
    assert found.judged_again == ()
    assert list(found.unchanged) == [rule.id for rule in one.rules]


def turned(value: Any) -> Any:
    """Return plain values with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=60)
@given(policies())
def test_hashes_do_not_depend_on_the_order_of_keys(one: Policy) -> None:
    again = Policy.parse(turned(one.model_dump(mode="json", by_alias=True)))
    assert again.hash == one.hash
    assert [rule.hash for rule in again.rules] == [rule.hash for rule in one.rules]


@settings(deadline=None, max_examples=60)
@given(policies(), policies())
def test_policies_differ_exactly_where_their_hashes_do(one: Policy, other: Policy) -> None:
    assert bool(compare(one, other)) is (one.hash != other.hash)


@settings(deadline=None, max_examples=60)
@given(policies(), policies())
def test_the_way_back_is_the_opposite(one: Policy, other: Policy) -> None:
    there, back = compare(one, other), compare(other, one)
    assert (there.added, there.dropped) == (back.dropped, back.added)
    turned = {"tightened": "loosened", "loosened": "tightened"}
    ids = {change.was: turned.get(change.direction, change.direction) for change in there.changed}
    assert ids == {change.rule: change.direction for change in back.changed}


@settings(deadline=None, max_examples=200)
@given(CHECKS, CHECKS, st.sampled_from(["forbid", "require", "unless", "when"]), st.text("abcABC ", max_size=12))
def test_a_direction_is_never_contradicted_by_a_verdict(
    old: dict[str, Any], new: dict[str, Any], place: str, text: str
) -> None:
    base: dict[str, Any] = {"id": "r", "text": "t"}
    if place in ("unless", "when"):
        base["forbid"] = {"regex": "x*"}  # always found
    one, other = (policy({**base, place: check}) for check in (old, new))
    found = compare(one, other).changed
    before, after = (p.judge(user_prompt(text), text).label for p in (one, other))
    if before is not after:
        (change,) = found
        assert change.direction in ("changed", "loosened" if after is Label.COMPLIANT else "tightened")


def test_every_field_of_a_rule_is_compared() -> None:
    fields = {
        "id": "renamed", "text": "t", "tier": "high", "by": "classifier", "zero_tolerance": True, "applies_when": "x",
        "violates": [], "allowed": [], "requires": [], "category": "x", "when": {"words": ["x"]},
        "unless": {"words": ["x"]}, "forbid": {"words": ["x"]}, "require": ..., "examples": [],
    }  # fmt: skip
    assert set(fields) == set(Rule.model_fields)
    base = {**LLM, "forbid": {"words": ["y"]}}
    for field, value in fields.items():
        if value is not ...:
            names = {change.field for found in edit(base, **{field: value}).changed for change in found.changes}
            assert names == {f"fallback {field}" if field in ("when", "unless", "forbid") else field}
