"""What lint finds: a contradiction only where the file proves one, and wording that a person should weigh."""

from __future__ import annotations

from typing import Any

import pytest

from realigner.policy import Policy
from realigner.policy.lint import MOST_TOKENS, VAGUE, LintFinding, lint
from realigner.policy.prompt import estimated_tokens
from realigner.policy.shipped import shipped_names

BOTH = [
    {"text": "You fool.", "label": "non_compliant", "why": "mocks"},
    {"text": "Take your time.", "label": "compliant", "why": "kind"},
]
KIND: dict[str, Any] = {"id": "kind", "by": "llm", "text": "Be kind to the person.", "examples": BOTH}
WORDS: dict[str, Any] = {"id": "words", "text": "No such words.", "forbid": {"words": ["fool"]}, "examples": BOTH}


def found(*rules: dict[str, Any], **changes: Any) -> list[LintFinding]:
    return lint(Policy.parse({"id": "p", "version": "1", "title": "t", "rules": list(rules), **changes}))


def codes(*rules: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
    return [(finding.level, finding.code) for finding in found(*rules, **changes)]


def test_a_clean_policy_has_no_findings() -> None:
    assert found(KIND, WORDS) == []


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_policies_are_clean(name: str) -> None:
    assert list(map(str, lint(Policy.load(name)))) == []


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        (
            {"violates": ["Satire."], "allowed": ["satire"]},
            "contradiction",
            "'Satire.' stands under violates and allowed",
        ),
        ({"violates": ["a list"], "requires": ["A list"]}, "contradiction", "'a list' stands under violates and req"),
        (
            {"zero_tolerance": True, "allowed": ["satire"]},
            "zero-tolerance",
            "zero_tolerance and an exception (allowed)",
        ),
        (
            {"zero_tolerance": True, "forbid": {"words": ["fool"]}, "unless": {"words": ["idiom"]}},
            "zero-tolerance",
            "zero_tolerance and an exception (unless)",
        ),
        (
            {"forbid": {"words": ["fool"]}, "unless": {"words": ["fool"]}},
            "never-broken",
            "what `forbid` finds, `unless` excuses",
        ),
        (
            {"examples": [*BOTH, {"text": "you  FOOL.", "label": "compliant", "why": "x"}]},
            "contradiction",
            "the example 'you fool.' is labelled both ways",
        ),
    ],
)
def test_a_rule_that_contradicts_itself_is_an_error(changes: dict[str, Any], code: str, text: str) -> None:
    first = found({**KIND, **changes})[0]
    assert (first.level, first.code, first.rules) == ("error", code, ("kind",))
    assert text in first.text


def test_the_same_text_with_another_prompt_is_no_contradiction() -> None:
    more = {"text": "You fool.", "prompt": "Quote the play.", "label": "compliant", "why": "asked for"}
    assert found({**KIND, "examples": [*BOTH, more]}) == []


def test_what_one_rule_requires_and_another_forbids_is_an_error_where_both_always_apply() -> None:
    asks = {**KIND, "id": "asks", "text": "Ask back.", "requires": ["ask a question"]}
    bans = {**KIND, "id": "bans", "text": "Ask nothing.", "violates": ["Ask a question"]}
    assert codes(asks, bans) == [("error", "contradiction")]
    sometimes = {**bans, "applies_when": "the person is in a hurry"}
    assert codes(asks, sometimes) == [("warning", "contradiction")]
    assert "wherever both apply" in found(sometimes, asks)[0].text


def test_an_exception_that_another_rule_forbids_is_pointed_out() -> None:
    grants = {**KIND, "id": "grants", "text": "No insults.", "allowed": ["quoting a play"]}
    bans = {**KIND, "id": "bans", "text": "No quotes.", "violates": ["quoting a play"]}
    finding = found(grants, bans)[0]
    assert (finding.level, finding.code, finding.rules) == ("warning", "precedence", ("grants", "bans"))
    assert "every rule is judged by itself, so the exception does not reach bans" in finding.text


def test_duplicates_are_found_and_at_two_tiers_they_contradict() -> None:
    assert codes(KIND, {**KIND, "id": "again"}) == [("warning", "duplicate")]
    assert codes(KIND, {**KIND, "id": "again", "tier": "high"}) == [("error", "duplicate")]
    assert codes(KIND, {**KIND, "id": "again", "violates": ["mockery"]}) == [("warning", "duplicate")]


def plain(name: str, **checks: Any) -> dict[str, Any]:
    return {"id": name, "text": f"Rule {name}.", "examples": [], **checks}


