"""Generating responses: batched by length, padded on the left, reproducible from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from realigner import ranks
from realigner.model.chat import Encoder
from realigner.model.head import bare_model, evaluating
from realigner.model.sharded import dealt, is_sharded
from realigner.progress import SILENT, Progress
from realigner.recipe import GenerateSettings
from realigner.records import Prompt


@dataclass(frozen=True, slots=True)
class Response:
    """One generated response."""

    text: str
    finish: Literal["stop", "length"]
    """`stop`: the model ended its turn. `length`: it was cut at `max_new_tokens`."""
    tokens: int
    seed: int


def generate(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    settings: GenerateSettings,
    *,
    seed: int,
    progress: Progress = SILENT,
    label: str = "generating",
    shared: bool = False,
) -> list[Response]:
    """Return one response to each prompt, in order.

    Greedy at temperature 0. Sampled responses depend on the seed and on the batch they were drawn in, hence on
    `batch_size`; each batch has a seed of its own, which is stored with its responses. Of the model's own generation
    defaults (temperature, penalties, lengths) only its end tokens are taken over. With a sharded model all processes
    call alike, and a batch goes on until the longest answer of any is done.
    """
    found = _answers(model, encoder, prompts, settings, seed, progress, label, shared)
    if shared:
        parts = ranks.collect([[i, r.text, r.finish, r.tokens, r.seed] for i, r in found.items()])
        found = {i: Response(*rest) for part in parts for i, *rest in part}
    return [found[i] for i in range(len(prompts))]


@torch.no_grad()
def _answers(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    settings: GenerateSettings,
    seed: int,
    progress: Progress,
    label: str,
    shared: bool,
) -> dict[int, Response]:
    """Return responses by the place of their prompt: of this process's batches, or of all."""
    ids = [encoder.prompt_ids(prompt, settings.max_new_tokens) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(ids[i]))
    stops = stop_ids(model, encoder)
    responses: dict[int, Response] = {}
    starts = range(0, len(order), settings.batch_size)
    mine = dealt(starts, model) if shared else [(start, True) for start in starts]
    with evaluating(model), without_defaults(model), progress.task(label, len(prompts)) as advance:
        for start, counts in mine:
            batch = order[start : start + settings.batch_size]
            batch_seed = seed + start
            new = _generate_batch(model, encoder, [ids[i] for i in batch], settings, stops, batch_seed)
            for i, tokens in zip(batch, new, strict=True) if counts else ():
                responses[i] = _response(encoder, tokens, stops, batch_seed)
            advance(len(batch))
    return responses


def stop_ids(model: Any, encoder: Encoder) -> list[int]:
    """Return the encoder's stop tokens and the model's own: Llama 3 has three, of which its tokenizer names one.

    A configuration that was never adapted to its tokenizer may name an ordinary token; that one does not stop.
    """
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    known = encoder.tokenizer.added_tokens_decoder
    return sorted({*encoder.stop_ids, *(token for token in own if token in known and known[token].special)})


@contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Set the model's generation defaults aside for a block: transformers fills in from them what a call omits."""
    from transformers import GenerationConfig

    owner = bare_model(model)
    kept, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = kept


def _generate_batch(
    model: Any, encoder: Encoder, prompts: list[list[int]], settings: GenerateSettings, stops: list[int], seed: int
) -> list[list[int]]:
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    length = max(len(ids) for ids in prompts)
    pad = encoder.tokenizer.pad_token_id
    pad = stops[0] if pad is None else pad
    input_ids = torch.tensor([[pad] * (length - len(ids)) + ids for ids in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    sampled = settings.temperature > 0
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=sampled,
        eos_token_id=stops,
        pad_token_id=pad,
        **({"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0} if sampled else {}),
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        output: Tensor = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=config,
            synced_gpus=is_sharded(model) and not ranks.leads(),
        )
    new: list[list[int]] = output[:, length:].tolist()
    return new


def _response(encoder: Encoder, tokens: list[int], stops: list[int], seed: int) -> Response:
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    finish: Literal["stop", "length"] = "length" if end is None else "stop"
    return Response(encoder.decode(tokens[:end]), finish, len(tokens) if end is None else end + 1, seed)
