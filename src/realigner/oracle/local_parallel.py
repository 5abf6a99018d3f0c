"""A local judge on several processes of `torchrun`: the first puts the questions, all of them score, it collects.

    torchrun --nproc-per-node 8 --no-python realigner triage recipe.yaml

Only the first process runs the command, writes the store and takes decisions. The others load the same weights, wait
for tokenised prompts, and answer with log-probabilities, until the first one says that it is done. Every prompt is
scored by exactly one process, and the result does not depend on their number.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from realigner.oracle.local import Score, load_scorer
from realigner.ranks import join, leave, rank, world
from realigner.recipe_judges import LocalJudgeSettings

if TYPE_CHECKING:
    from realigner.model.yes_no import YesNo

ROUND = 16
"""Batches that each process scores before the results are collected."""
_leads = False
"""Whether the other processes wait for questions."""


def score_here_or_everywhere(settings: LocalJudgeSettings) -> Score:
    """Return what scores tokenised prompts: here alone, or, in the first process of torchrun, on all of them."""
    if world() == 1 or not _leads:
        return load_scorer(settings)  # under `realigner run`, the others wait for the stages that they share
    join()
    own = load_scorer(settings)
    shown = settings.model_dump_json()

    def score(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, YesNo]]:
        # Long ones first, dealt out in turn: every process gets its share of the long and of the short.
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        size = world() * settings.batch_size * ROUND
        for start in range(0, len(order), size):
            yield from _round(own, shown, prompts, order[start : start + size])

    return score


def serve() -> None:
    """Score what the first process sends, until it is done. Called in the other processes of torchrun."""
    join()
    scorers: dict[str, Score] = {}
    while True:
        message = json.loads(_receive([]))
        if message is None:
            break
        settings, prompts = message
        if settings not in scorers:
            scorers[settings] = load_scorer(LocalJudgeSettings.model_validate_json(settings))
        _send(json.dumps([[place, said.yes, said.no] for place, said in scorers[settings](prompts)]))
    leave()


def lead() -> None:
    """Make sure, in the first process of torchrun, that the others end when it does, also if it never asks them."""
    global _leads
    if world() > 1:
        _leads = True
        atexit.register(_dismiss)


def _round(own: Score, settings: str, prompts: Sequence[Sequence[int]], places: Sequence[int]) -> Iterator[Any]:
    """Score one round of prompts on all processes; yield (place, log-probabilities)."""
    from realigner.model.yes_no import YesNo

    shares = [list(places[number :: world()]) for number in range(world())]
    mine = [prompts[place] for place in shares[0]]
    _receive([json.dumps([settings, [list(prompts[place]) for place in share]]) for share in shares])
    try:
        scored = [[place, said.yes, said.no] for place, said in own(mine)]
    except BaseException:
        _send("[]")  # the others are waiting to hand in; only then can they be told to stop
        raise
    for share, answer in zip(shares, _send(json.dumps(scored)), strict=True):
        for place, yes, no in json.loads(answer):
            yield share[place], YesNo(yes, no)


def _receive(messages: list[str]) -> str:
    """Deal out one message to each process, from the first; return this process's."""
    import torch.distributed as dist

    received: list[Any] = [None]
    dist.scatter_object_list(received, messages or None, src=0)
    return str(received[0])


def _send(message: str) -> list[str]:
    """Collect the messages of all processes in the first; return them there, an empty list elsewhere."""
    import torch.distributed as dist

    collected: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object(message, collected, dst=0)
    return [str(message) for message in collected or ()]


def _dismiss() -> None:
    join()
    _receive([json.dumps(None)] * world())
    leave()
