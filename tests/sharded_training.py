"""Loads, trains, stops, resumes and saves a sharded model in several processes; see unit/model/test_sharded.py.

One interpreter imports everything, then forks: `python sharded_training.py DIRECTORY` lets two processes train each
case from the models that lie there, and three go on from what they have stored.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from tiny import tiny_tokenizer
from tiny_training import mixture, steps, trainer, weights_of
from torch.distributed.tensor import DTensor

from realigner import ranks
from realigner.model.chat import Encoder
from realigner.model.export import save_model
from realigner.model.generate import generate
from realigner.model.load import context_of, load_model
from realigner.model.sharded import is_sharded, let_go
from realigner.recipe import GenerateSettings, LoraSettings, ModelSettings, TextSettings

CASES = {"full": None, "adapter": LoraSettings(rank=2), "chained": LoraSettings(rank=2)}
"""Directories of the models, and what is trained on them: `adapter` is one over a base, with an adapter of its own;
`chained` is the same, held to the model `full` instead of to itself."""


def settings_of(models: Path, case: str, *, shard: bool = True) -> ModelSettings:
    return ModelSettings(path=str(models / case), dtype="float64", device="cpu", lora=CASES[case], shard=shard)


def train(models: Path, out: Path, case: str, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train 6 steps of 12 pairs in 2 epochs, or go on from a checkpoint of step 4; save the model, return the log."""
    pairs, settings = mixture(36), settings_of(models, case)
    model = load_model(settings, trainable=True, seed=11)
    own = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    done = trainer(
        out / "checkpoints",
        pairs,
        model=model,
        weights=weights_of(pairs),
        eval_dataset=mixture(5),
        ref_model=None if case == "adapter" else load_model(settings_of(models, "full")),
        loss={"alpha_kl": 0.5, "kl_budget": 0.005, "confirm": 0.3},
        per_device_train_batch_size=12 // ranks.world() // 2,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=2,
        max_grad_norm=1.0,
        activation_checkpointing=True,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=2,
    )
    done.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    let_go(done.model)
    encoder = Encoder(tiny_tokenizer("qwen2"), TextSettings(), context_of(model.config))
    short = GenerateSettings(temperature=0, max_new_tokens=6, batch_size=2)
    prompts = [item.pair.prompt for item in pairs[:3]]
    answers = generate(done.model, encoder, prompts, short, seed=0, shared=True)
    found = {
        "answers": [answer.text for answer in answers],
        "steps": [line[name] for line in steps(done) for name in ("loss", "grad_norm", "kl", "INVERT/margin")],
        "evaluation": done.evaluate(),
        "sharded": is_sharded(model),
        "own": own,
        "all": sum(p.numel() for p in model.parameters()),
    }
    if ranks.rank() == 0:
        (out / "model").mkdir(parents=True)
        torch.save(found, out / "found.pt")
    else:
        (out / f"other-{ranks.rank()}").mkdir(parents=True)
    path = out / ("model" if ranks.rank() == 0 else f"other-{ranks.rank()}")
    save_model(done.model, tiny_tokenizer("qwen2"), settings, path)
    done.save_model(str(out / "by-trainer"))
    return found


def process(rank: int, count: int, directory: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    meet = f"file://{directory}/meet-{count}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
    with ranks.together():
        for case in CASES:
            if count == 2:
                train(directory, directory / f"{case}-2", case)
            stored = directory / f"{case}-2" / "checkpoints" / "checkpoint-4"
            train(directory, directory / f"{case}-resumed-{count}", case, stored)
    ranks.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in (2, 3):
        mp.start_processes(process, (number, Path(sys.argv[1])), nprocs=number, start_method="fork")
