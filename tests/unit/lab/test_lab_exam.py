"""The exam: what is measured of answers is what the world's truth says of them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from realigner.lab import exam as exam_module
from realigner.lab.exam import Exam, exam_of, take
from realigner.lab.phrases import FACTUAL, ZERO_TOLERANCE, Attack
from realigner.lab.shifts import OLD, SHIFTS, complies, variants
from realigner.lab.world import Answer, Ask, Stance, is_held_out, write_answer

Say = Callable[[Ask], str]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exam, Say], dict[str, Any]]:
    """Let a function of the prompt's truth answer in a model's place; what needs a model is left out."""

    def measure(exam: Exam, say: Say) -> dict[str, Any]:
        asks = {prompt: ask for ask, prompt, _ in exam.asked} | {p: ask for ask, p in exam.fact_prompts}
        asks |= {prompt: ask for found in exam.attacked.values() for ask, prompt in found}
        monkeypatch.setattr(exam_module, "answers", lambda _m, _e, prompts, _s=None: [say(asks[p]) for p in prompts])
        for name, value in (("facts", 1.0), ("_kept", {}), ("mean_entropy", 0.0), ("encode_texts", [None])):
            monkeypatch.setattr(exam_module, name, lambda *_, value=value: value)
        return take(exam, None, None, None)

    return measure


def obedient(changes: frozenset[str]) -> Say:
    return lambda ask: write_answer(ask, next(a for a in variants(ask.topic) if complies(ask, a, changes)), Random(0))


@pytest.mark.parametrize("name", SHIFTS)
def test_who_obeys_the_new_policy_passes_and_who_obeys_the_old_one_fails_where_they_differ(
    measured: Callable[[Exam, Say], dict[str, Any]], name: str
) -> None:
    exam = Exam(SHIFTS[name], 0, prompts=60, attacks=8)
    new, old = measured(exam, obedient(SHIFTS[name].changes)), measured(exam, obedient(OLD))
    assert new["agreement"] == new["well_formed"] == new["facts_said"] == 1.0
    assert set(new["by_outcome"].values()) == {1.0} and set(new["by_rule"].values()) == {1.0}
    assert old["old_agreement"] == 1.0
    assert [old["by_outcome"][o] for o in ("INVERT", "PUNISH", "CONFIRM", "NEUTRAL")] == [0.0, 0.0, 1.0, 1.0]
    for found in (new, old):
        assert found["attack"] == {str(attack): {"success": 0.0, "violates": 0.0} for attack in Attack}
    assert new["over_refusal_new"] in (0.0, None) and new["over_refusal_benign"] in (0.0, None)


def test_harmful_help_is_a_success_of_the_attack_and_garbage_a_violation_only(
    measured: Callable[[Exam, Say], dict[str, Any]],
) -> None:
    exam = Exam(SHIFTS["safety"], 0, prompts=20, attacks=8)
    helpful = measured(exam, lambda ask: write_answer(ask, Answer(Stance.HELP), Random(0)))
    garbled = measured(exam, lambda ask: "the the the")
    for attack in Attack:
        assert helpful["attack"][attack] == {"success": 1.0, "violates": 1.0}
        assert garbled["attack"][attack] == {"success": 0.0, "violates": 1.0}
    assert garbled["agreement"] == garbled["well_formed"] == garbled["facts_said"] == 0.0
    assert set(garbled["ranks"]) == {0}


def test_wrong_facts_are_told_from_right_ones(measured: Callable[[Exam, Say], dict[str, Any]]) -> None:
    exam = Exam(SHIFTS["style"], 1, prompts=60, attacks=2)
    wrong = measured(exam, lambda ask: write_answer(ask, Answer(Stance.HELP, correct=False), Random(0)))
    assert wrong["facts_said"] == 0.0 and wrong["well_formed"] == 1.0
    refused = measured(exam, lambda ask: write_answer(ask, Answer(Stance.REFUSE), Random(0)))
    assert refused["facts_said"] == 0.0


def test_an_exam_asks_held_out_prompts_and_is_the_same_for_every_arm() -> None:
    exam, again = (Exam(SHIFTS["value"], 3, prompts=40, attacks=6) for _ in range(2))
    assert exam.asked == again.asked and exam.attacked == again.attacked and exam.fact_prompts == again.fact_prompts
    prompts = [p for _, p, _ in exam.asked] + [p for _, p in exam.fact_prompts]
    assert all(is_held_out(prompt) for prompt in prompts)
    assert {ask.topic for ask, _ in exam.fact_prompts} <= set(FACTUAL)
    assert {ask.topic for found in exam.attacked.values() for ask, _ in found} <= set(ZERO_TOLERANCE)
    assert exam_of("value", 3, 40, 6) is exam_of("value", 3, 40, 6)
