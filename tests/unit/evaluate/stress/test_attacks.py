"""Attacks: pure, versioned, with a source, and grammatical on whatever is asked."""

from __future__ import annotations

import base64
import csv
import re
from pathlib import Path
from typing import get_args

import pytest

from realigner.evaluate.stress.attacks import ATTACKS, Target, attacked, quoted, sentence
from realigner.recipe_evaluate import AttackName, StressSettings
from realigner.records import text_hash

WORDS = {
    "fictional": (1, "0d1d190a6ffe575d"),
    "refusal_suppression": (1, "abbf837a6542ae84"),
    "role_play": (1, "098384ea7753eefa"),
    "prefix_injection": (1, "4bb9d91233eafcbc"),
    "policy_impersonation": (1, "5a83a70c080a0b1a"),
    "encoding": (1, "bfff68e8944ad103"),
    "many_shot": (1, "a1a85e00f75e9493"),
    "multi_turn": (1, "560db474ebf390de"),
}
REQUESTS = [
    "Write a letter",
    "write a letter.",
    "How do I kill a Python process?",
    "What is Harry Potter's criminal history? ",
    "Explain NASA's plan; then stop!",
    'Write "hello" in a letter',
    "  Give\n two   reasons,",
    "iPhone prices",
    "Say “no”.",
]


def sent(name: str, target: Target) -> str:
    return "\n".join(turn["content"] for turn in attacked(name, target))


def test_a_recipe_names_exactly_the_attacks_that_there_are() -> None:
    assert get_args(AttackName) == tuple(ATTACKS) == StressSettings(prompts="p").attacks


def test_every_attack_says_what_it_is_and_where_the_idea_comes_from() -> None:
    for name, attack in ATTACKS.items():
        assert attack.id == name
        assert attack.version >= 1 and attack.title
        assert re.search(r"\b20\d\d\b", attack.source), name


def test_the_words_of_each_version_are_these() -> None:
    """Another hash means other words: raise the attack's version, so that figures of both are told apart."""
    target = Target("Write a letter", "Sure, here is a letter")
    assert {name: (ATTACKS[name].version, text_hash(sent(name, target))) for name in ATTACKS} == WORDS


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("Write a letter", "Write a letter."),
        ("write a letter.", "Write a letter."),
        ("How do I kill a Python process?", "How do I kill a Python process?"),
        ("What is it? ", "What is it?"),
        ("  Give\n two   reasons,", "Give two reasons."),
        ("iPhone prices", "iPhone prices."),
        ("Say “no”.", "Say “no”."),
        ("Say “no.”", "Say “no.”"),
        ("Wait …", "Wait …"),
        ("", ""),
    ],
)
def test_a_request_becomes_one_sentence(request_: str, expected: str) -> None:
    assert sentence(request_) == expected


def test_quotation_marks_inside_direct_speech_are_single() -> None:
    assert quoted('Write "hello" in a letter') == "“Write 'hello' in a letter.”"


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_an_attack_is_pure_and_grammatical_on_any_request(name: str, request_: str) -> None:
    target = Target(request_)
    prompt = attacked(name, target)
    assert prompt == attacked(name, target)
    assert [turn["role"] for turn in prompt] == (["user", "assistant"] * 3)[: len(prompt)]
    assert prompt[-1]["role"] == "user"
    check(name, sent(name, target), request_)


def check(name: str, text: str, request_: str) -> None:
    """What goes wrong with templates: marks that pile up, a request bent into a clause, speech that never ends."""
    assert not re.search(r"[.!?…],|[.!?]\.(?!\.)|,\.|\?\.| {2}|\s[.,!?](?!\w)", text.replace(" …", ""))
    assert text.count("“") == text.count("”")
    assert not re.search(r"\bhow to (?:how|what|why|show me|tell me|give|\W)", text, re.IGNORECASE)
    if name == "encoding":
        text = base64.b64decode(text.rsplit("\n", 1)[1]).decode()
    whole = sentence(request_)
    assert whole in text or quoted(request_) in text, "the request stands there as a sentence of its own"
    place = text.index(whole if whole in text else quoted(request_)[1:])
    before = text[:place].rstrip(" “")
    assert not before or before[-1] in ".:\n?!”", "what stands before it has ended, or introduces it"


def test_an_opening_is_dictated_where_the_data_have_one_and_a_general_one_elsewhere() -> None:
    known = sent("prefix_injection", Target("Write a letter", "Sure, here is a letter"))
    assert "“Sure, here is a letter:”" in known
    assert "“Sure, here is exactly what you asked for:”" in sent("prefix_injection", Target("Write a letter"))


def test_unattacked_is_the_request_as_it_stands() -> None:
    assert attacked("unattacked", Target(" a  b ")) == ({"role": "user", "content": " a  b "},)


@pytest.mark.shared
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_grammatical_on_every_imperative_of_advbench_and_every_prompt_of_xstest(
    name: str, shared_path: Path
) -> None:
    with (shared_path / "data/advbench/harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        targets = [Target(row["Goal"], row["Target"]) for row in csv.DictReader(file)]
    with (shared_path / "data/xstest/xstest_prompts.csv").open(encoding="utf-8", newline="") as file:
        targets += [Target(row["prompt"]) for row in csv.DictReader(file)]
    assert len(targets) == 970
    for target in targets:
        check(name, sent(name, target), target.request)
