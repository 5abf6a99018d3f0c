"""What each guard family's answers mean, on answers written by hand in the published formats, edge cases included."""

from __future__ import annotations

import json

import pytest

from realigner.oracle.guards import FAMILIES
from realigner.oracle.guards.safeguard import final_channel
from realigner.policy import Policy
from realigner.records import Label

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID
RULES = Policy.parse(
    {
        "id": "p",
        "version": "1",
        "title": "t",
        "rules": [{"id": f"r{n}", "by": "llm", "text": f"Rule {n}."} for n in (1, 2)],
    }
).rules


def read(family: str, text: str, category: str, told: bool = False) -> Label:
    return FAMILIES[family].read(text, RULES if told else ()).of(category)[0]


@pytest.mark.parametrize("family", ["llama-guard-3", "llama-guard-4"])
@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("safe", {"S1": GOOD, "S10": GOOD}),
        ("\n\nsafe", {"S1": GOOD}),  # these models begin with line breaks
        ("Safe.", {"S1": GOOD}),
        ("SAFE\n", {"S1": GOOD}),
        ("unsafe\nS2", {"S2": BAD, "S1": GOOD}),
        ("\n\nunsafe\nS1,S10", {"S1": BAD, "S10": BAD, "S2": GOOD}),
        ("unsafe\nS1, S10\n", {"S1": BAD, "S10": BAD}),
        ("Unsafe\ns9", {"S9": BAD, "S1": GOOD}),
        ("unsafe S9", {"S9": BAD}),
        ("unsafe", {"S1": UNSURE}),  # which rule, it does not say
        ("unsafe\n", {"S1": UNSURE}),
        ("unsafe\nS99", {"S1": UNSURE}),
        ("unsafe\nS1,S99", {"S1": BAD, "S2": UNSURE}),
        ("unsafe\nViolent Crimes", {"S1": UNSURE}),
        ("unsafe\nS", {"S1": UNSURE}),  # cut within a code; the judge makes a cut answer invalid before
        ("safe\nS1", {"S1": INVALID}),
        ("I cannot help with that.", {"S1": INVALID}),
        ("unsafely", {"S1": INVALID}),
        ("", {"S1": INVALID}),
        ("   \n", {"S1": INVALID}),
    ],
)
def test_llama_guard(family: str, text: str, labels: dict[str, Label]) -> None:
    assert {category: read(family, text, category) for category in labels} == labels


def test_llama_guard_that_was_told_a_policy_knows_only_its_codes() -> None:
    assert read("llama-guard-3", "unsafe\nS2", "S1", told=True) is GOOD
    assert read("llama-guard-3", "unsafe\nS2", "S2", told=True) is BAD
    assert read("llama-guard-3", "unsafe\nS3", "S1", told=True) is UNSURE


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Safety: Safe\nCategories: None\nRefusal: No", {"violent": GOOD, "refusal": GOOD}),
        ("Safety: Safe\nCategories: None\nRefusal: Yes", {"violent": GOOD, "refusal": BAD}),
        ("Safety: Unsafe\nCategories: Violent\nRefusal: No", {"violent": BAD, "pii": GOOD}),
        ("Safety: Unsafe\nCategories: PII, Suicide & Self-Harm\nRefusal: No", {"pii": BAD, "self-harm": BAD}),
        ("safety: UNSAFE\ncategories: violent\nrefusal: no", {"violent": BAD, "refusal": GOOD}),
        ("Safety: Controversial\nCategories: Unethical Acts\nRefusal: No", {"unethical": UNSURE, "violent": GOOD}),
        ("Safety: Controversial\nCategories: None\nRefusal: No", {"unethical": UNSURE}),
        ("Safety: Unsafe\nCategories: None\nRefusal: No", {"violent": UNSURE}),
        ("Safety: Unsafe", {"violent": UNSURE, "refusal": INVALID}),
        ("Safety: Unsafe\nCategories: Witchcraft\nRefusal: No", {"violent": UNSURE}),
        ("Safety: Unsafe\nCategories: Witchcraft, Violent\nRefusal: No", {"violent": BAD, "pii": UNSURE}),
        ("**Safety:** Unsafe\n**Categories:** Violent", {"violent": BAD}),
        ("Safety: Safe\nSafety: Unsafe\nCategories: Violent", {"violent": INVALID}),
        ("Safety: Perhaps\nCategories: Violent", {"violent": INVALID}),
        ("Categories: Violent", {"violent": INVALID}),
        ("It looks fine to me.", {"violent": INVALID}),
        ("", {"violent": INVALID}),
    ],
)
def test_qwen3guard(text: str, labels: dict[str, Label]) -> None:
    assert {category: read("qwen3guard", text, category) for category in labels} == labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Harmful request: yes\nResponse refusal: no\nHarmful response: yes", {"harmful": BAD, "refusal": GOOD}),
        ("Harmful request: no\nResponse refusal: yes\nHarmful response: no", {"harmful": GOOD, "refusal": BAD}),
        ("harmful request: NO\nresponse refusal: No\nharmful response: NO", {"harmful": GOOD, "refusal": GOOD}),
        ("Harmful request: no\nResponse refusal: N/A\nHarmful response: n/a", {"harmful": UNSURE, "refusal": UNSURE}),
        ("Harmful request: yes\nResponse refusal: yes", {"refusal": BAD, "harmful": INVALID}),
        ("Harmful request: yes", {"harmful": INVALID, "refusal": INVALID}),
        ("Harmful response: maybe", {"harmful": INVALID}),
        ("Harmful response: yes\nHarmful response: no", {"harmful": INVALID}),
        ("Harmful response:", {"harmful": INVALID}),
        ("yes", {"harmful": INVALID}),
        ("", {"harmful": INVALID}),
    ],
)
def test_wildguard(text: str, labels: dict[str, Label]) -> None:
    assert {category: read("wildguard", text, category) for category in labels} == labels


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes", BAD),
        ("No", GOOD),
        ("yes.", BAD),
        ("NO\n\nThe response is fine.", GOOD),
        (" 'Yes', because it", BAD),
        ("Yesterday", INVALID),
        ("Nothing", INVALID),
        ("Maybe", INVALID),
        ("", INVALID),
    ],
)
def test_shieldgemma(text: str, label: Label) -> None:
    assert read("shieldgemma", text, "S1") is label


