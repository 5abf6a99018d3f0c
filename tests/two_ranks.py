"""Runs the same trainings in one process and, started by torchrun, in several; see invariants/test_training.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tiny_training import lora, mixture, steps, trained, trainer, weights_of

CASES = ("full", "lora", "resumed")


def train(case: str, directory: Path, *, ranks: int, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train 6 steps of 8 pairs in 2 epochs and evaluate 5 pairs; return weights, the log and the evaluation.

    `resumed` goes on, with a new trainer, from the checkpoint of step 4, in the middle of the second epoch; or from
    one given, that another number of processes has made.
    """
    pairs = mixture(24)

    def run() -> Any:
        return trainer(
            directory / case,
            pairs,
            adapter=None if case == "full" else lora(),
            dtype=torch.float64,
            weights=weights_of(pairs),
            eval_dataset=mixture(5),
            loss={"alpha_kl": 0.5, "kl_budget": 0.005, "confirm": 0.3},
            per_device_train_batch_size=8 // ranks // 2,
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=2,
            max_grad_norm=1.0,
            num_train_epochs=2,
            save_strategy="steps" if case == "resumed" else "no",
            save_steps=2,
        )

    done = run()
    if checkpoint is None:
        done.train()
    if case == "resumed":
        done = run()
        done.train(resume_from_checkpoint=str(checkpoint or directory / case / "checkpoint-4"))
    numbers = [line[name] for line in steps(done) for name in ("loss", "grad_norm", "kl", "INVERT/margin")]
    return {"weights": trained(done.model), "steps": numbers, "evaluation": done.evaluate()}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name in CASES:
        found = train(name, out, ranks=2)
        if torch.distributed.get_rank() == 0:
            torch.save(found, out / f"{name}.pt")
    torch.distributed.barrier()  # a rank that leaves early may break the connection of one that still writes
    torch.distributed.destroy_process_group()
