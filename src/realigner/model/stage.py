"""The stage `reference`: every pair that training uses as tokens, with log p_ref of the responses its loss reads."""

from __future__ import annotations

from typing import Any

from realigner.errors import DataError, ModelError, TemplateError
from realigner.model.chat import DEFAULT_MAX_LENGTH, Encoder
from realigner.model.encoded import encode_together, load_encoded, write_encoded
from realigner.model.load import context_of, load_model, load_model_config, load_tokenizer
from realigner.recipe import Recipe
from realigner.runs import Run, StoredRun
from realigner.triaging import read_triage

ENCODED = "reference.arrow"


def run_reference(run: Run) -> dict[str, Any]:
    """Write `reference.arrow`; return how many pairs it holds and what was cut or dropped, on the held-out side too."""
    model = load_model(run.recipe.reference_model)
    config = load_model_config(run.recipe.model)
    encoder = recipe_encoder(run.recipe, config)
    held_out = recipe_encoder(run.recipe, config)
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


def refuse_other_tokens(recipe: Recipe) -> None:
    """Refuse a reference that does not read the tokens of the model, or not as many of them.

    Raises:
        ModelError: its vocabulary or the width of its head is another, or its context is too short.
    """
    if recipe.reference is None:
        return
    model, reference = load_model_config(recipe.model), load_model_config(recipe.reference_model)
    given = f"reference.path = {recipe.reference.path!r}"
    pieces = [load_tokenizer(each).get_vocab() for each in (recipe.model, recipe.reference_model)]
    widths = [each.get_text_config().vocab_size for each in (model, reference)]
    if pieces[0] != pieces[1] or widths[0] != widths[1]:
        how = f"{widths[1]} logits, not {widths[0]}" if widths[0] != widths[1] else "another tokenizer"
        raise ModelError(
            given,
            f"its tokens are not the model's ({how})",
            "Name a model of the same family: in a chain of runs, the one that the first run started from",
        )
    longest = recipe.text.max_length or min(DEFAULT_MAX_LENGTH, context_of(model))
    if context_of(reference) < longest:
        raise ModelError(
            given,
            f"its context is {context_of(reference)} tokens, and a pair may have {longest}",
            f"Set text.max_length to {context_of(reference)} or less",
        )


def encoded_pairs(run: StoredRun) -> Any:
    """Map a run's encoded pairs as a `datasets.Dataset`, refusing a file of another key."""
    return load_encoded(run.path(ENCODED), key=run.stages["reference"]["key"])