def errors(*rules: dict[str, Any]) -> list[str]:
    return [finding.code for finding in found(*rules) if finding.level == "error"]


def test_words_that_are_required_and_forbidden_clash_only_where_no_answer_could_keep_both() -> None:
    asks = plain("asks", require={"words": ["Please", "thanks"]})
    assert errors(asks, plain("bans", forbid={"words": ["thanks", "please", "sorry"]})) == ["contradiction"]
    assert errors(asks, plain("bans", forbid={"words": ["thanks"]})) == []
    bans = plain("bans", forbid={"words": ["thanks", "please"]})
    assert errors(plain("asks", require={"words": ["thanks"], "in": "prompt"}), bans) == []
    assert errors({**asks, "when": {"words": ["x"]}}, bans) == []
    assert errors({**asks, "unless": {"words": ["x"]}}, bans) == []


def test_lengths_that_leave_no_answer_clash() -> None:
    long, short = plain("long", require={"length": {"min": 50}}), plain("short", require={"length": {"max": 40}})
    assert errors(long, short) == errors(short, long) == ["contradiction"]
    assert errors(long, plain("short", require={"length": {"max": 50}})) == []
    assert errors(long, plain("short", require={"length": {"max": 40, "unit": "characters"}})) == []
    assert errors(long, {**short, "unless": {"words": ["x"]}}) == []


@pytest.mark.parametrize("word", VAGUE)
def test_every_vague_word_is_found_whole(word: str) -> None:
    assert codes({**KIND, "violates": [f"Tone that is {word.upper()} here"]}) == [("warning", "vague")]
    assert codes({**KIND, "violates": [f"x{word}x"]}) == []


def test_vague_words_are_looked_for_in_every_field_that_a_judge_reads() -> None:
    fields = {
        "text": "Be good.",
        "applies_when": "it is usual and proper",
        "allowed": ["fair use"],
        "requires": ["etc."],
    }
    assert [finding.text for finding in found({**KIND, **fields})] == [
        "text says 'good'",
        "applies_when says 'proper'",
        "allowed says 'fair'",
        "requires says 'etc'",
    ]
    assert found({**WORDS, "text": "Good words only."}) == []


def test_missing_and_one_sided_examples_are_pointed_out() -> None:
    assert found({**KIND, "examples": []})[0].text == "it has no example, so a judge is shown no case"
    assert found({**WORDS, "examples": []})[0].text == "it has no example, so nothing tests it"
    assert found({**KIND, "examples": BOTH[:1]})[0].text.startswith("no example is compliant")
    assert found({**KIND, "examples": BOTH[1:]})[0].text.startswith("no example is non_compliant")
    assert found({**WORDS, "examples": BOTH[:1]}) == []


def test_a_prompt_over_600_tokens_is_pointed_out() -> None:
    finding = found({**KIND, "violates": ["a word of mockery " * 100]})[0]
    assert (finding.code, MOST_TOKENS) == ("long", 600)
    assert "tokens, over 600" in finding.text


def test_tokens_are_estimated_at_four_ascii_characters_each_and_one_for_any_other() -> None:
    assert [estimated_tokens(text) for text in ("", "abcd", "abcde", "ä", "abcd自杀")] == [0, 1, 2, 1, 3]


def test_a_fallback_that_contradicts_the_examples_is_a_warning_not_a_fault_of_the_file() -> None:
    finding = found({**KIND, "forbid": {"words": ["idiot"]}})[0]
    assert (finding.level, finding.code) == ("warning", "fallback")
    assert finding.text.startswith("by its fallback, example 1 ('You fool.') is labelled non_compliant, but the rule")


def test_rules_that_never_decide_are_named() -> None:
    critical = {**WORDS, "tier": "critical"}
    finding = found(critical, KIND, decision="any_critical")[0]
    assert (finding.code, finding.rules) == ("never-decides", ("kind",))
    light = {"at": 8, "weights": {"standard": 0}}
    assert codes(critical, KIND, decision="threshold", threshold=light) == [("warning", "never-decides")]
    assert codes(critical, KIND, decision="threshold") == []


def test_errors_come_first_and_read_as_one_line_each() -> None:
    lines = list(map(str, found({**KIND, "text": "Be good.", "violates": ["x"], "allowed": ["x"]})))
    assert [line.split()[:2] for line in lines] == [["error", "contradiction"], ["warning", "vague"]]
    assert all("\n" not in line for line in lines)
