"""One cell of the study: a shift, a seed, an arm and its settings in; everything measured out, as plain data."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from realigner.baselines import ARMS, Budget, JudgedPair, Task
from realigner.lab.aligned import BASE, MODEL, LabSettings, behaviour_of, build_lab, encoder_for
from realigner.lab.exam import Exam, exam_of, take
from realigner.lab.parse import answer_to
from realigner.lab.shifts import PRESETS, Changes, complies, draw_shift_pairs, shift_named, variants
from realigner.lab.world import LabPair, write_answer
from realigner.recipe import GoldSettings, ImpactSettings, LossSettings
from realigner.recipe_parts import PositiveFloat, PositiveInt
from realigner.records import Pair, text_hash, user_prompt
from realigner.triaging.outcomes import Over

Correlation = Literal["independent", "correlated"]
Share = Annotated[float, Field(ge=0, le=1)]


LOSS = LossSettings(confirm=0.1, imitate=0.1, alpha_kl=10.0)
IMPACT = ImpactSettings(weighting="uniform", gold=GoldSettings(kind="corrected"))
OVER: Over = "both"
"""What the arm `trace` is, where a cell does not say otherwise: chosen on the tuning shifts, see docs/findings.md."""


@dataclass(frozen=True)
class Setting:
    """What a cell is besides shift, seed and arm. The defaults are those of the main table."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    pairs: PositiveInt = 2000
    epochs: PositiveFloat = 1.0
    batch: Annotated[int, Field(ge=2)] = 32
    mix: str | None = None
    """A preset of `PRESETS`; None: the shift's own."""
    noise: Share = 0.0
    """Share of the verdicts that are flipped."""
    correlation: Correlation = "independent"
    """`correlated`: the judge errs alike on all prompts of one subject and context."""
    corrected: Share = 1.0
    """Share of the PUNISH pairs whose correction TRACE may use."""
    loss: dict[str, Any] = field(default_factory=dict)
    impact: dict[str, Any] = field(default_factory=dict)
    prompts: PositiveInt = 320
    attacks: PositiveInt = 48

    @property
    def whole_loss(self) -> LossSettings:
        """`loss` over what it does not name."""
        return LossSettings.model_validate({**LOSS.model_dump(), **self.loss})

    @property
    def whole_impact(self) -> ImpactSettings:
        """`impact` over what it does not name."""
        gold = {**IMPACT.gold.model_dump(), **self.impact.get("gold", {})}
        return ImpactSettings.model_validate({**IMPACT.model_dump(), **self.impact, "gold": gold})


