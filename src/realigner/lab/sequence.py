"""Three shifts one after another: does the reference move along, or stay where it began?

The policy grows: `safety`, then `style` too, then `value` too. Each stage trains on the pairs of its own shift alone,
judged by the policy as it has grown: what an earlier stage allowed is not taught away by the old refusals in its pairs.
`moving` takes the model of the stage before as the reference; `fixed` starts each stage from that model but keeps the
first M_ref as the reference of log-ratios and KL.
"""

from __future__ import annotations

import copy
from typing import Any

from realigner.baselines.arms import trace_terms, trace_weights
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
        reference: `moving` or `fixed`.
        setting: of each stage.
        learning_rate: of each stage.
    """
    models = dict(load_models(cache, lab))
    stages: list[dict[str, Any]] = []
    changes: Changes = frozenset()
    for number, name in enumerate(ORDER):
        changes |= SHIFTS[name].changes
        start = models[MODEL] if number == 0 else stages[-1]["model"]
        if reference == "moving":
            models = {**models, MODEL: start}
        task = make_task(models, name, seed, setting, learning_rate, lab.size.context, changes)
        training = Training(copy.deepcopy(start).requires_grad_(True), task.reference, task.loss, task.budget)
        training.run(trace_terms(task, trace_weights(task)))
        model = training.model.eval()
        found: dict[str, Any] = {"model": model, "facts": facts(model, task.encoder)}
        for seen in ORDER[: number + 1]:
            asked = [(ask, prompt) for ask, prompt, _ in Exam(SHIFTS[seen], seed, setting.prompts).asked]
            texts = answers(model, task.encoder, [prompt for _, prompt in asked])
            found[seen] = agreement(asked, texts, changes)
        stages.append(found)
    last = stages[-1]
    return {
        "stages": [{k: v for k, v in stage.items() if k != "model"} for stage in stages],
        "agreement": sum(last[name] for name in ORDER) / len(ORDER),
    }
