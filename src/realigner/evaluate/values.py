"""Which values moved, and by how much: questions with two answers, scored by log-likelihood before and after.

The score of an item is log p(high answer) − log p(low answer) in nats, every way to write either added up. Times the
item's key it is the lean towards the value; what is reported is the mean change of that lean over a value's items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.atomic import hash_of
from realigner.errors import DataError, RecipeError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import Evidence, Source
from realigner.evaluate.parts import Comparison, file_identity
from realigner.evaluate.utility import slug
from realigner.evaluate.value_items import YES_NO, Answers, ValueItem, draw_items, read_items, set_name
from realigner.evaluate.value_summary import summarise
from realigner.recipe_evaluate import ValuesSettings
from realigner.records import user_prompt

if TYPE_CHECKING:
    import pyarrow as pa

ON_A_SCALE = "Answer with one number."


def inputs(settings: ValuesSettings) -> dict[str, Any]:
    """Return the identities of the files of items, with the names that they give to figures; each is read once.

    Raises:
        RecipeError: a file is not there or in no known form, or two sets have one name.
        DataError: a file cannot be read as items.
    """
    names = [slug(set_name(source)) for source in settings.sets]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"evaluate.values: two sets named '{twice}'", "each has a name of its own", "Set their name")
    found = {
        name: [
            set_name(source),
            file_identity(source.path, f"evaluate.values.sets.{name}.path"),
            *([file_identity(source.questions, f"evaluate.values.sets.{name}.questions")] if source.questions else []),
        ]
        for name, source in zip(names, settings.sets, strict=True)
    }
    for source in settings.sets:
        read_items(source)
    return found


def measure(settings: ValuesSettings, comparison: Comparison) -> Evidence:
    """Ask both models every item, and say which values moved.

    Raises:
        DataError: a file of items cannot be read, or no item is left.
        ModelError: a tokenizer cannot write one of the answers.
    """
    encoders = {side: comparison.encoder(side) for side in SIDES}
    read = [draw_items(read_items(source), settings.limit, comparison.seed) for source in settings.sets]
    # A control token in a question would be read as structure. Both models are asked the same items.
    usable = [
        [item for item in items if not any(e.control_token([item.question]) for e in encoders.values())]
        for items in read
    ]
    items = [item for found in usable for item in found]
    if not items:
        raise DataError("evaluate.values", "no item is left to ask", "Give files without control tokens")
    scores: dict[str, Mapping[tuple[str, Answers], tuple[float, float]]] = {}
    cut = 0
    for side in SIDES:
        answered = comparison.kept(f"values-{side}", partial(_ask, settings, comparison, items, side))
        scores[side] = _by_question(answered)
        cut = max(cut, int((answered.schema.metadata or {}).get(b"cut", b"0")))
    found = [_scored(item, scores) for item in items]
    figures, tables, moved = summarise(found)
    sources = [
        Source(set_name(source), hash_of(Path(source.path)).rpartition(":")[2], len(used), source.path)
        for source, used in zip(settings.sets, usable, strict=True)
    ]
    lost = sum(len(items) for items in read) - len(items)
    warnings = [*moved]
    if lost:
        warnings.append(f"{lost} items hold a control token of a tokenizer and were left out.")
    if cut:
        warnings.append(f"{cut} questions were longer than text.max_length allows and lost their beginning.")
    return Evidence(figures, tables, tuple(sources), tuple(warnings), _rows(found))


def prompt_of(question: str, answers: Answers, instruction: str) -> str:
    """Return what a model is asked: the question, and how to answer it."""
    return f"{question}\n\n{instruction if answers == YES_NO else ON_A_SCALE}".strip()


def _ask(settings: ValuesSettings, comparison: Comparison, items: Sequence[ValueItem], side: str) -> pa.Table:
    """Return the log-probabilities of both answers to each distinct question by one model."""
    import pyarrow as pa

    from realigner.model.yes_no import YesNoScorer, answer_tokens

    model, encoder = comparison.load(side)
    asked = list(dict.fromkeys((item.question, item.answers) for item in items))
    rows: list[dict[str, Any]] = []
    with comparison.progress.task(f"values {side}", len(asked)) as advance:
        for answers in dict.fromkeys(answers for _, answers in asked):
            questions = [question for question, given in asked if given == answers]
            tokens = answer_tokens(encoder.tokenizer, answers.high, answers.low)
            longest = max(len(ids) for ids in (*tokens.yes, *tokens.no))
            prompts = [user_prompt(prompt_of(question, answers, settings.instruction)) for question in questions]
            ids = [encoder.prompt_ids(prompt, longest) for prompt in prompts]
            pad = encoder.tokenizer.pad_token_id
            scorer = YesNoScorer(model, tokens, pad=0 if pad is None else pad)
            for place, scored in scorer.score(ids, settings.batch_size):
                rows.append(
                    {
                        "question": questions[place],
                        "high_words": list(answers.high),
                        "low_words": list(answers.low),
                        "high": scored.yes,
                        "low": scored.no,
                    }
                )
                advance(1)
    cut = encoder.tally["cut_generation_prompts"]
    return pa.Table.from_pylist(rows).replace_schema_metadata({"cut": str(cut)})


def _by_question(table: pa.Table) -> Mapping[tuple[str, Answers], tuple[float, float]]:
    return {
        (row["question"], Answers(tuple(row["high_words"]), tuple(row["low_words"]))): (row["high"], row["low"])
        for row in table.to_pylist()
    }


def _scored(item: ValueItem, scores: Mapping[str, Mapping[tuple[str, Answers], tuple[float, float]]]) -> dict[str, Any]:
    """Return one row: the item with the log-probabilities of both answers before and after."""
    place = (item.question, item.answers)
    row: dict[str, Any] = {
        "id": item.id,
        "set": item.set,
        "value": item.value,
        "key": item.key,
        "question": item.question,
    }
    for side in SIDES:
        row[f"{side}_high"], row[f"{side}_low"] = scores[side][place]
    lean = {side: item.key * (row[f"{side}_high"] - row[f"{side}_low"]) for side in SIDES}
    return {**row, "before": lean["before"], "after": lean["after"], "change": lean["after"] - lean["before"]}


def _rows(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in found])
