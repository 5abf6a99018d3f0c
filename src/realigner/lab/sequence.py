"""Three shifts one after another: does the reference move along, or stay where it began?

The policy grows: `safety`, then `style` too, then `value` too. Each stage trains on the pairs of its own shift alone,
judged by the policy as it has grown: what an earlier stage allowed is not taught away by the old refusals in its pairs.
`moving` takes the model of the stage before as the reference; `fixed` starts each stage from that model but keeps the
first M_ref as the reference of log-ratios and KL. `anew` is no sequence: one training from M_ref, on the pairs of all
three shifts judged by the policy as it is in the end, with as many steps as the three stages have together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from realigner.baselines.arms import trace_terms, trace_weights
from realigner.baselines.task import Task
from realigner.baselines.training import Training
from realigner.lab.aligned import MODEL, LabSettings, agreement
from realigner.lab.exam import Exam, answers, facts
from realigner.lab.experiment import Setting, load_models, make_task
from realigner.lab.shifts import SHIFTS, Changes

ORDER = ("safety", "style", "value")


def run_sequence(
    cache: str, lab: LabSettings, seed: int, reference: str, setting: Setting, learning_rate: float
) -> dict[str, Any]:
    """Train TRACE on the shifts in order; return agreement with the grown policy after each, on all shifts so far.

    Args:
        cache: where models are kept.
        lab: decides the first M_ref.
        seed: of data, training and exam.
        reference: `moving`, `fixed` or `anew`.
        setting: of each stage.
        learning_rate: of each stage.
    """
    models = dict(load_models(cache, lab))
    if reference == "anew":
        stages = _anew(models, lab, seed, setting, learning_rate)
    else:
        stages = _chain(models, lab, seed, reference, setting, learning_rate)
    return {"stages": stages, "agreement": sum(stages[-1][name] for name in ORDER) / len(ORDER)}


def _chain(
    models: dict[str, Any], lab: LabSettings, seed: int, reference: str, setting: Setting, learning_rate: float
) -> list[dict[str, Any]]:
    model, stages = models[MODEL], []
    changes: Changes = frozenset()
    for number, name in enumerate(ORDER):
        changes |= SHIFTS[name].changes
        if reference == "moving":
            models = {**models, MODEL: model}
        task = make_task(models, name, seed, setting, learning_rate, lab.size.context, changes)
        model = _trained(task, copy.deepcopy(model).requires_grad_(True))
        stages.append(_found(model, task, ORDER[: number + 1], seed, setting, changes))
    return stages


def _anew(
    models: dict[str, Any], lab: LabSettings, seed: int, setting: Setting, learning_rate: float
) -> list[dict[str, Any]]:
    changes: Changes = frozenset().union(*(SHIFTS[name].changes for name in ORDER))
    tasks = [make_task(models, name, seed, setting, learning_rate, lab.size.context, changes) for name in ORDER]
    budget = replace(tasks[0].budget, steps=sum(task.budget.steps for task in tasks))
    whole = replace(tasks[0], pairs=[pair for task in tasks for pair in task.pairs], budget=budget)
    model = _trained(whole, whole.load(MODEL))
    return [{}, {}, _found(model, whole, ORDER, seed, setting, changes)]


def _trained(task: Task, start: Any) -> Any:
    """Train TRACE from `start`, held to the task's reference."""
    training = Training(start, task.reference, task.loss, task.budget)
    training.run(trace_terms(task, trace_weights(task)))
    return training.model.eval()


def _found(
    model: Any, task: Task, shifts: Sequence[str], seed: int, setting: Setting, changes: Changes
) -> dict[str, Any]:
    """Return facts by log-likelihood, and agreement with the policy on the prompts of each shift."""
    found: dict[str, Any] = {"facts": facts(model, task.encoder)}
    for name in shifts:
        asked = [(ask, prompt) for ask, prompt, _ in Exam(SHIFTS[name], seed, setting.prompts).asked]
        texts = answers(model, task.encoder, [prompt for _, prompt in asked])
        found[name] = agreement(asked, texts, changes)
    return found
