"""A sharded model that the first process alone calls, as in the stage `measure`: the others run its forwards beside it.

What a forward gathers does not depend on what goes in. So before each of its own the first process tells the others,
who wait for the next stage meanwhile, and they send one token through. They compute nothing that is used: memory is
shared here, work is not.
"""

from __future__ import annotations

import gc
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch

from realigner import ranks
from realigner.model.sharded import load_sharded
from realigner.recipe import ModelSettings

_numbers = count()
_called: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""In the first process: the models that something still holds."""
_held: dict[int, Any] = {}
"""In the others: what stands beside them."""


def load_led(settings: ModelSettings) -> Any:
    """Return a sharded model that only this process calls; the others load it and wait in `accompany`."""
    ranks.join()
    number = next(_numbers)
    ranks.tell({"load": settings.model_dump(mode="json"), "number": number, "keep": list(_called)})
    with ranks.together():
        model = load_sharded(settings, trainable=False, seed=0)
    model.register_forward_pre_hook(lambda *_: ranks.tell({"forward": number}) and None, prepend=True)
    model._is_fsdp_managed_module = False  # else generation would wait for all to finish, step by step
    _called[number] = model
    return model


@torch.no_grad()
def accompany(message: dict[str, Any]) -> None:
    """Do, in another process, what the first one's message asks for."""
    if "load" in message:
        for number in [number for number in _held if number not in message["keep"]]:
            del _held[number]
        gc.collect()
        with ranks.together():
            settings = ModelSettings.model_validate(message["load"])
            _held[message["number"]] = load_sharded(settings, trainable=False, seed=0)
        return
    model = _held[message["forward"]]
    token = torch.ones(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    model(input_ids=token, use_cache=False)


def part() -> None:
    """Let go of every model, when a stage begins that all run in step."""
    _held.clear()
    gc.collect()
