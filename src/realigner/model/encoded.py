"""The triaged pairs as tokens, with the reference's log-probabilities: one Arrow file that scoring and training map.

The file is read through memory mapping, so memory does not grow with the data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from realigner import ranks
from realigner.errors import StaleKeyError, TemplateError
from realigner.model.chat import Encoder
from realigner.model.logprobs import score_rows
from realigner.model.rows import Row
from realigner.progress import SILENT, Progress
from realigner.recipe import LossSettings
from realigner.records import Direction, Outcome, TriagedPair

RESPONSES = ("chosen", "rejected", "correction")
_KEY = b"realigner.key"
_CHUNK = 256

KEPT = {
    "chosen_hidden": pa.large_binary(),
    "chosen_hidden_dtype": pa.string(),
    "chosen_top_ids": pa.list_(pa.int32()),
    "chosen_top_logps": pa.list_(pa.float32()),
}
"""What the retain term needs of the reference, by `loss.kl_reference`; see retained.py."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("outcome", pa.string()),
        ("direction", pa.string()),
        *[
            field
            for name in RESPONSES
            for field in (
                (f"{name}_ids", pa.list_(pa.int32())),
                (f"{name}_start", pa.int32()),
                (f"{name}_logp", pa.float64()),
            )
        ],
        *KEPT.items(),
    ]
)


def responses_read(direction: Direction, outcome: Outcome, *, confirm: bool) -> tuple[str, ...]:
    """Return which responses' log-ratios the loss of a pair reads, preferred first where one is preferred.

    RETAIN reads none (its KL is against full distributions), unless the old preference on CONFIRM pairs is asked for.
    """
    match direction:
        case Direction.REJECTED_OVER_CHOSEN:
            return ("rejected", "chosen")
        case Direction.CORRECTION_OVER_CHOSEN:
            return ("correction", "chosen")
        case Direction.CORRECTION_OVER_BOTH:
            return ("correction", "chosen", "rejected")
        case Direction.SUPPRESS_BOTH:
            return ("chosen", "rejected")
        case Direction.RETAIN if confirm and outcome == Outcome.CONFIRM:
            return ("chosen", "rejected")
    return ()


def encode_triaged(triaged: Iterable[TriagedPair], encoder: Encoder) -> Iterator[dict[str, Any]]:
    """Yield pairs that training uses as dicts in `SCHEMA`'s form, without log-probabilities; skip UNDECIDED ones."""
    for item in triaged:
        if item.direction == Direction.NONE:
            continue
        texts = {"chosen": item.pair.chosen, "rejected": item.pair.rejected}
        if item.correction is not None:
            texts["correction"] = item.correction
        rows = encoder.encode(item.pair.id, item.pair.prompt, texts)
        if rows is None:
            continue
        example: dict[str, Any] = {"id": item.pair.id, "outcome": str(item.outcome), "direction": str(item.direction)}
        for name in RESPONSES:
            example[f"{name}_ids"] = list(rows[name].ids) if name in rows else None
            example[f"{name}_start"] = rows[name].start if name in rows else None
            example[f"{name}_logp"] = None
        yield {**example, **dict.fromkeys(KEPT)}


