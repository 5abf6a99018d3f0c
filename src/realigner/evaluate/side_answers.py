"""Answers of both models to prompts of a part, kept piece by piece so that an interruption costs little."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from realigner.atomic import write_text
from realigner.evaluate.agreement import SIDES
from realigner.model.generate import Response, generate
from realigner.recipe import GenerateSettings
from realigner.records import Prompt, prompt_key, text_hash

if TYPE_CHECKING:
    from realigner.evaluate.parts import Comparison

BATCHES = 8
"""Batches of `generate.batch_size` in a piece."""


def both_answers(
    comparison: Comparison, prompts: Sequence[Prompt], label: str, settings: GenerateSettings
) -> dict[str, list[Response | None]]:
    """Return the responses by side; see `Comparison.answers`."""
    encoders = {side: comparison.encoder(side) for side in SIDES}
    asked = [
        place
        for place, prompt in enumerate(prompts)
        if all(encoder.control_token(turn["content"] for turn in prompt) is None for encoder in encoders.values())
    ]
    found: dict[str, list[Response | None]] = {}
    for side in SIDES:
        responses: list[Response | None] = [None] * len(prompts)
        wanted = [prompts[place] for place in asked]
        given = _side(comparison, side, encoders[side], wanted, label, settings)
        for place, response in zip(asked, given, strict=True):
            responses[place] = response
        found[side] = responses
    return found


def _side(
    comparison: Comparison, side: str, encoder: Any, prompts: Sequence[Prompt], label: str, settings: GenerateSettings
) -> Iterator[Response]:
    from realigner.model.load import model_fingerprint

    size = BATCHES * settings.batch_size
    pieces = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    decided = [model_fingerprint(comparison.models[side]), settings.model_dump_json(), str(comparison.seed)]
    model = None
    with comparison.progress.task(f"{label} {side}", len(prompts)) as advance:
        for piece in pieces:
            name = text_hash(side, *decided, *map(prompt_key, piece))
            path = comparison.scratch / f"answers-{name}.json"
            if path.is_file():
                rows = json.loads(path.read_text(encoding="utf-8"))
            else:
                if model is None:
                    model, _ = comparison.load(side)
                made = generate(model, encoder, piece, settings, seed=comparison.seed)
                rows = [[r.text, r.finish, r.tokens, r.seed] for r in made]
                write_text(path, json.dumps(rows))
            yield from (Response(*row) for row in rows)
            advance(len(piece))
    del model
    gc.collect()
