"""Stage 2: training on the hybrid objective."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["StratifiedSampler", "TraceConfig", "TraceTrainer"]

_HOMES = {"StratifiedSampler": "sampler", "TraceConfig": "config", "TraceTrainer": "trainer"}


def __getattr__(name: str) -> object:
    """Import what is asked for: `realigner check` reads the settings of training, and needs no trainer."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


if TYPE_CHECKING:
    from realigner.train.config import TraceConfig as TraceConfig
    from realigner.train.sampler import StratifiedSampler as StratifiedSampler
    from realigner.train.trainer import TraceTrainer as TraceTrainer
