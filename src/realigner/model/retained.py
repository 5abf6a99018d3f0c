"""What the retain term needs of the frozen reference, computed once and kept beside the tokens.

`hidden`: its final hidden states at the retained tokens, in its own precision; through its head they give the exact
KL, so training runs no reference forward and, without an adapter, holds no second model (2 bytes × hidden size a
token in bfloat16). `top_k`: its k likeliest tokens and their log-probabilities (8 bytes × k a token); approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from realigner.errors import ModelError, StaleKeyError
from realigner.losses.pairwise import in_fp32
from realigner.model.encoded import row_of
from realigner.model.head import Head, evaluating, head_agrees, through_head
from realigner.model.logprobs import SCORING_TOKENS
from realigner.model.rows import batches_by_length, collate
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
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in batches_by_length(rows, SCORING_TOKENS):
            laid = collate([rows[i] for i in batch]).to(device)
            found = _likeliest(model, laid, loss.kl_top_k) if loss.kl_reference == "top_k" else _hidden(model, laid)
            lengths = [rows[i].response_tokens for i in batch]
            for i, parts in zip(batch, zip(*(torch.split(t.cpu(), lengths) for t in found), strict=True), strict=True):
                retained[i].update(_columns(*parts))


def _hidden(model: Any, batch: Any) -> tuple[Tensor, ...]:
    return (through_head(model, batch, lambda _, hidden: hidden),)


def _likeliest(model: Any, batch: Any, k: int) -> tuple[Tensor, ...]:
    found: list[tuple[Tensor, Tensor]] = []

    def work(head: Head, hidden: Tensor) -> Tensor:
        head = head.cast()
        for at in head.tiles(len(hidden)):
            logps = torch.log_softmax(head.finish_(head.raw(hidden[at])), dim=1)
            values, ids = logps.topk(min(k, logps.shape[1] - 1), dim=1)
            found.append((ids.int(), values.float()))
        return hidden[:, :1]

    through_head(model, batch, work)
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])


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
