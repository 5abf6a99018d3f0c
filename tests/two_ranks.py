"""Runs the same trainings in one process and, started by torchrun, in several; see invariants/test_training.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from tiny_training import lora, mixture, steps, trained, trainer, weights_of
from torch.distributed.tensor import DTensor

CASES = ("full", "lora", "resumed")
SHARDED = ("full", "lora")
FSDP2 = Path(__file__).resolve().parents[1] / "examples" / "scaling" / "fsdp2.yaml"


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
    sharded = sum(isinstance(p, DTensor) for p in done.model.parameters())
    numbers = [line[name] for line in steps(done) for name in ("loss", "grad_norm", "kl", "INVERT/margin")]
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in trained(done.model).items()}
    return {"weights": weights, "steps": numbers, "evaluation": done.evaluate(), "sharded": sharded}


@contextmanager
def fsdp2() -> Iterator[None]:
    """Let accelerate shard models as examples/scaling/fsdp2.yaml says. On CPUs it declines to by itself (DDP)."""
    settings = yaml.safe_load(FSDP2.read_text(encoding="utf-8"))["fsdp_config"]
    os.environ |= {name.upper(): str(value) for name, value in settings.items()}  # as `accelerate launch` does
    plain = AcceleratorState.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        plain(self, *given, **named)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()

    AcceleratorState.__init__ = init
    try:
        yield
    finally:
        AcceleratorState.__init__ = plain


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name in CASES:
        found = train(name, out, ranks=2)
        if torch.distributed.get_rank() == 0:
            torch.save(found, out / f"{name}.pt")
    with fsdp2():
        for name in SHARDED:
            found = train(name, out / "sharded", ranks=2)
            if torch.distributed.get_rank() == 0:
                torch.save(found, out / f"sharded-{name}.pt")
    torch.distributed.barrier()  # a rank that leaves early may break the connection of one that still writes
    torch.distributed.destroy_process_group()
