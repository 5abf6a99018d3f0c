"""Log-probabilities of responses through the stock model; logits exist for scored tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from realigner import ranks
from realigner.losses.pairwise import in_fp32
from realigner.model.attention import packing
from realigner.model.head import bare_model, evaluating, forward, head_agrees, through_head
from realigner.model.head_terms import head_logps
from realigner.model.packing import PackedBatch, bins, pack
from realigner.model.rows import Row, RowBatch, batches_by_length, collate
from realigner.model.sharded import dealt

SCORING_TOKENS = 2048
"""Tokens in one scoring batch. Results do not depend on it; larger batches are slower on CPUs."""


def scored_logits(model: Any, batch: RowBatch | PackedBatch) -> Float[Tensor, "tokens vocab"]:
    """Return the logits that predict each scored token, in `batch.row_of_token` order.

    The call goes through the model's own forward, so soft-capping, logit scaling, adapters and distributed wrappers
    act as they do anywhere else. `logits_to_keep` keeps the head off prompts and padding. A pack needs a model that
    attends by its layout: inside `model.attention.packing`.

    Raises:
        NotImplementedError: a pack is given to any other model, which would mix its rows.
    """
    logits = forward(model, batch)
    return logits[0] if isinstance(batch, PackedBatch) else logits


def token_logps(logits: Float[Tensor, "tokens vocab"], batch: RowBatch | PackedBatch) -> Float[Tensor, " tokens"]:
    """Return log p(token | before) in nats for each scored token, accumulated in at least fp32."""
    return -cross_entropy(in_fp32(logits), batch.targets, reduction="none")


def sum_by_row(per_token: Float[Tensor, " tokens"], batch: RowBatch | PackedBatch) -> Float[Tensor, " rows"]:
    """Add up a value per scored token into one per row."""
    total = torch.zeros(batch.rows, dtype=per_token.dtype, device=per_token.device)
    return total.index_add(0, batch.row_of_token, per_token)


def row_logps(model: Any, batch: RowBatch | PackedBatch) -> Float[Tensor, " rows"]:
    """Return log p(y|x), the sum over response tokens, for each row of a batch, with gradient."""
    return sum_by_row(token_logps(scored_logits(model, batch), batch), batch)


@torch.no_grad()
def score_rows(model: Any, rows: Sequence[Row], *, max_tokens: int = SCORING_TOKENS) -> Float[Tensor, " rows"]:
    """Return log p(y|x) of each row, in order, on the CPU; the model is left as it was found.

    On packed rows, each prompt computed once for all its responses, and without whole logits, where the model allows
    both; on padded rows of similar length where it does not.
    """
    logps = torch.zeros(len(rows), dtype=torch.float64)
    device = next(model.parameters()).device
    packed, plain = packs_agree(model), head_agrees(model)
    with evaluating(model), packing(bare_model(model)) if packed else nullcontext():
        batches = list(bins(rows, max_tokens) if packed else batches_by_length(rows, max_tokens))
        for batch, counts in dealt(batches, model):
            chosen = [rows[i] for i in batch]
            laid = (pack(chosen) if packed else collate(chosen)).to(device)
            found = _tiled_row_logps(model, laid) if plain else row_logps(model, laid)
            if counts:
                logps[batch] = found.cpu().double()
    return ranks.add_up(logps)


def _tiled_row_logps(model: Any, batch: RowBatch | PackedBatch) -> Float[Tensor, " rows"]:
    """Return what `row_logps` does, with logits for one tile of tokens at a time."""
    return sum_by_row(through_head(model, batch, lambda head, hidden: head_logps(head, hidden, batch.targets)), batch)


@torch.no_grad()
def packs_agree(model: Any) -> bool:
    """Say whether a model computes packed rows with a shared prompt as it does separate ones, on two short rows.

    False where its attention cannot be exchanged, and where something else mixes tokens (convolutions, recurrences).
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    tokens = [(1 + 7919 * i) % vocabulary for i in range(12)]
    rows = [Row(tuple(tokens[:8]), 5), Row(tuple(tokens[:5] + tokens[8:]), 5)]
    device = next(model.parameters()).device
    with evaluating(model):
        separate = row_logps(model, collate(rows).to(device))
        try:
            with packing(bare_model(model)):
                packed = row_logps(model, pack(rows).to(device))
        except (NotImplementedError, TypeError, ValueError):
            return False
    rounding = 64 * torch.finfo(next(model.parameters()).dtype).eps
    return bool((packed - separate).abs().max() <= rounding * separate.abs().max().clamp(min=1))