@lru_cache(4)
def load_models(root: str, settings: LabSettings) -> dict[str, Any]:
    """Return tokenizer, base and M_ref of a lab, building them if they are not there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = build_lab(root, settings)
    found: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(place / MODEL)}
    for name in (BASE, MODEL):
        found[name] = AutoModelForCausalLM.from_pretrained(place / name).eval()
    return found


def judged(pairs: Sequence[LabPair], changes: Changes, setting: Setting, seed: int) -> list[JudgedPair]:
    """Return pairs with the verdicts of an oracle that errs at the VERDICT, and a compliant answer for each.

    The compliant answers are truly so; the erring oracle accepts or rejects each of them like any other answer.

    Args:
        pairs: the old preferences.
        changes: the policy of the verdicts: the old one under these.
        setting: says how often and how the oracle errs.
        seed: of the errors.
    """
    found = []
    for pair in pairs:
        wrong = {name: _errs(pair, name, setting, seed) for name in ("chosen", "rejected", "correction")}
        found.append(
            JudgedPair(
                Pair(pair.id, user_prompt(pair.prompt), pair.chosen, pair.rejected, "lab"),
                complies(pair.ask, pair.chosen_answer, changes) != wrong["chosen"],
                complies(pair.ask, pair.rejected_answer, changes) != wrong["rejected"],
                _compliant_answer(pair, changes),
                correction_accepted=not wrong["correction"],
            )
        )
    return found


def _errs(pair: LabPair, name: str, setting: Setting, seed: int) -> bool:
    """Return whether the oracle errs on a response; by a hash, so that more noise errs wherever less does."""
    if setting.correlation == "correlated":
        key = text_hash("noise", str(seed), pair.ask.subject, pair.ask.context)
    else:
        key = text_hash("noise", str(seed), pair.id, name)
    return int(key[:12], 16) / 16**12 < setting.noise


def _compliant_answer(pair: LabPair, changes: Changes) -> str:
    if pair.correction is not None:
        own = answer_to(pair.ask, pair.correction)
        if own is not None and complies(pair.ask, own, changes):
            return pair.correction
    rng = Random(pair.id)
    return write_answer(
        pair.ask, rng.choice([a for a in variants(pair.ask.topic) if complies(pair.ask, a, changes)]), rng
    )


@lru_cache(2)
def _pairs(shift: str, count: int, seed: int, mix: str | None) -> list[LabPair]:
    return draw_shift_pairs(shift_named(shift), count, seed, PRESETS[mix] if mix else None)


def make_task(
    models: dict[str, Any],
    shift: str,
    seed: int,
    setting: Setting,
    learning_rate: float,
    context: int,
    changes: Changes | None = None,
) -> Task:
    """Return what the arms are given.

    Args:
        models: tokenizer, base and M_ref.
        shift: where the pairs are from.
        seed: of data and training.
        setting: what else the cell is.
        learning_rate: peak rate of AdamW.
        context: of the model, in tokens.
        changes: the policy that judges: the old one under these. Default: the shift's own.
    """
    changes = shift_named(shift).changes if changes is None else changes
    task = Task(
        load=lambda name: copy.deepcopy(models[name]).requires_grad_(True),
        encoder=encoder_for(models["tokenizer"], context),
        pairs=judged(_pairs(shift, setting.pairs, seed, setting.mix), changes, setting, seed),
        corrected=setting.corrected,
        loss=setting.whole_loss,
        impact=setting.whole_impact,
        budget=Budget(ceil(setting.pairs * setting.epochs / setting.batch), setting.batch, learning_rate, seed),
        over=OVER,
    )
    key = (shift, changes, seed, setting.pairs, setting.mix, setting.noise, setting.correlation)
    if key not in _SCORED or _SCORED[key][0] is not models[MODEL]:
        _SCORED.clear()  # cells of one data set follow each other: only the last is worth keeping
        _SCORED[key] = (models[MODEL], task.reference, task.responses)
    _, task.__dict__["reference"], task.__dict__["responses"] = _SCORED[key]
    return task


_SCORED: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}
"""The last data set under its M_ref: the model, the frozen copy of it, and the log-probabilities. Arms share them."""


def run_cell(
    root: str | Path, lab: LabSettings, shift: str, seed: int, arm: str, setting: Setting, learning_rate: float
) -> dict[str, Any]:
    """Train one arm and measure it.

    Args:
        root: where models are cached.
        lab: decides M_ref.
        shift: name of the shift.
        seed: of data, training and exam.
        arm: name of the arm.
        setting: what else the cell is.
        learning_rate: peak rate of AdamW; unused by arms without training.
    """
    import torch

    models = load_models(str(root), lab)
    start, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    task = make_task(models, shift, seed, setting, learning_rate, lab.size.context)
    model = ARMS[arm](task)
    trained, trained_cpu = time.perf_counter(), time.process_time()
    exam = exam_of(shift, seed, setting.prompts, setting.attacks)
    aligned = behaviour_of(build_lab(root, lab))
    system, encoder = None, task.encoder
    if arm == "policy-prompt":
        system = policy_in_words(exam)
        # Whole, though it is longer than what M_ref has ever seen: cut, no rule of the new policy would be left.
        encoder = encoder_for(models["tokenizer"], lab.size.context + len(models["tokenizer"](system).input_ids))
    measured = take(exam, model, models[MODEL], encoder, system)
    return {
        **measured,
        "m_ref": {"old_agreement": aligned.old_agreement, "well_formed": aligned.well_formed},
        "training": task.facts,
        "outcomes": dict(Counter(str(item.outcome) for item in task.triaged)),
        "corrections": sum(item.correction is not None for item in task.triaged),
        "steps": task.budget.steps,
        "seconds": {
            "train": round(trained - start, 2),
            "train_cpu": round(trained_cpu - cpu, 2),
            "measure": round(time.perf_counter() - trained, 2),
        },
    }


def policy_in_words(exam: Exam) -> str:
    """Return the new policy as a system message: the texts of its rules."""
    return " ".join(rule.text for rule in exam.policy.rules)
