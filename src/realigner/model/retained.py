"""What the retain term needs of the frozen reference, computed once and kept beside the tokens.

`hidden`: its final hidden states at the retained tokens, in its own precision; through its head they give the exact
KL, so training runs no reference forward and, without an adapter, holds no second model (2 bytes × hidden size a
token in bfloat16). `top_k`: its k likeliest tokens and their log-probabilities (8 bytes × k a token); approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from realigner import ranks
from realigner.errors import ModelError, StaleKeyError
from realigner.losses.pairwise import in_fp32
from realigner.model.encoded import row_of
from realigner.model.head import Head, evaluating, head_agrees, head_of, through_head
from realigner.model.logprobs import SCORING_TOKENS
from realigner.model.rows import RowBatch, batches_by_length, collate
from realigner.model.sharded import dealt
from realigner.recipe import LossSettings
from realigner.records import Outcome


@torch.no_grad()
def add_retained(examples: Sequence[dict[str, Any]], model: Any, loss: LossSettings) -> None:
    """Fill in what `loss.kl_reference` asks for, for every retained pair's y_w.

    Raises:
        ModelError: the model does more to its logits than a plain head, so that hidden states do not give them.
    """
    retained = [e for e in examples if Outcome(e["outcome"]).is_retained]
    if loss.kl_reference == "forward" or not retained:
        return
    if not head_agrees(model):
        raise ModelError(
            f"loss.kl_reference = {loss.kl_reference} with {type(model).__name__}",
            "its logits are not a plain head's of its last hidden states",
            "Set loss.kl_reference: forward",
        )
    rows = [row_of(e, "chosen") for e in retained]
    lengths = [row.response_tokens for row in rows]
    starts = [0, *accumulate(lengths)]
    head = head_of(model)
    assert head is not None  # by head_agrees
    top = loss.kl_top_k if loss.kl_reference == "top_k" else None
    kept = _zeros(starts[-1], head, top)
    with evaluating(model):
        for batch, counts in dealt(list(batches_by_length(rows, SCORING_TOKENS)), model):
            laid = collate([rows[i] for i in batch]).to(head.weight.device)
            places = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in batch])
            for tensor, found in zip(kept, _of_batch(model, laid, top), strict=True):
                if counts:
                    tensor[places] = found.cpu()
    kept = tuple(_add_up(tensor) for tensor in kept)
    for i, example in enumerate(retained):
        example.update(_columns(*(tensor[starts[i] : starts[i + 1]] for tensor in kept)))


def _zeros(tokens: int, head: Head, top: int | None) -> tuple[Tensor, ...]:
    """Return room for hidden states, or for ids and log-probabilities of the `top` likeliest tokens."""
    if top is None:
        return (torch.zeros(tokens, head.weight.shape[1], dtype=head.weight.dtype),)
    shape = (tokens, min(top, len(head.weight) - 1))
    return torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)


def _of_batch(model: Any, batch: RowBatch, top: int | None) -> tuple[Tensor, ...]:
    """Return what is kept of each scored token of a batch."""
    if top is None:
        return (through_head(model, batch, lambda head, hidden: hidden.to(head.weight.dtype)),)
    found: list[tuple[Tensor, Tensor]] = []

    def work(head: Head, hidden: Tensor) -> Tensor:
        head = head.cast()
        for at in head.tiles(len(hidden)):
            logps = torch.log_softmax(head.finish_(head.raw(hidden[at])), dim=1)
            values, ids = logps.topk(min(top, logps.shape[1] - 1), dim=1)
            found.append((ids.int(), values.float()))
        return hidden[:, :1]

    through_head(model, batch, work)
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])


def _add_up(values: Tensor) -> Tensor:
    """Return what all processes found, byte by byte: a sum with zeros, exact in every precision."""
    return ranks.add_up(values.view(torch.uint8)).view(values.dtype)


def _columns(first: Tensor, logps: Tensor | None = None) -> dict[str, Any]:
    """Return one row's share as the columns of `SCHEMA`."""
    if logps is None:
        raw = first.contiguous().view(torch.uint8).numpy().tobytes()
        return {"chosen_hidden": raw, "chosen_hidden_dtype": str(first.dtype).removeprefix("torch.")}
    return {"chosen_top_ids": first.flatten().tolist(), "chosen_top_logps": logps.flatten().tolist()}


def gathered(examples: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Tensor]:
    """Return what the anchors of a batch need, in the order of their tokens: `(tokens, hidden)`, or two `(tokens, k)`.

    Args:
        examples: the retained pairs of a batch, in order.
        kind: `loss.kl_reference`.

    Raises:
        StaleKeyError: the pairs were encoded for another `loss.kl_reference`.
    """
    if kind == "forward":
        return {}
    column = "chosen_hidden" if kind == "hidden" else "chosen_top_ids"
    missing = [e["id"] for e in examples if e.get(column) is None]
    if missing:
        raise StaleKeyError(
            f"pair {missing[0]} has no {column}",
            f"it was encoded for another loss.kl_reference than {kind}",
            "Encode the pairs again with the settings that train",
        )
    lengths = [row_of(e, "chosen").response_tokens for e in examples]
    if kind == "hidden":
        parts = [
            torch.frombuffer(bytearray(e["chosen_hidden"]), dtype=getattr(torch, e["chosen_hidden_dtype"])).view(n, -1)
            for e, n in zip(examples, lengths, strict=True)
        ]
        return {"reference_hidden": torch.cat(parts)} if parts else {}
    ids = [torch.tensor(e["chosen_top_ids"]).view(n, -1) for e, n in zip(examples, lengths, strict=True)]
    logps = [torch.tensor(e["chosen_top_logps"]).view(n, -1) for e, n in zip(examples, lengths, strict=True)]
    return {"reference_ids": torch.cat(ids), "reference_logps": in_fp32(torch.cat(logps))} if ids else {}
