"""True marginal gains are what they are called; successive shifts keep or move their reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realigner.impact.score import encode_gold
from realigner.impact.vectors import dot, gradients
from realigner.lab import experiment, marginal, sequence
from realigner.lab.aligned import LabSettings
from realigner.lab.experiment import Setting, load_models, make_task
from realigner.lab.parse import answer_to
from realigner.lab.shifts import SHIFTS, complies, draw_shift_pairs
from realigner.lab.small_model import Size
from realigner.model.encoded import encode_triaged
from realigner.model.head import evaluating

LAB = LabSettings(
    size=Size(hidden=32, intermediate=48, layers=1, heads=2, context=192),
    corpus=300,
    steps=6,
    preferences=40,
    preference_steps=2,
    held_out=8,
)
SETTING = Setting(
    pairs=120, batch=16, prompts=12, attacks=3, impact={"gold": {"size": 6}, "fisher_rows": 4, "cg_steps": 2}
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("lab"))


def test_a_small_steps_true_gain_is_its_gradient_along_the_gold_gradient(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marginal, "STEP", 1e-3)
    task = make_task(load_models(cache, LAB), "value", 0, SETTING, 0.0, 192)
    model = task.load("model").double()
    task.__dict__["reference"] = task.load("model").double().eval()
    samples = list(encode_triaged((t for t in task.triaged if t.outcome.is_conflict), task.encoder))[:12]
    gold = encode_gold(marginal._gold(task, task.triaged, "corrected", 6, 1).pairs, task.encoder)
    gains = marginal.true_gains(model, samples, gold, task)
    target = marginal.target_gradient(model, gold, beta=task.loss.beta)
    expected = []
    for example in samples:
        with evaluating(model):
            expected.append(dot(target, gradients(marginal._own_loss(model, example, task), model)))
    ratio = gains / np.array(expected)
    assert ratio.min() > 0 and ratio.max() / ratio.min() < 1.1


def test_measuring_gains_leaves_the_model_as_it_was(cache: str) -> None:
    task = make_task(load_models(cache, LAB), "value", 0, SETTING, 0.0, 192)
    model = task.load("model")
    before = [p.clone() for p in model.parameters()]
    samples = list(encode_triaged((t for t in task.triaged if t.outcome.is_conflict), task.encoder))[:3]
    marginal.true_gains(
        model, samples, encode_gold(marginal._gold(task, task.triaged, "corrected", 6, 1).pairs, task.encoder), task
    )
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_every_variant_of_the_scores_is_correlated_with_the_same_gains(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marginal, "SAMPLES", 12)
    monkeypatch.setattr(marginal, "TRUE_GOLD", 6)
    parts: dict[str, set[str]] = {"truth": set(), "scores": set(), "samples": set()}
    gains, draw = marginal.true_gains, marginal.draw_gold

    def watched_gains(model: Any, samples: Any, gold: Any, task: Any) -> Any:
        parts["samples"] |= {example["id"] for example in samples}
        return gains(model, samples, gold, task)

    def watched_draw(triaged: Any, settings: Any, seed: int) -> Any:
        gold = draw(triaged, settings, seed)
        parts["truth" if seed == 1 else "scores"] |= gold.held_out
        return gold

    monkeypatch.setattr(marginal, "true_gains", watched_gains)
    monkeypatch.setattr(marginal, "draw_gold", watched_draw)
    found = marginal.run_marginal(cache, LAB, "value", 0, SETTING)
    assert all(parts.values()) and not any(a & b for a, b in combinations(parts.values(), 2))
    assert set(found["spearman"]) == set(marginal.VARIANTS) and found["samples"] == 12
    assert all(-1 <= v <= 1 or np.isnan(v) for parts in found["spearman"].values() for v in parts.values())


def test_a_moving_reference_is_the_model_of_the_stage_before_and_a_fixed_one_is_not(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"moving": [], "fixed": [], "anew": []}
    steps = {"moving": 0, "fixed": 0, "anew": 0}
    monkeypatch.setattr(experiment, "_SCORED", {})

    class Watched(sequence.Training):
        def __init__(self, model: Any, reference: Any, *rest: Any) -> None:
            same = all(torch.equal(p, q) for p, q in zip(model.parameters(), reference.parameters(), strict=True))
            seen[kind].append(same)
            super().__init__(model, reference, *rest)
            steps[kind] += self.budget.steps

    monkeypatch.setattr(sequence, "Training", Watched)
    for kind in ("moving", "fixed", "anew"):
        found = sequence.run_sequence(cache, LAB, 0, kind, replace(SETTING, pairs=32), 1e-3)
        assert [set(stage) - {"facts"} for stage in found["stages"]] == [
            set() if kind == "anew" else {"safety"},
            set() if kind == "anew" else {"safety", "style"},
            {"safety", "style", "value"},
        ]
    assert seen == {"moving": [True, True, True], "fixed": [True, False, False], "anew": [True]}
    assert len(set(steps.values())) == 1


def test_anew_trains_on_the_pairs_of_all_shifts_judged_by_the_last_policy(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Any] = []

    def kept(task: Any, start: Any) -> Any:
        tasks.append(task)
        return start.eval()

    monkeypatch.setattr(sequence, "_trained", kept)
    sequence.run_sequence(cache, LAB, 0, "anew", replace(SETTING, pairs=32), 1e-3)
    (task,) = tasks
    last = frozenset().union(*(SHIFTS[name].changes for name in sequence.ORDER))
    drawn = [pair for name in sequence.ORDER for pair in draw_shift_pairs(SHIFTS[name], 32, 0)]
    assert [pair.id for pair in drawn] == [item.pair.id for item in task.pairs]
    assert [complies(p.ask, p.chosen_answer, last) for p in drawn] == [item.chosen_complies for item in task.pairs]


def test_a_stage_is_judged_by_the_policy_as_it_has_grown(cache: str) -> None:
    grown = SHIFTS["safety"].changes | SHIFTS["style"].changes
    models = load_models(cache, LAB)
    setting = replace(SETTING, pairs=400)
    alone, whole = (make_task(models, "style", 0, setting, 0.0, 192, changes) for changes in (None, grown))
    drawn = draw_shift_pairs(SHIFTS["style"], 400, 0)
    moved = 0
    for pair, before, after in zip(drawn, alone.pairs, whole.pairs, strict=True):
        assert before.triaged(corrected=False).outcome is pair.outcome
        assert after.chosen_complies == complies(pair.ask, pair.chosen_answer, grown)
        assert after.rejected_complies == complies(pair.ask, pair.rejected_answer, grown)
        written = answer_to(pair.ask, str(after.correction))
        assert written is not None and complies(pair.ask, written, grown)
        moved += pair.outcome.is_retained and not after.chosen_complies
    assert moved > 20  # refusals that the stage before took away


def test_models_are_built_once_and_found_again(cache: str) -> None:
    load_models.cache_clear()
    first = sorted(path.name for path in Path(cache).iterdir())
    load_models(cache, LAB)
    assert sorted(path.name for path in Path(cache).iterdir()) == first == [Path(cache, first[0]).name]
