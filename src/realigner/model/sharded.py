"""Models whose parameters are spread over the processes of torchrun (`model.shard`), by PyTorch's `fully_shard`.

A layer's parameters are whole on a device only while it runs: each process holds its part of every one, and they gather
a layer for its forward and again for its backward. So every forward is work in common, and all processes run equally
many. What holds the embeddings and the head is the model's own group: it stays gathered between forwards.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from realigner import ranks
from realigner.errors import ModelError
from realigner.model.head import bare_model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from realigner.recipe import ModelSettings

Item = TypeVar("Item")


def dealt(items: Sequence[Item], *models: torch.nn.Module) -> list[tuple[Item, bool]]:
    """Return this process's share of the work, and whether each result counts.

    Every item counts in exactly one process. Where a model is sharded, all do equally many: who has fewer repeats
    the first one, not counted.
    """
    mine = [(item, True) for item in ranks.share(items)]
    missing = -(-len(items) // ranks.shares()) - len(mine) if any(map(is_sharded, models)) else 0
    return mine + [(item, False) for item in items[:1]] * missing


def sharded_modules(model: torch.nn.Module) -> list[Any]:
    """Return the modules that gather their parameters from the processes for the time of their forward."""
    if not dist.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def is_sharded(model: torch.nn.Module) -> bool:
    """Say whether a model's parameters are spread over processes."""
    return bool(sharded_modules(model))


def let_go(model: torch.nn.Module) -> None:
    """Bring a sharded model to rest: the last forward may have left parameters gathered."""
    for module in sharded_modules(model):
        module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor itself, gathered from the processes that it is spread over."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(model: torch.nn.Module, *, trained_only: bool = False) -> dict[str, Tensor]:
    """Return the whole parameters (and buffers that are saved) on the CPU of the first process; {} in the others.

    One parameter at a time is whole on a device. Tied ones are one tensor under each of their names.
    """
    let_go(model)
    found: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if trained_only and not tensor.requires_grad:
            continue
        if id(tensor) not in seen:
            full = whole(tensor.detach())
            seen[id(tensor)] = full.cpu() if ranks.rank() == 0 else torch.empty(0)
        found[name] = seen[id(tensor)]
    return found if ranks.rank() == 0 else {}


# -- loading ----------------------------------------------------------------------------------------------------------


def load_sharded(settings: ModelSettings, *, trainable: bool, seed: int) -> Any:
    """Return what `load_model` does, spread over the processes, which all call this.

    The first process loads the model whole into its host's memory, merges or attaches what is to be, and deals every
    parameter out; the others never hold more than one at a time, and no device ever holds the model.

    Raises:
        ModelError: as `load_model`; or the model does not name its layers.
    """
    from transformers import GenerationConfig

    from realigner.model.load import load_model, on_one_cpu, prepared, resolve_device, resolve_dtype

    device = resolve_device(settings)
    dtype = resolve_dtype(settings, device)
    source = load_model(on_one_cpu(settings, dtype), trainable=trainable, seed=seed) if ranks.rank() == 0 else None
    tensors = {} if source is None else _tensors(source)
    kinds = ranks.tell({name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()})
    generation = ranks.tell(None if source is None else bare_model(source).generation_config.to_dict())
    model = prepared(_hollow(settings, dtype), settings, trainable=trainable, seed=seed)
    bare_model(model).generation_config = GenerationConfig.from_dict(generation)
    for name, parameter in model.named_parameters():
        parameter.data = torch.empty_like(parameter, dtype=getattr(torch, kinds[name]), device="meta")
    mesh = _mesh(device)
    _shard(model, mesh)
    _fill(model, tensors, kinds, mesh)
    del source, tensors
    gc.collect()
    return model


def layers_of(model: Any) -> list[torch.nn.Module]:
    """Return the layers that are gathered one at a time: those that the model says must not be split.

    Raises:
        ModelError: it names none.
    """
    names = set(getattr(bare_model(model), "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(
            f"model.shard for a {bare_model(model).config.model_type} model",
            "its class does not name the layers that could be gathered one at a time",
            "Set model.shard: false",
        )
    return layers


def _hollow(settings: ModelSettings, dtype: torch.dtype) -> Any:
    """Return the model without its parameters' values; buffers are real."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from realigner.model.load import attention_arguments, load_model_config

    how = attention_arguments(settings)
    with init_empty_weights(include_buffers=False):
        config = load_model_config(settings)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False, **how)
    model.tie_weights()  # the context has made two of what is one
    return model


@cache
def _mesh(device: str) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (ranks.world(),))


def _shard(model: Any, mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if model is not bare_model(model):  # an adapter generates by the forward of the model inside it
        register_fsdp_forward_method(model, "generate")


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _fill(model: Any, tensors: dict[str, Tensor], kinds: dict[str, str], mesh: DeviceMesh) -> None:
    """Deal the first process's tensors out: to each process its part of a parameter, and all of a buffer."""
    from torch.distributed.tensor import distribute_tensor

    def sent(name: str, shape: torch.Size) -> Tensor:
        """Return the first process's tensor there, and room of its size elsewhere."""
        if ranks.rank() == 0:
            return tensors[name].detach().to(mesh.device_type).contiguous()
        return torch.empty(shape, dtype=getattr(torch, kinds[name]), device=mesh.device_type)

    parts: dict[int, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        part = distribute_tensor(sent(name, parameter.shape), mesh, parameter.placements)
        parts[id(parameter)] = torch.nn.Parameter(part, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for short, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[short] = parts[id(parameter)]
    for name, buffer in list(model.named_buffers()):
        owner, _, short = name.rpartition(".")
        value = sent(name, buffer.shape)
        dist.broadcast(value, 0)
        model.get_submodule(owner)._buffers[short] = value