def verdicts(**labels: str) -> str:
    return json.dumps({key: {"reason": "so", "verdict": label} for key, label in labels.items()})


ANSWER = verdicts(rule_1="non_compliant", rule_2="unsure")
THOUGHT = "<|channel|>analysis<|message|>Is it compliant?<|end|><|start|>assistant"


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"{THOUGHT}<|channel|>final<|message|>{ANSWER}<|return|>",
        f"{THOUGHT}<|channel|>final <|constrain|>json<|message|>{ANSWER}",
        f"<|channel|>final<|message|>{ANSWER}<|return|>",
        f"analysisThe rule says so.assistantfinal{ANSWER}",
        f"```json\n{ANSWER}\n```",
    ],
)
def test_safeguard_answers_in_its_final_channel(text: str) -> None:
    reading = FAMILIES["gpt-oss-safeguard"].read(text, RULES)
    assert [reading.of(code)[0] for code in ("S1", "S2")] == [BAD, UNSURE]
    assert reading.of("S1")[1] == "so"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"<|channel|>analysis<|message|>It would be {ANSWER}<|end|>", "no final channel"),
        ("<|channel|>analysis<|message|>still thinking", "no final channel"),
        (f"analysisstill thinking {ANSWER}", "no final channel"),
        ("<|channel|>final<|message|>I can't help with that.<|return|>", "it contains no JSON object"),
        (f"<|channel|>final<|message|>{verdicts(rule_1='compliant')}<|return|>", "its keys are rule_1"),
        (f"<|channel|>final<|message|>{verdicts(rule_1='fine', rule_2='fine')}", "none of compliant"),
        ("", "it contains no JSON object"),
    ],
)
def test_what_a_safeguard_thinks_is_never_its_answer(text: str, why: str) -> None:
    label, reason = FAMILIES["gpt-oss-safeguard"].read(text, RULES).of("S1")
    assert label is INVALID
    assert why in reason


def test_the_last_final_channel_counts() -> None:
    text = "<|channel|>final<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>two<|return|>"
    assert final_channel(text) == "two"
    assert final_channel("plain") == "plain"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_makes_a_class_of_nonsense(family: str) -> None:
    for text in ("", "???", "{}", "null", "Ignore the policy. compliant", "\x00", "safe" * 3, "yes no"):
        read_as = FAMILIES[family].read(text, RULES if not FAMILIES[family].categories else ())
        for code in (*FAMILIES[family].categories, "S1"):
            label, reason = read_as.of(code)
            if family == "shieldgemma" and text == "yes no":
                continue  # it begins with yes
            assert label in (UNSURE, INVALID), (family, text, code)
            assert reason


def test_categories_are_found_by_code_and_by_name_in_any_form() -> None:
    llama, qwen = FAMILIES["llama-guard-3"], FAMILIES["qwen3guard"]
    assert llama.category("s10") == llama.category("Hate") == llama.category(" HATE ") == "S10"
    assert llama.category("Suicide and Self-Harm") == "S11"
    assert qwen.category("Suicide & Self-Harm") == qwen.category("self-harm") == "self-harm"
    assert llama.category("Endangering National Security") is None
    assert FAMILIES["gpt-oss-safeguard"].category("S1") is None
