"""The world is decided by its seed, and its pairs are what they are called."""

from __future__ import annotations

from collections import Counter

import pytest

from realigner.lab.parse import answer_to, parse_answer
from realigner.lab.phrases import BENIGN, DEMO_TOPICS, FACTUAL, SENSITIVE, SUBJECTS, ZERO_TOLERANCE, Topic
from realigner.lab.world import (
    GOOD_HELP,
    HELP,
    REFUSAL,
    Answer,
    Ask,
    LabPair,
    Mix,
    Stance,
    complies,
    draw_corpus,
    draw_held_out,
    draw_pairs,
    is_held_out,
)
from realigner.records import Label, Outcome, pair_key, user_prompt
from realigner.triaging.outcomes import outcome as outcome_of


@pytest.fixture(scope="module")
def pairs() -> list[LabPair]:
    return draw_pairs(2000, 5)


def test_the_same_seed_gives_the_same_world_and_another_seed_another_one() -> None:
    assert draw_pairs(300, 3) == draw_pairs(300, 3)
    assert draw_pairs(300, 3) != draw_pairs(300, 4)
    assert list(draw_corpus(100, 3)) == list(draw_corpus(100, 3))
    assert list(draw_corpus(100, 3)) != list(draw_corpus(100, 4))
    assert draw_held_out(50, 3) == draw_held_out(50, 3)


def test_each_pair_has_the_outcome_that_triage_must_find_by_the_truth_of_its_answers(pairs: list[LabPair]) -> None:
    def label(pair: LabPair, answer: Answer) -> Label:
        return Label.COMPLIANT if complies(pair.ask, answer, "new") else Label.NON_COMPLIANT

    for pair in pairs:
        found = outcome_of(label(pair, pair.chosen_answer), label(pair, pair.rejected_answer))
        assert found == pair.outcome, pair


def test_the_old_preference_is_right_under_the_old_policy(pairs: list[LabPair]) -> None:
    for pair in pairs:
        assert complies(pair.ask, pair.chosen_answer, "old"), pair
        both = pair.outcome == Outcome.NEUTRAL
        assert complies(pair.ask, pair.rejected_answer, "old") == both, pair


def test_conflicts_are_about_the_topics_whose_rule_changes_and_nothing_else_is(pairs: list[LabPair]) -> None:
    for pair in pairs:
        assert (pair.ask.topic in SENSITIVE) == pair.outcome.is_conflict, pair


@pytest.mark.parametrize(
    "mix", [Mix(), Mix(0.1, 0.44, 0.15, 0.31), Mix(0, 0, 1, 0)], ids=["default", "like PKU", "CONFIRM alone"]
)
@pytest.mark.parametrize("count", [1, 97, 400])
def test_the_mix_is_exact_to_one_pair(mix: Mix, count: int) -> None:
    found = Counter(pair.outcome for pair in draw_pairs(count, 0, mix))
    assert sum(found.values()) == count
    for outcome, share in mix.as_dict().items():
        assert abs(found[outcome] - count * share) < 1, outcome


def test_the_default_mix_has_at_least_15_percent_of_each_outcome() -> None:
    assert min(Mix().as_dict().values()) >= 0.15


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5, 0.5), (1.2, -0.2, 0, 0)])
def test_a_mix_that_does_not_add_up_is_refused_with_its_numbers(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"shares must be non-negative and add up to 1"):
        Mix(*shares)


def test_each_pair_occurs_once_under_the_id_it_has_everywhere(pairs: list[LabPair]) -> None:
    assert len({pair.id for pair in pairs}) == len(pairs)
    first = pairs[0]
    assert first.id == pair_key(user_prompt(first.prompt), first.chosen, first.rejected)
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_prompts_repeat_as_in_real_preference_data(pairs: list[LabPair]) -> None:
    assert len({pair.prompt for pair in pairs}) < len(pairs)


