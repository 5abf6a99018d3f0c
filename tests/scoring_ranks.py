"""Scores the same rows in one process and in several; see unit/impact/test_impact_ranks.py.

One interpreter imports everything, then forks: `python scoring_ranks.py DIRECTORY` writes `{processes}.pt` there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from tiny import Float64Throughout, tiny_model
from tiny_pairs import random_conflicts, random_rows
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from realigner import ranks
from realigner.errors import ModelError
from realigner.impact import slopes as module
from realigner.impact.direction import target_gradient
from realigner.impact.score import weigh
from realigner.impact.slopes import slopes_along
from realigner.impact.vectors import norm, trainable
from realigner.model.load import attach_lora, forget_padding_index
from realigner.model.rows import Row
from realigner.recipe import ImpactSettings, LoraSettings, LossSettings

CASES = (
    (2, "full", False),
    (2, "full", True),
    (2, "lora", False),
    (3, "full", False),
    (3, "full", True),
    (3, "lora", True),
)
"""Processes, what is trained, whether parameters are sharded."""
SHARED = [Row((7, 8, 9, *range(40, 40 + n)), 3) for n in (2, 5, 9)]
ROWS = [*SHARED, *random_rows(6, seed=3, longest=20), SHARED[1]]
CONFLICTS = random_conflicts(7)
GOLD = list(zip(random_rows(5, seed=1), random_rows(5, seed=2), strict=True))


def model_of(mode: str) -> Any:
    model = forget_padding_index(tiny_model("qwen3", dtype=torch.float64)).requires_grad_(True)
    if mode == "full":
        return model
    return attach_lora(model.requires_grad_(False), LoraSettings(rank=4, alpha=6), 7).double().eval()


def shard(model: Any) -> Any:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in inner.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def score(mode: str, sharded: bool) -> dict[str, Any]:
    """Return everything that scoring gives, and which rows this process scored."""
    torch.manual_seed(0)
    model = shard(model_of(mode)) if sharded else model_of(mode)
    before = [p.detach().clone() for p in model.parameters()]
    found: dict[str, Any] = {}
    packed: list[Row] = []
    plain = module.pack

    def noting(rows: Any, **how: Any) -> Any:
        packed.extend(rows)
        return plain(rows, **how)

    with Float64Throughout():
        direction = target_gradient(model, GOLD, beta=0.3)
        found["norm"] = norm(direction)
        for method in ("exact", "difference", "backward"):
            slopes = slopes_along(model, direction, method=method, step=1e-3)
            module.pack = noting  # type: ignore[assignment]
            packed.clear()
            found[method] = slopes(ROWS, max_tokens=30)
            module.pack = plain
            found[f"{method} rows"] = [row.ids for row in packed]
        few = slopes_along(model, direction)
        found["one row"] = few(ROWS[:1])
        settings = ImpactSettings(score="cosine", normalize="none")
        weights, facts = weigh(model, GOLD, CONFLICTS, [], settings, LossSettings(), seed=0)
        found["weights"] = torch.from_numpy(weights.scores.values)
        found["scoring"] = (facts["scoring"]["method"], facts["scoring"]["layout"], weights.scores.ids)
    if sharded:
        held = [v for v in few.unit.values() if isinstance(v, DTensor)]
        found["shards"] = (len(held), len(few.unit), sum(v.to_local().numel() for v in held))
        found["all"] = sum(v.numel() for v in few.unit.values())
        try:
            weigh(model, GOLD, [], [], ImpactSettings(preconditioner="cg"), LossSettings(), seed=0)
        except ModelError as error:
            found["refusal"] = str(error)
    same = [torch.equal(_local(a), _local(b)) for a, b in zip(model.parameters(), before, strict=True)]
    found["unchanged"] = all(same) and all(p.grad is None for p in trainable(model).values())
    return found


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def process(rank: int, size: int, directory: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    meet = f"file://{directory}/meet-{size}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    with ranks.together():
        found = {(mode, sharded): score(mode, sharded) for n, mode, sharded in CASES if n == size}
    torch.save(found, directory / f"{size}-{rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for count in sorted({n for n, _, _ in CASES}):
        mp.start_processes(process, (count, out), nprocs=count, start_method="fork")
    torch.save({mode: score(mode, False) for mode in ("full", "lora")}, out / "alone.pt")
