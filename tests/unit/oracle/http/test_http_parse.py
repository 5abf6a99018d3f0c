"""The strict parser: what is a verdict, and above all what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realigner.oracle.http.parse import LONGEST_REASON, Unreadable, read_answer
from realigner.policy import Rule
from realigner.records import Label

ONE = (Rule(id="tone", by="llm", text="Be kind."),)
TWO = (*ONE, Rule(id="length", by="llm", text="Be brief."))


def entry(verdict: Any = "compliant", reason: Any = "it is") -> dict[str, Any]:
    return {"reason": reason, "verdict": verdict}


def answer(verdict: Any = "compliant", reason: Any = "it is") -> str:
    return json.dumps({"rule_1": entry(verdict, reason)})


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("label", ["compliant", "non_compliant", "unsure"])
def test_each_verdict_is_read_with_its_reason(label: str, alone: bool) -> None:
    (verdict,) = read_answer(f" {answer(label)}\n", ONE, alone=alone)
    assert (verdict.rule, verdict.label, verdict.reason) == ("tone", Label(label), "it is")


def test_several_rules_come_in_their_order_whatever_the_order_of_the_answer() -> None:
    text = json.dumps({"rule_2": entry("unsure"), "rule_1": entry("non_compliant")})
    verdicts = read_answer(text, TWO, alone=True)
    assert [(v.rule, v.label) for v in verdicts] == [("tone", Label.NON_COMPLIANT), ("length", Label.UNSURE)]


FAULTS = {
    "another word": (answer("yes"), "none of compliant"),
    "capitals": (answer("Compliant"), "none of compliant"),
    "invalid is no answer": (answer("invalid"), "none of compliant"),
    "a truth value": (answer(True), "none of compliant"),
    "a list of verdicts": (answer(["compliant"]), "none of compliant"),
    "no reason": (answer(reason=" "), "gives no reason"),
    "a reason that is no text": (answer(reason=3), "gives no reason"),
    "no verdict": ('{"rule_1": {"reason": "r"}}', "not an object of a reason and a verdict"),
    "one key more": ('{"rule_1": {"reason": "r", "verdict": "compliant", "x": 1}}', "not an object of a reason"),
    "a bare word": ('{"rule_1": "compliant"}', "not an object of a reason"),
    "another rule": ('{"rule_2": {"reason": "r", "verdict": "compliant"}}', "its keys are rule_2, not rule_1"),
    "one rule more": (json.dumps({"rule_1": entry(), "rule_2": entry()}), "its keys are rule_1, rule_2"),
    "an empty object": ("{}", "its keys are none"),
    "a key twice": (
        '{"rule_1": {"reason": "r", "verdict": "non_compliant", "verdict": "compliant"}}',
        "a key stands twice",
    ),
    "a rule twice": (f'{{"rule_1": {json.dumps(entry("unsure"))}, "rule_1": {json.dumps(entry())}}}', "stands twice"),
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_exactly_a_verdict_is_none(name: str, alone: bool) -> None:
    text, message = FAULTS[name]
    with pytest.raises(Unreadable, match=message):
        read_answer(text, ONE, alone=alone)


NOT_ALONE = (
    *("", "compliant", "[]", '"compliant"', "null", '{"rule_1": NaN}', "[" * 100_000, "{" * 100_000),
    *(answer() + answer(), "It is so: " + answer(), answer()[:-1], answer() + " So.", f"```json\n{answer()}\n```"),
)


@pytest.mark.parametrize("text", NOT_ALONE)
def test_with_json_output_the_answer_is_the_object_and_nothing_else(text: str) -> None:
    with pytest.raises(Unreadable):
        read_answer(text, ONE, alone=True)


@pytest.mark.parametrize(
    "before", ["", "Let me see.\n", "<think>I {might} say {} or</think>\n", "a {b} c { d ", '{"x": 1}']
)
@pytest.mark.parametrize("fence", ["", "```"])
def test_a_plain_model_may_write_words_before_its_answer(before: str, fence: str) -> None:
    (verdict,) = read_answer(f"{before}{fence}\n{answer('unsure')}\n{fence}\n", ONE, alone=False)
    assert verdict.label is Label.UNSURE


PLAIN_FAULTS = {
    "no object": ("It is compliant.", "contains no JSON object"),
    "words after it": (answer() + " But in truth it is non_compliant.", "something follows"),
    "a quotation, then another answer": (
        f"The response asks for {answer('compliant')}. I say: {answer('non_compliant')}",
        "two different answers",
    ),
    "a draft in its thoughts is no answer": (f"<think>{answer()}</think>", "contains no JSON object"),
    "its verdict hides in another object": (f'{{"x": {answer()}}}', "its keys are x"),
}


@pytest.mark.parametrize("name", PLAIN_FAULTS)
def test_a_plain_answer_must_end_in_its_one_object(name: str) -> None:
    text, message = PLAIN_FAULTS[name]
    with pytest.raises(Unreadable, match=message):
        read_answer(text, ONE, alone=False)


def test_the_same_answer_twice_is_one_answer() -> None:
    (verdict,) = read_answer(f"Draft: {answer()} Final: {answer()}", ONE, alone=False)
    assert verdict.label is Label.COMPLIANT


@pytest.mark.parametrize("text", ["{" * 150_000, '{"a":' * 30_000, "x" * 300_000, "{}" * 90_000])
def test_a_hostile_answer_is_refused_quickly(text: str) -> None:
    with pytest.raises(Unreadable):
        read_answer(text, ONE, alone=False)


def test_a_reason_can_be_stored_whatever_it_holds() -> None:
    (verdict,) = read_answer('{"rule_1": {"reason": "a\\ud800b", "verdict": "unsure"}}', ONE, alone=True)
    assert verdict.reason == "a?b"
    (verdict,) = read_answer(answer(reason="x" * 10_000), ONE, alone=True)
    assert len(verdict.reason) == LONGEST_REASON


@given(st.text(), st.booleans())
def test_no_text_makes_the_parser_fail_in_another_way(text: str, alone: bool) -> None:
    with pytest.raises(Unreadable):
        read_answer(text, ONE, alone=alone)


@given(st.text(min_size=1).filter(str.strip), st.sampled_from(["compliant", "non_compliant", "unsure"]))
def test_any_reason_survives_in_any_output_mode(reason: str, label: str) -> None:
    for alone in (True, False):
        (verdict,) = read_answer(answer(label, reason), ONE, alone=alone)
        assert verdict.label == label
        assert verdict.reason == reason.strip()[:LONGEST_REASON].encode("utf-8", "replace").decode()
