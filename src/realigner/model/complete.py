"""Going on from tokens, greedily: for models that are asked in their own words, not by the recipe's template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from realigner.model.head import evaluating


@torch.no_grad()
def complete(
    model: Any, prompts: Sequence[Sequence[int]], *, stops: Sequence[int], max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield (place, new tokens without their stop, whether the model ended itself), the longest prompts first."""
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        with evaluating(model):
            new = _batch(model, [prompts[place] for place in batch], stops, max_new_tokens)
        for place, tokens in zip(batch, new, strict=True):
            end = next((number for number, token in enumerate(tokens) if token in stops), None)
            yield place, tokens[:end], end is not None


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the model's own and the tokenizer's."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return sorted({token for token in (*own, tokenizer.eos_token_id) if token is not None})


def _batch(model: Any, rows: Sequence[Sequence[int]], stops: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    length = max(len(row) for row in rows)
    pad = stops[0]
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=pad
    )
    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        output: Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    finally:
        model.generation_config = kept
    new: list[list[int]] = output[:, length:].tolist()
    return new