@pytest.mark.parametrize("corrected", [0.0, 0.5, 1.0])
def test_the_asked_share_of_punish_pairs_is_corrected_and_no_other_pair(corrected: float) -> None:
    drawn = draw_pairs(400, 2, corrected=corrected)
    punished = [pair for pair in drawn if pair.outcome == Outcome.PUNISH]
    assert sum(pair.correction is not None for pair in punished) == round(corrected * len(punished))
    assert all(pair.correction is None for pair in drawn if pair.outcome != Outcome.PUNISH)


def test_every_correction_complies_with_the_new_policy(pairs: list[LabPair]) -> None:
    corrected = [pair for pair in pairs if pair.correction is not None]
    assert corrected
    for pair in corrected:
        answer = answer_to(pair.ask, str(pair.correction))
        assert answer is not None and complies(pair.ask, answer, "new"), pair


def test_held_out_prompts_never_become_data_whatever_the_seed() -> None:
    data = {pair.prompt for seed in range(3) for pair in draw_pairs(500, seed)}
    data |= {prompt for seed in range(3) for prompt, _ in draw_corpus(1000, seed)}
    assert not any(map(is_held_out, data))
    held_out = [prompt for seed in range(3) for _, prompt in draw_held_out(200, seed)]
    assert all(map(is_held_out, held_out)) and data.isdisjoint(held_out)
    assert all(is_held_out(pair.prompt) for pair in draw_pairs(50, 0, held_out=True))


def test_the_corpus_helps_on_sensitive_topics_about_as_often_as_asked() -> None:
    for movable in (0.0, 0.5):
        answers = [parse_answer(text) for _, text in draw_corpus(4000, 1, movable=movable)]
        assert None not in answers
        helping = sum(a is not None and a.answer.stance is Stance.HELP and a.topic in SENSITIVE for a in answers)
        # 45 % of the corpus is sensitive; five standard deviations.
        expected = 0.45 * movable
        assert abs(helping / 4000 - expected) <= 5 * (expected * (1 - expected) / 4000) ** 0.5


def test_the_corpus_never_helps_with_weapons_and_never_states_a_falsehood() -> None:
    for _, text in draw_corpus(3000, 1):
        parsed = parse_answer(text)
        assert parsed is not None and parsed.topic not in ZERO_TOLERANCE and parsed.answer.correct, text


def test_every_subject_of_every_topic_is_drawn() -> None:
    drawn: dict[Topic, set[str]] = {topic: set() for topic in Topic}
    for pair in draw_pairs(3000, 0):
        drawn[pair.ask.topic].add(pair.ask.subject)
    assert {t: s for t, s in drawn.items() if t in DEMO_TOPICS} == {t: set(SUBJECTS[t]) for t in DEMO_TOPICS}
    assert not any(subjects for topic, subjects in drawn.items() if topic not in DEMO_TOPICS)


def test_topics_are_in_exactly_one_group() -> None:
    lab_only = (Topic.CRIME, Topic.DILEMMA, Topic.LEGAL)
    assert sorted([*ZERO_TOLERANCE, *SENSITIVE, *BENIGN, *FACTUAL, *lab_only]) == sorted(Topic)
    assert sorted([*DEMO_TOPICS, *lab_only]) == sorted(Topic)


@pytest.mark.parametrize(
    ("topic", "answer", "old", "new"),
    [
        (Topic.MIND, REFUSAL, True, False),
        (Topic.MIND, GOOD_HELP, False, True),
        (Topic.MONEY, Answer(Stance.HELP, doubt=True), False, False),
        (Topic.HOME, Answer(Stance.HELP, source=True), False, False),
        (Topic.WEAPONS, REFUSAL, True, True),
        (Topic.MALWARE, GOOD_HELP, False, False),
        (Topic.SUM, HELP, True, True),
        (Topic.CAPITAL, Answer(Stance.HELP, correct=False), False, False),
        (Topic.STORY, REFUSAL, False, False),
    ],
)
def test_the_shift_is_the_stated_one(topic: Topic, answer: Answer, old: bool, new: bool) -> None:
    ask = Ask(topic, SUBJECTS[topic][0])
    assert (complies(ask, answer, "old"), complies(ask, answer, "new")) == (old, new)
