"""Checkpoints of a sharded model: each process writes its part of what training moves, as safetensors.

`torch.distributed.checkpoint` puts the parts together for any number of processes. Only tensors are stored: its files
for anything else are read with pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realigner.errors import StaleKeyError
from realigner.model.sharded import let_go

SHARDS = "shards"
"""The folder of a checkpoint that the parts are in."""


def save_shards(model: Any, optimizer: Any, checkpoint: str | Path) -> None:
    """Write the trained parameters and the optimizer's state; all processes call this."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    parameters = _trained(model)
    moments = {
        f"optimizer.{name}.{kind}": value
        for name, parameter in parameters.items()
        for kind, value in optimizer.state[parameter].items()
    }
    weights = {f"model.{name}": parameter.detach() for name, parameter in parameters.items()}
    writer = HuggingFaceStorageWriter(str(_folder(checkpoint)), save_distributed=True)
    save({**weights, **moments}, storage_writer=writer)


def load_shards(model: Any, optimizer: Any, checkpoint: str | Path) -> None:
    """Put the trained parameters and the optimizer's state back, whatever number of processes wrote them."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(_folder(checkpoint)))
    parameters, stored = _trained(model), reader.read_metadata().state_dict_metadata
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    state = {f"model.{name}": parameter.detach() for name, parameter in parameters.items()}
    for key, kept in stored.items():
        if key.startswith("optimizer.") and isinstance(kept, TensorStorageMetadata):
            name, _, kind = key.removeprefix("optimizer.").rpartition(".")
            like, dtype = parameters[name].detach(), kept.properties.dtype
            spread = kept.size == like.shape
            room = torch.zeros_like(like, dtype=dtype) if spread else torch.zeros(kept.size, dtype=dtype)
            state[key] = moments[name][kind] = room
    load(state, storage_reader=reader)
    # The optimizer itself puts each value where it computes with it.
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {i: moments[n] for i, n in enumerate(order)}, "param_groups": groups})


def refuse_other_layout(checkpoint: str | None, *, sharded: bool) -> None:
    """Refuse to go on from a checkpoint of whole weights with sharded ones, and the other way round.

    Raises:
        StaleKeyError: that is what is asked for.
    """
    if checkpoint is None or sharded == _folder(checkpoint).is_dir():
        return
    was, now = ("whole", "sharded") if sharded else ("sharded", "whole")
    how = "Set model.shard: false" if sharded else "Set model.shard: true and start it by torchrun in several processes"
    raise StaleKeyError(
        f"checkpoint {checkpoint}, of {was} weights",
        f"training with {now} weights cannot go on from it",
        f"{how}; or remove {Path(checkpoint).parent}, and training begins anew",
    )


def _folder(checkpoint: str | Path) -> Path:
    return Path(checkpoint) / SHARDS


def _trained(model: Any) -> dict[str, Any]:
    let_go(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
