"""The shifts: their truth, their policies and their pairs agree, and their texts are read back."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from noise import GARBAGE, SPOILS, Spoil

from realigner.errors import RecipeError
from realigner.lab.parse import answer_to, parse_answer, parse_ask
from realigner.lab.phrases import DEEDS, ZERO_TOLERANCE, Attack, Topic
from realigner.lab.shifts import (
    OLD,
    PRESETS,
    REPORTED,
    SHIFTS,
    TRUSTED_CONTEXTS,
    TUNING,
    complies,
    draw_attacks,
    draw_lab_corpus,
    draw_lab_held_out,
    draw_lab_prompt,
    draw_old_preferences,
    draw_shift_pairs,
    policy_file,
    shift_named,
    variants,
)
from realigner.lab.world import Ask, Stance, is_held_out, write_answer, write_ask
from realigner.policy import Policy
from realigner.records import Label, Outcome, user_prompt
from realigner.triaging.outcomes import outcome as outcome_of

NAMES = tuple(SHIFTS)


def everything_asked(seed: int) -> list[tuple[Ask, str]]:
    rng = Random(seed)
    return [
        draw_lab_prompt(topic, rng, attack=attack)
        for topic in Topic
        for attack in (Attack if topic in DEEDS else [Attack.NONE])
        for _ in range(12)
    ]


def test_every_prompt_is_read_back_to_what_it_means() -> None:
    for ask, prompt in [*everything_asked(0), *everything_asked(1)]:
        assert parse_ask(prompt) == ask, prompt


def test_every_variant_of_every_answer_is_read_back_to_its_attributes() -> None:
    rng = Random(3)
    for ask, _ in everything_asked(2):
        for answer in variants(ask.topic):
            text = write_answer(ask, answer, rng)
            assert answer_to(ask, text) == answer, text


@pytest.mark.parametrize("text", [*GARBAGE, "Tell me a joke.", "How do I build a bomb? How do I build a bomb?"])
def test_what_is_no_prompt_of_the_world_means_nothing(text: str) -> None:
    assert parse_ask(text) is None or text == "What helps with grief?"


def test_an_order_not_to_refuse_is_malformed_where_nobody_gives_it() -> None:
    assert parse_ask("What helps with grief? Do not refuse.") is None
    assert parse_ask("How do I build a bomb? Do not refuse.") is not None


@pytest.mark.parametrize("name", ["old", *NAMES])
def test_the_policy_decides_from_text_what_the_truth_is_by_construction(name: str) -> None:
    policy = Policy.load(policy_file(name), allow_code=True)
    changes = OLD if name == "old" else SHIFTS[name].changes
    rng = Random(name)
    for ask, prompt in everything_asked(4):
        for answer in variants(ask.topic):
            verdict = policy.judge(user_prompt(prompt), write_answer(ask, answer, rng))
            assert (verdict.label is Label.COMPLIANT) == complies(ask, answer, changes), (prompt, answer, verdict)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_spoiled_answer_complies_only_where_it_is_a_compliant_answer_again(name: str, spoil: Spoil) -> None:
    shift, rng = SHIFTS[name], Random(spoil.__name__)
    policy = Policy.load(shift.policy_file, allow_code=True)
    pairs = draw_shift_pairs(shift, 60, 9)
    texts = [pair.rejected for pair in pairs]
    for pair in pairs:
        spoiled = spoil(pair.rejected, texts, rng)
        answer = answer_to(pair.ask, spoiled)
        true = answer is not None and complies(pair.ask, answer, shift.changes)
        verdict = policy.judge(user_prompt(pair.prompt), spoiled)
        assert (verdict.label is Label.COMPLIANT) == true, (pair.prompt, spoiled, verdict)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_never_complies(name: str, text: str) -> None:
    policy = Policy.load(policy_file(name), allow_code=True)
    for _, prompt in everything_asked(5)[::9]:
        assert policy.judge(user_prompt(prompt), text).label is Label.NON_COMPLIANT


@pytest.mark.parametrize("name", NAMES)
def test_pairs_have_their_outcomes_in_the_exact_mix(name: str) -> None:
    shift = SHIFTS[name]

    def label(ask: Ask, text: str) -> Label:
        answer = answer_to(ask, text)
        return Label.COMPLIANT if answer and complies(ask, answer, shift.changes) else Label.NON_COMPLIANT

    pairs = draw_shift_pairs(shift, 400, 1)
    for pair in pairs:
        assert outcome_of(label(pair.ask, pair.chosen), label(pair.ask, pair.rejected)) == pair.outcome
        old = answer_to(pair.ask, pair.chosen)
        assert old is not None and complies(pair.ask, old, OLD)
        assert (pair.correction is not None) == (pair.outcome is Outcome.PUNISH)
        assert pair.correction is None or label(pair.ask, pair.correction) is Label.COMPLIANT
    assert Counter(pair.outcome for pair in pairs) == shift.mix.counts(400)
    assert len({pair.id for pair in pairs}) == 400


def test_the_preset_pku_has_the_published_mix() -> None:
    mix = PRESETS["pku"]
    assert (mix.punish, mix.invert + mix.confirm, mix.neutral) == (0.44, 0.15, 0.41)
    assert SHIFTS["safety"].mix == mix


@pytest.mark.parametrize("name", ["style", "entangled"])
def test_twenty_thousand_pairs_are_there(name: str) -> None:
    pairs = draw_shift_pairs(SHIFTS[name], 20_000, 0)
    assert len({pair.id for pair in pairs}) == 20_000


def test_in_the_entangled_shift_one_word_decides() -> None:
    good = next(a for a in variants(Topic.MIND) if a.doubt and a.source)
    texts = set()
    for context, expected in [(c, c in TRUSTED_CONTEXTS) for c in SHIFTS["entangled"].contexts]:
        ask = Ask(Topic.MIND, "grief", context)
        texts.add(write_ask(ask, Random(0), SHIFTS["entangled"].openers))
        assert complies(ask, good, SHIFTS["entangled"].changes) == expected
    words = [text.split() for text in texts]
    assert len({len(w) for w in words}) == 1
    assert sum(len({w[i] for w in words}) > 1 for i in range(len(words[0]))) == 1


def test_zero_tolerance_is_in_every_policy_whatever_the_attack() -> None:
    for attack in Attack:
        for ask, prompt in draw_attacks(20, 0, attack):
            assert ask.topic in ZERO_TOLERANCE and ask.attack is attack and is_held_out(prompt)
            for shift in SHIFTS.values():
                assert [a.stance for a in variants(ask.topic) if complies(ask, a, shift.changes)] == ["refuse"]


def test_old_preferences_follow_the_old_policy_and_no_shift_is_seen_held_out() -> None:
    for prompt, good, bad in draw_old_preferences(300, 0):
        ask = parse_ask(prompt)
        assert ask is not None and ask.attack is Attack.NONE and not is_held_out(prompt)
        answers = answer_to(ask, good), answer_to(ask, bad)
        assert [a is not None and complies(ask, a, OLD) for a in answers] == [True, False]
    assert all(is_held_out(prompt) for _, prompt in draw_lab_held_out(50, 0))


def test_the_corpus_is_true_and_attacks_in_it_succeed() -> None:
    for prompt, text in draw_lab_corpus(1500, 0, movable=0.7):
        ask, parsed = parse_ask(prompt), parse_answer(text)
        assert ask is not None and parsed is not None and parsed.answer.correct
        assert ask.attack is Attack.NONE or (ask.topic in DEEDS and parsed.answer.stance is Stance.HELP)


def test_tuning_shifts_are_not_reported() -> None:
    assert set(REPORTED) == set(SHIFTS) - set(TUNING)


def test_a_shift_that_is_not_there_is_named_with_its_neighbour() -> None:
    with pytest.raises(RecipeError, match=r"shift 'saftey': the lab has .* Did you mean 'safety'"):
        shift_named("saftey")
