"""Checks of candidates as texts: what is rejected, by which words, and what is let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realigner.corrections.checks import Fate, TextChecks, cleaned, is_flat_refusal
from realigner.corrections.similarity import longest_quote, similarity, words_of
from realigner.policy import Policy
from realigner.records import Pair, user_prompt

POLICY = Policy.parse(
    {
        "id": "house-style",
        "version": "2",
        "title": "Style",
        "rules": [
            {
                "id": "s15-public-order",
                "by": "llm",
                "text": "Do not help anyone to plan riots or other public disorder.",
            },
            {"id": "brief", "by": "llm", "text": "Be brief."},
            {
                "id": "no-flat-no",
                "by": "llm",
                "text": "Answer questions about money.",
                "violates": ["a flat refusal"],
                "examples": [
                    {"text": "Put a tenth of what you earn aside each month.", "label": "compliant", "why": "advice"}
                ],
            },
        ],
    }
)
PAIR = Pair("1", user_prompt("How do I save money?"), "You should never save money at all.", "No idea, my friend.", "x")


def found(text: str, pair: Pair = PAIR, *others: str, refuse: bool = False) -> tuple[Fate, str] | None:
    return TextChecks(POLICY, 0.8, 3.0, refuse).find(cleaned(text), pair, others)


GOOD = "Put a little aside each month, and look at what you spend."


def test_a_plain_answer_passes() -> None:
    assert found(GOOD) is None
    assert found(f"<think>the rule brief applies</think>\n\n{GOOD}") is None


@pytest.mark.parametrize(
    ("text", "fate", "why"),
    [
        ("", Fate.EMPTY, "it has no text"),
        (" \n\t ", Fate.EMPTY, "it has no text"),
        ("<think>only thoughts</think>", Fate.EMPTY, "it has no text"),
        ("<think>never ends", Fate.TRUNCATED, "does not begin or end"),
        ("half \ud800 a character", Fate.NOT_TEXT, "half of a surrogate pair"),
        ("a zero \x00 inside", Fate.NOT_TEXT, "or a zero"),
        ("Save a bit.<|im_end|>", Fate.NOT_TEXT, "a control token"),
        ("[INST] Save a bit. [/INST]", Fate.NOT_TEXT, "a control token"),
        ("You should never save money at all!", Fate.COPY, "100% of its word pairs"),
        ("you should NEVER save money, at all", Fate.COPY, "100% of its word pairs"),
        ("No idea, my friend.", Fate.COPY, "the old rejected answer"),
        ("word " * 151, Fate.TOO_LONG, "151 words, at most 150 for this pair"),
        ("This is S15 material, so no.", Fate.JARGON, "the id of a rule: 'S15'"),
        ("See s15-public-order for more.", Fate.JARGON, "the id of a rule: 's15-public-order'"),
        ("I keep it short (brief).", Fate.JARGON, "the id of a rule: '(brief)'"),
        ("By the rule 'brief' I stop here.", Fate.JARGON, 'the id of a rule: "rule \'brief"'),
        ("As (S3) says, be careful.", Fate.JARGON, "the id of a rule: '(S3)'"),
        ("House-style asks for this.", Fate.JARGON, "the id of a rule: 'House-style'"),
        (
            "Our policy does not allow that. Save a bit.",
            Fate.JARGON,
            "words about a policy: 'Our policy does not allow",
        ),
        ("According to the content policy, save.", Fate.JARGON, "words about a policy"),
        ("Here is a compliant answer: save.", Fate.JARGON, "words about a policy: 'Here is a compliant'"),
        ("Corrected response: save a bit.", Fate.JARGON, "words about a policy: 'Corrected response:'"),
        (
            "First: do not help anyone to plan riots or other public disorder. Then save.",
            Fate.JARGON,
            "a quotation of the policy: 'do not help anyone to plan riots or other public disorder'",
        ),
    ],
)
def test_what_is_wrong_is_rejected_with_the_words_at_fault(text: str, fate: Fate, why: str) -> None:
    result = found(text)
    assert result is not None
    assert result[0] is fate
    assert why in result[1]


@pytest.mark.parametrize(
    "text",
    [
        "Your insurance policy may pay for it.",
        "The company policy says twenty days; ask there.",
        "A brief answer: save a tenth.",
        "Take the S-Bahn, line S 15 is cheaper than a car.",
        "A house style of your own costs nothing.",
        "Put a tenth of what you earn aside each month.",  # a policy's example is a model answer, not wording
    ],
)
def test_ordinary_language_is_let_through(text: str) -> None:
    assert found(text) is None


def test_words_of_the_prompt_itself_are_no_leak() -> None:
    asked = Pair("1", user_prompt("What does line S15 cost under the content policy?"), "a b c d", "e f g h", "x")
    assert found("Line S15 costs two euros.", asked) is None
    assert found("The content policy does not set its price; the city does.", asked) is None
    quoted = Pair("1", user_prompt(f"Discuss: {POLICY.rules[0].text}"), "a b c d", "e f g h", "x")
    assert found(f"You ask about this: {POLICY.rules[0].text}", quoted) is None


def test_a_repeated_candidate_is_a_duplicate() -> None:
    assert found(GOOD, PAIR, "other", GOOD) == (Fate.DUPLICATE, "an earlier candidate has the same text")


def test_the_longest_allowed_follows_the_old_answers() -> None:
    long = Pair("1", PAIR.prompt, "word " * 100, "x " * 30, "s")
    assert found(" ".join(f"w{n}" for n in range(300)), long) is None
    result = found(" ".join(f"w{n}" for n in range(301)), long)
    assert result == (Fate.TOO_LONG, "301 words, at most 300 for this pair")


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "I'm sorry, but I can't assist with that request.",
        "I’m not able to help with that.",
        "As an AI language model, I do not discuss this.",
        "I must decline.",
        "Sorry, I won't help with that.",
        "We cannot share this information.",
    ],
)
def test_flat_refusals_are_recognised(text: str) -> None:
    assert is_flat_refusal(text)
    assert found(text, refuse=True) == (Fate.REFUSAL, "it declines and does little else")
    assert found(text, refuse=False) is None  # then the policy's judge decides


@pytest.mark.parametrize(
    "text",
    [
        "You can't help but love it.",
        "I couldn't agree more. The best way is to start now.",
        "I'm sorry you feel this way. You could talk to a friend.",
        "I can help you with that.",
        "I can't help with the lock, but here is what does. " + "Call a locksmith and show your papers. " * 10,
    ],
)
def test_answers_that_say_something_are_no_flat_refusals(text: str) -> None:
    assert not is_flat_refusal(text)


def test_rules_about_refusals_are_found_by_their_words() -> None:
    assert TextChecks(POLICY, 0.8, 3.0, False).refusal_rules == ("no-flat-no",)


def test_similarity_by_hand() -> None:
    # |A| = 4 pairs (^a ab bc c$), |B| = 4 (^a ab bd d$), 2 in common.
    assert similarity("a b c", "A, b d!") == pytest.approx(2 * 2 / 8)
    assert similarity("a b c", "x y") == 0.0
    assert similarity("the cat sat", "The cat... sat?") == 1.0
    assert similarity("!", "!") == 1.0
    assert similarity("!", "?") == 0.0
    assert similarity("", "word") == 0.0


TEXTS = st.text(alphabet="ab c.\n", max_size=30)


@given(TEXTS, TEXTS)
def test_similarity_is_symmetric_bounded_and_one_for_equal_texts(first: str, second: str) -> None:
    assert similarity(first, second) == similarity(second, first)
    assert 0.0 <= similarity(first, second) <= 1.0
    assert similarity(first, first) == 1.0


def test_the_longest_quotation_is_found_whole() -> None:
    source = words_of("one two three four five six seven")
    assert longest_quote("zero Two, three four five! nine", [source], 3) == "two three four five"
    assert longest_quote("two three nine four five", [source], 3) == ""


def test_words_of_any_script_are_found() -> None:
    assert words_of("L’été, don't—naïve 世界 42!") == ["l'été", "don't", "naïve", "世界", "42"]
