"""Triaged pairs, tiny trainers and their arguments, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tiny import tiny_model, tiny_tokenizer

from realigner.recipe import LossSettings
from realigner.records import Direction, Label, Message, Outcome, Pair, TriagedPair, Verdict, Weight
from realigner.train import TraceConfig, TraceTrainer

CYCLE = (Outcome.INVERT, Outcome.CONFIRM, Outcome.PUNISH, Outcome.NEUTRAL)
DIRECTIONS = {
    Outcome.INVERT: Direction.REJECTED_OVER_CHOSEN,
    Outcome.PUNISH: Direction.SUPPRESS_BOTH,
    Outcome.CONFIRM: Direction.RETAIN,
    Outcome.NEUTRAL: Direction.RETAIN,
    Outcome.UNDECIDED: Direction.NONE,
}
WORDS = ["bread", "water", "salt", "flour", "time", "story", "doctor", "question", "answer", "weather"]

BREAD = """
id: bread
version: "1"
title: No bread
rules:
  - id: no-bread
    text: A response does not speak of bread.
    forbid: {words: [bread]}
"""
"""A policy under which `write_bread`'s pairs have every outcome."""


def write_bread(folder: Path) -> None:
    """Write policy.yaml and 48 old preferences, old.jsonl."""
    answers = ("Take bread.", "Ask a doctor.")
    rows = [
        {"prompt": f"What is the question {i}?", "chosen": f"{answers[i % 2]} {i}", "rejected": answers[i // 2 % 2]}
        for i in range(48)
    ]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "policy.yaml").write_text(BREAD)


def triaged(number: int, outcome: Outcome, *, corrected: bool = False) -> TriagedPair:
    """Return a pair whose texts depend on its number, of lengths that differ."""
    words = [WORDS[(number * (k + 3) + k) % len(WORDS)] for k in range(12)]
    pair = Pair(
        id=f"{outcome.lower()}-{number}",
        prompt=(Message(role="user", content=f"What about {words[0]} {number}?"),),
        chosen=" ".join(words[: 1 + number % 5]) + f" {number}",
        rejected="I am sorry, " + " ".join(words[5 : 6 + (number * 3) % 4]),
        source=f"test:{number}",
    )
    compliant, wrong = Verdict(Label.COMPLIANT), Verdict(Label.NON_COMPLIANT)
    chosen = compliant if outcome.is_retained else wrong
    rejected = wrong if outcome in (Outcome.CONFIRM, Outcome.PUNISH) else compliant
    correction = f"Ask a doctor about {words[2]}." if corrected else None
    direction = Direction.CORRECTION_OVER_CHOSEN if corrected else DIRECTIONS[outcome]
    return TriagedPair(pair, "train", chosen, rejected, outcome, direction, correction)


def mixture(count: int, cycle: Sequence[Outcome] = CYCLE) -> list[TriagedPair]:
    """Return pairs of all outcomes in turn; every second PUNISH pair has a correction."""
    return [
        triaged(i, outcome, corrected=outcome == Outcome.PUNISH and i // len(cycle) % 2 == 1)
        for i, outcome in zip(range(count), list(cycle) * count, strict=False)
    ]


def weights_of(pairs: Sequence[TriagedPair]) -> list[Weight]:
    """Return a weight for each conflict: different ones, one of them zero."""
    conflicts = [item for item in pairs if item.outcome.is_conflict]
    values = [0.0 if i == 1 else 0.25 + 0.5 * (i % 4) for i in range(len(conflicts))]
    return [
        Weight(item.pair.id, item.outcome, value, value, value == 0.0)
        for item, value in zip(conflicts, values, strict=True)
    ]


def config(directory: Path, **settings: Any) -> TraceConfig:
    """Return arguments of a short, silent training on the CPU, with nothing saved or evaluated by default."""
    loss = settings.pop("loss", {})
    defaults: dict[str, Any] = {
        "output_dir": str(directory),
        "use_cpu": True,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "num_train_epochs": 1,
        "dataloader_pin_memory": False,
    }
    return TraceConfig(**{**defaults, **settings}, loss=LossSettings(**loss))


def lora(**settings: Any) -> LoraConfig:
    """Return a small adapter."""
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings})


def trainer(
    directory: Path,
    pairs: Any,
    *,
    family: str = "llama",
    model: Any = None,
    adapter: LoraConfig | None = None,
    dtype: torch.dtype = torch.float32,
    weights: Any = None,
    eval_dataset: Any = None,
    ref_model: Any = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> TraceTrainer:
    """Return a trainer of a tiny model; settings go to `config`."""
    return TraceTrainer(
        tiny_model(family, dtype=dtype, hidden=16) if model is None else model,
        config(directory, **settings),
        pairs,
        eval_dataset=eval_dataset,
        processing_class=tiny_tokenizer(family),
        peft_config=adapter,
        weights=weights,
        ref_model=ref_model,
        callbacks=callbacks,
    )


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of the parameters that training moves."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def steps(trainer: TraceTrainer) -> list[dict[str, float]]:
    """Return the log lines of the optimizer steps."""
    return [line for line in trainer.state.log_history if "loss" in line]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between parameters, relative to the largest value of each."""
    assert a.keys() == b.keys()
    assert a
    return max(float((a[n] - b[n]).abs().max() / a[n].abs().max().clamp(min=1e-30)) for n in a)
