"""The stage `reference`: every pair that training uses as tokens, with log p_ref of the responses its loss reads."""

from __future__ import annotations

from typing import Any

from realigner.errors import DataError, TemplateError
from realigner.model.chat import Encoder
from realigner.model.encoded import encode_together, load_encoded, write_encoded
from realigner.model.load import context_of, load_model, load_tokenizer
from realigner.recipe import Recipe
from realigner.runs import Run, StoredRun
from realigner.triaging import read_triage

ENCODED = "reference.arrow"


def run_reference(run: Run) -> dict[str, Any]:
    """Write `reference.arrow`; return how many pairs it holds and what was cut or dropped, on the held-out side too."""
    model = load_model(run.recipe.model)
    encoder = recipe_encoder(run.recipe, model.config)
    held_out = recipe_encoder(run.recipe, model.config)
    # What evaluation would refuse is refused now, not after training.
    with run.progress.task("held-out pairs to tokens", None) as advance:
        for _ in encode_together(read_triage(run.path("triage.parquet"), split="eval"), held_out):
            advance(1)
    with run.writing(ENCODED) as path:
        count = write_encoded(
            read_triage(run.path("triage.parquet"), split="train"),
            encoder,
            model,
            path,
            key=run.stages["reference"]["key"],
            loss=run.recipe.loss,
            progress=run.progress,
        )
        if count == 0:
            raise DataError(
                "no pair is left to train on",
                f"all were dropped ({dict(encoder.tally)})",
                "Raise text.max_length, or set text.overflow: cut",
            )
    return {
        "pairs": count,
        "text": dict(encoder.tally),
        "held_out": dict(held_out.tally),
        "max_length": encoder.max_length,
    }


def recipe_encoder(recipe: Recipe, config: Any) -> Encoder:
    """Return the encoder of a recipe for a model of this configuration.

    Raises:
        TemplateError: as `Encoder` does, or responses of `generate.max_new_tokens` leave no room for their prompts.
    """
    encoder = Encoder(load_tokenizer(recipe.model), recipe.text, context_of(config))
    if recipe.generate.max_new_tokens >= encoder.max_length:
        raise TemplateError(
            f"generate.max_new_tokens = {recipe.generate.max_new_tokens}",
            f"it leaves no room for a prompt: together they may have {encoder.max_length} tokens (text.max_length)",
            f"Set it below {encoder.max_length}",
        )
    return encoder


def encoded_pairs(run: StoredRun) -> Any:
    """Map a run's encoded pairs as a `datasets.Dataset`, refusing a file of another key."""
    return load_encoded(run.path(ENCODED), key=run.stages["reference"]["key"])
