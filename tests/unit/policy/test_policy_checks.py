"""What each check matches, what it says, and what becomes of a check without an answer."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.policy import Policy, text_checks
from realigner.policy.words import contains_word, fold
from realigner.records import Label, Message, Prompt, RuleVerdict, user_prompt

CATASTROPHE = "(a|a)*$"
HOSTILE_TEXT = "a" * 60 + "!"


def rule(**checks: Any) -> dict[str, Any]:
    return {"id": "r", "text": "A rule.", **checks}


def judge(response: str, prompt: str | Prompt = "question", **checks: Any) -> RuleVerdict:
    policy = Policy.parse({"id": "p", "version": "1", "title": "t", "rules": [rule(**checks)]})
    asked = user_prompt(prompt) if isinstance(prompt, str) else prompt
    return policy.judge(asked, response).rules[0]


def breaks(response: str, **checks: Any) -> bool:
    verdict = judge(response, **checks)
    assert verdict.label in (Label.COMPLIANT, Label.NON_COMPLIANT)
    return verdict.label is Label.NON_COMPLIANT


def test_a_forbidden_match_is_non_compliant_and_quoted() -> None:
    verdict = judge("call 555-0100 now", forbid={"regex": r"\d{3}-\d{4}"})
    assert verdict == RuleVerdict("r", Label.NON_COMPLIANT, "contains '555-0100'")


def test_a_missing_requirement_is_non_compliant_and_named() -> None:
    verdict = judge("trust me", require={"words": ["source", "study"]})
    assert verdict == RuleVerdict("r", Label.NON_COMPLIANT, "contains none of 'source', 'study'")


def test_long_word_lists_and_long_matches_are_cut_in_reasons() -> None:
    assert judge("x", require={"words": list("abcde")}).reason == "contains none of 'a', 'b', 'c' and 2 more"
    long = judge("y" * 500, forbid={"regex": "y+"}).reason
    assert len(long) < 80
    assert long.endswith("…'")


def test_control_characters_of_a_response_do_not_reach_the_reason() -> None:
    assert judge("a\n\x1b[31mb", forbid={"regex": r"a\s.\[31mb"}).reason == r"contains 'a\n\x1b[31mb'"


def test_a_regex_heeds_case_unless_told_otherwise() -> None:
    assert not breaks("SECRET", forbid={"regex": "secret"})
    assert breaks("SECRET", forbid={"regex": "secret", "ignore_case": True})


def test_a_regex_that_matches_nothing_at_all_is_shown_by_its_expression() -> None:
    assert judge("text", forbid={"regex": "x*"}).reason == "matches 'x*'"


def test_a_catastrophic_regex_is_invalid_within_about_its_time_limit() -> None:
    begin = time.process_time()  # the limit counts processor time, so a busy machine does not shorten it
    verdict = judge(HOSTILE_TEXT, forbid={"regex": CATASTROPHE})
    assert time.process_time() - begin < 2 * text_checks.REGEX_SECONDS
    assert verdict.label is Label.INVALID
    assert verdict.reason == "the expression '(a|a)*$' did not finish within 1 s"


@pytest.mark.parametrize("place", ["forbid", "require", "when", "unless"])
def test_a_timeout_anywhere_in_a_rule_is_invalid_never_a_class(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_checks, "REGEX_SECONDS", 0.02)
    checks: dict[str, Any] = {place: {"regex": CATASTROPHE, "in": "response"}}
    if place in ("when", "unless"):
        checks["forbid"] = {"words": ["a" * 60]}
    assert judge(HOSTILE_TEXT, **checks).label is Label.INVALID


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("cat", "The CAT sat.", True),
        ("cat", "concatenate", False),
        ("cat", "cat's", True),
        ("cat", "“cat”, she said", True),
        ("cat", "cat_food", False),
        ("cat", "cat2", False),
        ("Straße", "HAUPTSTRASSE STRASSE", True),
        ("Straße", "Hauptstraße", False),
        ("caf\u00e9", "un cafe\u0301!", True),
        ("cafe", "un cafe\u0301!", False),
        ("don't", "I don’t know", True),
        ("self harm", "self\n  harm", True),
        ("self harm", "selfharm", False),
        ("C++", "I like c++.", True),
        ("C++", "cc++", False),
        ("自杀", "我想自杀了", True),
        ("AI", "问AI吧", True),
        ("फल", "मीठा फल है", True),
        ("फल", "सफलता", False),
        ("ΣΟΦΌΣ", "ο σοφός λέει", True),
        ("𝔘", "𝔘", True),
        ("no", "know no-one", True),
        ("no", "know", False),
        ("aa", "aaa aa", True),
    ],
)
def test_words_are_found_whole_in_any_script(word: str, text: str, found: bool) -> None:
    assert breaks(text, forbid={"words": [word]}) is found


@settings(deadline=None)
@given(
    st.text(alphabet="ab '’.é\u0301自", min_size=1).filter(lambda word: fold(word) != ""), st.text(alphabet=" .,!?\n")
)
def test_a_word_surrounded_by_punctuation_is_always_found(word: str, around: str) -> None:
    text = f"{around} {word} {around}"
    assert contains_word(fold(text), fold(word))


def test_words_do_not_break_on_a_lone_surrogate() -> None:
    assert breaks("bad \ud800 word", forbid={"words": ["word"]})


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        ({"max": 3}, True),
        ({"max": 2}, False),
        ({"min": 3, "max": 3}, True),
        ({"min": 4}, False),
        ({"min": 13, "max": 13, "unit": "characters"}, True),
        ({"max": 12, "unit": "characters"}, False),
    ],
)
def test_length_bounds_are_inclusive(bounds: dict[str, Any], fits: bool) -> None:
    assert breaks("one two three", require={"length": bounds}) is not fits


def test_a_length_is_given_with_its_bounds() -> None:
    reason = judge("one two three", forbid={"length": {"min": 2, "max": 9}}).reason
    assert reason == "has 3 words (bounds: at least 2, at most 9)"


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", 0.0),
        ("... 12 !", 0.0),
        ("A cat sat.", 3.0),
        ("A cat sat. It purred.", 2.5),
        ("Considerable deliberations continue", 3 + 100.0),
        ("One two three four considerable.", 5 + 20.0),
        ("First line\nsecond line", 2.0),
        ("sevenle (sevenle) 'abcdef'", 3 + 200 / 3),
    ],
)
def test_the_readability_index_is_words_per_sentence_plus_percent_long_words(text: str, index: float) -> None:
    assert text_checks.lix(text) == pytest.approx(index)


def test_readability_bounds_are_inclusive_and_named_with_the_score() -> None:
    assert not breaks("A cat sat.", require={"readability": {"max": 3}})
    verdict = judge("A cat sat.", require={"readability": {"max": 2.5}})
    assert verdict.reason == "has a readability index of 3.0 (wanted: a readability index of at most 2.5)"
    assert breaks("A cat sat.", forbid={"readability": {"min": 3}})


def test_when_looks_at_the_prompt_and_a_rule_that_does_not_apply_is_compliant() -> None:
    checks: dict[str, Any] = {"when": {"words": ["bank"]}, "forbid": {"words": ["password"]}}
    assert judge("bank password", "about fish", **checks) == RuleVerdict("r", Label.COMPLIANT, "does not apply")
    assert judge("password", "my bank", **checks).label is Label.NON_COMPLIANT


def test_unless_excepts_a_violation_by_the_response() -> None:
    checks: dict[str, Any] = {"forbid": {"words": ["poison"]}, "unless": {"words": ["antidote"]}}
    assert judge("poison", "antidote?", **checks).label is Label.NON_COMPLIANT
    excepted = judge("poison and its antidote", **checks)
    assert excepted == RuleVerdict("r", Label.COMPLIANT, "excepted: contains 'antidote'")


def test_a_check_names_the_text_that_it_looked_at() -> None:
    prompt = (
        Message(role="user", content="first bank"),
        Message(role="assistant", content="hm"),
        Message(role="user", content="then fish"),
    )
    words = {"words": ["bank"]}
    assert judge("x", prompt, forbid={**words, "in": "prompt"}).reason == "the prompt contains 'bank'"
    last = judge("x", prompt, forbid={**words, "in": "last_user_turn"})
    assert last == RuleVerdict("r", Label.COMPLIANT, "the last user turn contains none of 'bank'")


def test_the_last_user_turn_of_a_prompt_without_one_is_empty() -> None:
    prompt = (Message(role="system", content="word"),)
    assert judge("x", prompt, forbid={"words": ["word"], "in": "last_user_turn"}).label is Label.COMPLIANT


def test_all_any_and_not_combine() -> None:
    a, b = {"words": ["a"]}, {"words": ["b"]}
    assert [breaks(text, forbid={"all": [a, b]}) for text in ("a", "b", "a b", "c")] == [False, False, True, False]
    assert [breaks(text, forbid={"any": [a, b]}) for text in ("a", "b", "a b", "c")] == [True, True, True, False]
    assert [breaks(text, forbid={"not": {"any": [a, b]}}) for text in ("a", "c")] == [False, True]


def test_a_part_without_an_answer_matters_only_where_the_others_do_not_decide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_checks, "REGEX_SECONDS", 0.02)
    slow, yes, no = {"regex": CATASTROPHE}, {"regex": "!"}, {"regex": "z"}
    labels = {
        kind: [judge(HOSTILE_TEXT, forbid={kind: [slow, other]}).label for other in (yes, no)]
        for kind in ("all", "any")
    }
    assert labels == {
        "all": [Label.INVALID, Label.COMPLIANT],
        "any": [Label.NON_COMPLIANT, Label.INVALID],
    }
    assert judge(HOSTILE_TEXT, forbid={"not": slow}).label is Label.INVALID


@settings(deadline=None)
@given(st.text(), st.text())
def test_every_check_answers_any_text(prompt: str, response: str) -> None:
    checks: list[dict[str, Any]] = [
        {"regex": r"\w+\s"},
        {"words": ["ß", "two words", "自"]},
        {"length": {"min": 1, "max": 9, "unit": "characters"}},
    ]
    for target in ("prompt", "last_user_turn", "response"):
        for check in checks:
            verdict = judge(response, prompt, forbid={**check, "in": target})
            assert verdict.label in (Label.COMPLIANT, Label.NON_COMPLIANT)
            assert verdict.reason.isprintable()
