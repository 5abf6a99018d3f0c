"""Runs the same trainings in one process and in several; see invariants/test_training.py.

One interpreter imports everything, then forks: `python two_ranks.py DIRECTORY` writes what two processes found, and
what three made of the sharded checkpoint of two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from tiny_training import lora, mixture, steps, trained, trainer, weights_of
from torch.distributed.tensor import DTensor

CASES = ("full", "lora", "resumed")
SHARDED = (("resumed-full", 2), ("resumed-lora", 2), ("resumed-full", 3), ("resumed-lora", 3))
"""Cases with sharded weights, each with its number of processes; three of them go on from what two have stored."""
FSDP2 = Path(__file__).resolve().parents[1] / "examples" / "scaling" / "fsdp2.yaml"


def train(case: str, directory: Path, *, ranks: int, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train 6 steps of 12 pairs in 2 epochs and evaluate 5 pairs; return weights, the log and the evaluation.

    `resumed` goes on, with a new trainer, from the checkpoint of step 4, in the middle of the second epoch; or from
    one given, that another number of processes has made.
    """
    pairs = mixture(36)

    def run() -> Any:
        return trainer(
            directory / case,
            pairs,
            adapter=None if case.endswith("full") else lora(),
            dtype=torch.float64,
            weights=weights_of(pairs),
            eval_dataset=mixture(5),
            loss={"alpha_kl": 0.5, "kl_budget": 0.005, "confirm": 0.3},
            per_device_train_batch_size=12 // ranks // 2,
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=2,
            max_grad_norm=1.0,
            num_train_epochs=2,
            save_strategy="steps" if case.startswith("resumed") else "no",
            save_steps=2,
        )

    done = run()
    if checkpoint is None:
        done.train()
    if case.startswith("resumed"):
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


def process(rank: int, ranks: int, out: Path) -> None:
    """Do one process's part of all cases, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    meet = f"file://{out}/meet-{ranks}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
    if ranks == 2:
        for case in CASES:
            keep(train(case, out, ranks=2), out / f"{case}.pt")
    with fsdp2():
        for case in (case for case, processes in SHARDED if processes == ranks):
            made = None if ranks == 2 else out / "sharded" / case / "checkpoint-4"
            found = train(case, out / "sharded", ranks=ranks, checkpoint=made)
            keep(found, out / f"sharded-{case}-{ranks}.pt")
    torch.distributed.barrier()  # a rank that leaves early may break the connection of one that still writes
    torch.distributed.destroy_process_group()


def keep(found: dict[str, Any], file: Path) -> None:
    if torch.distributed.get_rank() == 0:
        torch.save(found, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for count in (2, 3):
        mp.start_processes(process, (count, Path(sys.argv[1])), nprocs=count, start_method="fork")