def encode_together(triaged: Iterable[TriagedPair], encoder: Encoder) -> Iterator[dict[str, Any]]:
    """Yield what `encode_triaged` does; inside `ranks.together`, each process encodes its share and all get the whole.

    The encoder's tally counts the whole in every process.

    Raises:
        TemplateError: as `Encoder.encode`, for the first pair that it refuses; in every process.
    """
    stream = iter(triaged)
    while items := list(islice(stream, _CHUNK * ranks.shares())):
        before = Counter(encoder.tally)
        parts = ranks.collect(_encode_share(ranks.share(items), encoder))
        encoder.tally = sum((Counter(part["tally"]) for part in parts), before)
        dealt = [(parts[i % len(parts)], i // len(parts)) for i in range(len(items))]
        for part, place in dealt:
            if place == len(part["examples"]):
                raise TemplateError(*part["refused"])
            if part["examples"][place] is not None:
                yield part["examples"][place]


def _encode_share(items: Sequence[TriagedPair], encoder: Encoder) -> dict[str, Any]:
    """Return examples (None where a pair is skipped), what they add to the tally, and the refusal that ended them."""
    before, examples, refused = Counter(encoder.tally), [], None
    for item in items:
        try:
            examples.append(next(encode_triaged([item], encoder), None))
        except TemplateError as error:  # told to the others, who would wait for this share
            refused = (error.given, error.rule, error.remedy)
            break
    return {"examples": examples, "tally": encoder.tally - before, "refused": refused}


def examples_of(pairs: Any, wanted: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield those of the encoded pairs that are wanted, in their order, without an index of them.

    Args:
        pairs: a `datasets.Dataset` in `SCHEMA`'s form.
        wanted: says so of each pair.
    """
    start = 0
    for chunk in pairs.with_format("arrow").iter(_CHUNK):
        yield from chunk.filter(pa.array(wanted[start : start + len(chunk)])).to_pylist()
        start += len(chunk)


def row_of(example: Mapping[str, Any], name: str) -> Row:
    """Return one response of an encoded pair as a row."""
    return Row(tuple(example[f"{name}_ids"]), example[f"{name}_start"])


def add_reference(examples: list[dict[str, Any]], model: Any, loss: LossSettings) -> None:
    """Fill in log p_ref(y|x) (nats, summed over the response) of every response whose log-ratio the loss reads.

    And what `loss.kl_reference` keeps of the reference's distributions on retained responses.
    """
    from realigner.model.retained import add_retained

    add_retained(examples, model, loss)
    confirm = loss.confirm > 0
    places = [
        (example, name)
        for example in examples
        for name in responses_read(Direction(example["direction"]), Outcome(example["outcome"]), confirm=confirm)
    ]
    if places:
        logps = score_rows(model, [row_of(example, name) for example, name in places])
        for (example, name), logp in zip(places, logps.tolist(), strict=True):
            example[f"{name}_logp"] = logp


def write_encoded(
    triaged: Iterable[TriagedPair],
    encoder: Encoder,
    reference: Any,
    path: str | Path,
    *,
    key: str,
    loss: LossSettings,
    progress: Progress = SILENT,
    total: int | None = None,
) -> int:
    """Encode pairs, score them under the reference model, and write the Arrow file; return how many were written.

    Args:
        triaged: the training side, streamed.
        encoder: its tally says afterwards what was cut or dropped.
        reference: the frozen model, as it scores now (an adapter that is to be trained is fresh or disabled).
        path: file to write.
        key: identity of model, tokenizer, template, adapter and data; `load_encoded` refuses another one.
        loss: which responses the losses read, and what the retain term needs kept of the reference.
        progress: where to show how far it is.
        total: number of pairs, if known.
    """
    count = 0
    examples = encode_together(triaged, encoder)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, SCHEMA.with_metadata({_KEY: key.encode()})) as writer,
        progress.task("reference log-probabilities", total) as advance,
    ):
        while chunk := list(islice(examples, _CHUNK)):
            add_reference(chunk, reference, loss)
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=SCHEMA))
            count += len(chunk)
            advance(len(chunk))
    return count


def load_encoded(path: str | Path, *, key: str) -> Any:
    """Map the Arrow file as a `datasets.Dataset`.

    Raises:
        StaleKeyError: it was made for another model, tokenizer, template, adapter or data.
    """
    from datasets import Dataset

    with pa.memory_map(str(path)) as source:
        found = (pa.ipc.open_stream(source).schema.metadata or {}).get(_KEY, b"").decode()
    if found != key:
        raise StaleKeyError(
            f"{path} was computed with key {found or 'none'}, this run needs {key}",
            "reference log-probabilities hold for one model, tokenizer, template, adapter and data set",
            "Delete the file, or run again with --redo",
        )
    return Dataset.from_file(str(path))
