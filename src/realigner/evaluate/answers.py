"""Answers of two models to the same prompts, as rows that explain themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from realigner.evaluate.agreement import Answered
from realigner.model.chat import Encoder
from realigner.model.generate import generate
from realigner.model.load import load_model, load_model_config
from realigner.model.stage import recipe_encoder
from realigner.progress import Progress
from realigner.recipe import ModelSettings, Recipe
from realigner.records import Judgement, Message, Prompt, TriagedPair, Verdict, prompt_key

_PROMPT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_RULES = pa.list_(pa.struct([("rule", pa.string()), ("label", pa.string()), ("reason", pa.string())]))
RESPONSES = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_id", pa.string()),
        ("pair_id", pa.string()),
        ("outcome", pa.string()),
        ("topic", pa.string()),
        ("model", pa.string()),
        ("sample", pa.int64()),
        ("prompt", _PROMPT),
        ("response", pa.string()),
        ("finish", pa.string()),
        ("tokens", pa.int64()),
        ("seed", pa.int64()),
        ("settings", pa.string()),
    ]
)
JUDGEMENTS = pa.schema(
    [("response_id", pa.string()), ("label", pa.string()), ("rules", _RULES), ("reason", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that both models answer, and what it is a case of."""

    prompt: Prompt
    pair_id: str = ""
    """The held-out pair that stands for it; empty where the prompt comes from elsewhere."""
    outcome: str = ""
    """What triage said of that pair."""
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of responses.parquet, and what was counted on the way."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def question_of(item: TriagedPair) -> Question:
    """Return the question that a held-out pair stands for."""
    return Question(item.pair.prompt, item.pair.id, item.outcome.value, item.pair.topic)


def answer(
    models: Mapping[str, ModelSettings], questions: Sequence[Question], recipe: Recipe, progress: Progress
) -> Answers:
    """Let each model answer every question `generate.samples` times; one model is in memory at a time.

    A prompt that holds a control token of either tokenizer would be read as structure: it is left out and counted.

    Args:
        models: by the name they have in the rows, `before` and `after`.
        questions: of distinct prompts.
        recipe: its `text`, `generate` and `seed` say how.
        progress: counts answers.
    """
    encoders = {side: _encoder(recipe, model) for side, model in models.items()}
    asked = [question for question in questions if not any(_has_control(question, e) for e in encoders.values())]
    rows, finished = [], {}
    for side, settings in models.items():
        answered = _answers_of(side, settings, encoders[side], asked, recipe, progress)
        finished[side] = sum(row["finish"] == "stop" for row in answered) / max(len(answered), 1)
        rows += answered
    cut = max((encoder.tally["cut_generation_prompts"] for encoder in encoders.values()), default=0)
    facts = {
        "prompts": len(asked),
        "left_out_control_token": len(questions) - len(asked),
        "ended_by_themselves": finished,
        "cut_prompts": cut // recipe.generate.samples,
    }
    return Answers(rows, facts)


def answered_in(rows: Sequence[Mapping[str, Any]]) -> list[Answered]:
    """Return what the rows of one model are answers to, in their order."""
    return [Answered(row["prompt_id"], row["outcome"], row.get("topic") or "") for row in rows]


def judgement_of(row: Mapping[str, Any]) -> Judgement:
    """Return the question to a judge that a row of responses.parquet is."""
    return Judgement(tuple(Message(role=m["role"], content=m["content"]) for m in row["prompt"]), row["response"])


def judgement_rows(rows: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict]) -> pa.Table:
    """Return judgements.parquet: one row for each row of responses.parquet, in its order."""
    found = [
        {
            "response_id": row["id"],
            "label": str(verdict.label),
            "rules": [{"rule": r.rule, "label": str(r.label), "reason": r.reason} for r in verdict.rules],
            "reason": verdict.reason,
        }
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    return pa.Table.from_pylist(found, schema=JUDGEMENTS)


def _encoder(recipe: Recipe, model: ModelSettings) -> Encoder:
    """Return the encoder of a model with the tokenizer that was saved beside it."""
    return recipe_encoder(recipe.model_copy(update={"model": model}), load_model_config(model))


def _has_control(question: Question, encoder: Encoder) -> bool:
    return encoder.control_token(message["content"] for message in question.prompt) is not None


def _answers_of(
    side: str,
    settings: ModelSettings,
    encoder: Encoder,
    questions: Sequence[Question],
    recipe: Recipe,
    progress: Progress,
) -> list[dict[str, Any]]:
    samples, how = recipe.generate.samples, json.dumps(recipe.generate.model_dump(mode="json"), sort_keys=True)
    each = [(question, sample) for sample in range(samples) for question in questions]
    prompts = [question.prompt for question, _ in each]
    responses = generate(
        load_model(settings),
        encoder,
        prompts,
        recipe.generate,
        seed=recipe.seed,
        progress=progress,
        label=f"answers {side}",
        shared=True,
    )
    rows = []
    for (question, sample), response in zip(each, responses, strict=True):
        prompt_id = prompt_key(question.prompt)
        rows.append(
            {
                "id": f"{prompt_id}-{side}" + (f"-{sample}" if sample else ""),
                "prompt_id": prompt_id,
                "pair_id": question.pair_id,
                "outcome": question.outcome,
                "topic": question.topic,
                "model": side,
                "sample": sample,
                "prompt": list(question.prompt),
                "response": response.text,
                "finish": response.finish,
                "tokens": response.tokens,
                "seed": response.seed,
                "settings": how,
            }
        )
    return rows
