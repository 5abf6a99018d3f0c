"""Hidden states of responses, one vector a layer: what is kept of a forward pass is made while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realigner.model.head import evaluating
from realigner.model.rows import Row, RowBatch, batches_by_length, collate

HIDDEN_TOKENS = 1024
"""Padded tokens of a batch: the states of all its layers are in memory at once. Results do not depend on it."""


@dataclass(frozen=True)
class HiddenStates:
    """The states after each layer, the last one as the head gets it; the embeddings are left out."""

    prompt: Float[Tensor, "rows layers hidden"]
    """At the last token of the prompt, from which the first token of the response is predicted."""
    response: Float[Tensor, "rows layers hidden"]
    """The mean over the tokens of the response."""


@torch.no_grad()
def hidden_states(
    model: Any, rows: Sequence[Row], *, max_tokens: int = HIDDEN_TOKENS
) -> Iterator[tuple[list[int], HiddenStates]]:
    """Yield (places of rows, their states in float32 on the CPU), a batch at a time, the longest rows first.

    Memory does not grow with the number of rows.

    Args:
        model: a causal language model, bare or in the wrappers of peft and accelerate.
        rows: prompts with responses.
        max_tokens: padded tokens of a batch.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        for places in batches_by_length(rows, max_tokens):
            chosen = [rows[place] for place in places]
            yield places, _states(model, collate(chosen).to(device), chosen)


def _states(model: Any, batch: RowBatch, rows: Sequence[Row]) -> HiddenStates:
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        output_hidden_states=True,
        logits_to_keep=1,
        use_cache=False,
    )
    number = torch.arange(len(rows), device=batch.input_ids.device)
    last = torch.tensor([row.start - 1 for row in rows], device=number.device)
    # Tokens of the response: one place after those whose logits predict them.
    inside = batch.scored.roll(1, dims=1)
    share = (inside / inside.sum(dim=1, keepdim=True)).unsqueeze(-1)
    prompt, response = [], []
    for states in output.hidden_states[1:]:
        prompt.append(states[number, last].float())
        response.append((states.float() * share).sum(dim=1))
    return HiddenStates(torch.stack(prompt, dim=1).cpu(), torch.stack(response, dim=1).cpu())
