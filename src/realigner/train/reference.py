"""The frozen reference of training: the model without its fresh adapter, or a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from realigner.errors import ModelError
from realigner.model.head import evaluating
from realigner.model.sharded import is_sharded


def has_adapter(model: Any) -> bool:
    """Say whether a model is a PEFT model, whose reference is itself with the adapter disabled."""
    return hasattr(model, "disable_adapter")


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Disable a model's adapter, if it has one, for a block."""
    if not has_adapter(model):
        yield
        return
    with model.disable_adapter():
        yield


def reference_of(model: Any, given: Any, device: torch.device) -> Any:
    """Return the frozen reference: the one given, else a copy of the model as it is now.

    None where nothing is given and the model has an adapter: then it is the model itself, without it.

    Raises:
        ModelError: the given one is the very model that will be trained; or none is given for a sharded model, which
            cannot be copied.
    """
    if given is model:
        raise ModelError(
            "ref_model and model are one object", "the reference stays frozen while the model trains", "Load it twice"
        )
    if given is None and has_adapter(model):
        return None
    if given is None and is_sharded(model):
        raise ModelError(
            "a sharded model without ref_model",
            "training all its parameters needs a frozen copy, which cannot be made of one that is sharded",
            "Give ref_model, or set loss.kl_reference: hidden",
        )
    reference = copy.deepcopy(model) if given is None else given
    reference.requires_grad_(False)
    return reference.eval() if is_sharded(reference) else reference.eval().to(device)


@torch.no_grad()
def refuse_trained_adapter(model: Any) -> None:
    """Refuse an adapter that already changes the model: without it, the model would not be the aligned one.

    What kind of adapter it is does not matter: its effect on the logits of one short row decides.

    Raises:
        ModelError: logits with and without the adapter differ by more than rounding.
    """
    loaded = getattr(model, "_hf_peft_config_loaded", False)  # an adapter that from_pretrained put in by itself
    if loaded or (has_adapter(model) and _adapter_acts(model)):
        raise ModelError(
            "a model with an adapter that has been trained already",
            "training goes on from the model with a fresh adapter, whose reference is the model without it",
            "Merge the adapter first (model.merge_and_unload()), then pass peft_config for a fresh one",
        )


def _adapter_acts(model: Any) -> bool:
    ids = torch.arange(8, device=next(model.parameters()).device).unsqueeze(0)
    with evaluating(model):
        now = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            before = model(input_ids=ids, use_cache=False).logits
    rounding = 8 * torch.finfo(before.dtype).eps * before.abs().max()
    return bool((now - before).abs().max() > rounding)
