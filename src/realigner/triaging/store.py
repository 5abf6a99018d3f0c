"""triage.parquet: the table that every later stage and every other tool reads. Its columns are a promise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.errors import DataError
from realigner.records import Direction, Label, Message, Outcome, Pair, RuleVerdict, Split, TriagedPair, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 1024
"""Rows that are held as Python objects when writing and when reading."""
TABLES = 8
"""So many of them make a row group: each has a description that the writer holds to the end, 30 kB of it."""
LATER = ("topic",)
"""Columns that came later: a file may lack them."""


@cache
def triage_schema() -> pa.Schema:
    """Return the columns of triage.parquet."""
    import pyarrow as pa

    text = pa.string()
    rules = pa.list_(pa.struct([("rule", text), ("label", text), ("reason", text)]))
    columns = [
        ("id", text),
        ("source", text),
        ("split", text),
        ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
        ("chosen", text),
        ("rejected", text),
        ("outcome", text),
        ("direction", text),
        ("chosen_verdict", text),
        ("rejected_verdict", text),
        ("verdicts", pa.struct([("chosen", rules), ("rejected", rules)])),
        ("reasons", pa.struct([("chosen", text), ("rejected", text)])),
    ]
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    return pa.schema([*fields, pa.field("correction", text), pa.field("topic", text)])


def write_triage(triaged: Iterable[TriagedPair], path: str | Path) -> int:
    """Write pairs as they come, some thousands at a time, and return their number.

    The file is complete only when this returns: give a temporary path and rename it then.

    Raises:
        DataError: a text is not valid Unicode, so that no file can hold it; the message names the pair.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, count = iter(triaged), 0
    tables: list[pa.Table] = []
    with pq.ParquetWriter(path, triage_schema(), compression="zstd") as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            try:
                tables.append(pa.Table.from_pylist([_to_row(item) for item in group], schema=triage_schema()))
            except UnicodeEncodeError:
                raise _refuse_surrogate(group) from None
            count += len(group)
            if len(tables) == TABLES or len(group) < GROUP_ROWS:
                writer.write_table(pa.concat_tables(tables))
                tables.clear()
        if tables:
            writer.write_table(pa.concat_tables(tables))
    return count


def read_triage(path: str | Path, split: Split | None = None) -> Iterator[TriagedPair]:
    """Stream the pairs of a triage file back, exactly as they were written, one row group at a time.

    Args:
        path: a file of `write_triage`.
        split: only this side; both by default.

    Raises:
        DataError: no such file, no Parquet file, or not the columns of a triage file; at once, not at the first row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    given = f"triage file {path}"
    if not Path(path).is_file():
        raise DataError(given, "no such file", "Run the stage first: realigner triage RUN")
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise DataError(given, f"it is not a Parquet file ({error})", "Run the stage triage again") from None
    wrong = [
        field.name
        for field in triage_schema()
        if (field.name not in schema.names and field.name not in LATER)
        or (field.name in schema.names and schema.field(field.name).type != field.type)
    ]
    if wrong:
        raise DataError(
            f"{given}: {', '.join(wrong)} missing or of another type",
            f"its columns are {', '.join(triage_schema().names)}",
            "Name a triage.parquet, or run the stage triage again",
        )
    return _rows(Path(path), split)


def _rows(path: Path, split: Split | None) -> Iterator[TriagedPair]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = [name for name in triage_schema().names if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):  # one reader over all of them holds more and more
            for batch in file.iter_batches(batch_size=GROUP_ROWS, row_groups=[group], columns=columns):
                for row in batch.to_pylist():
                    if split in (None, row["split"]):
                        yield _from_row(row)


def _to_row(triaged: TriagedPair) -> dict[str, Any]:
    pair, chosen, rejected = triaged.pair, triaged.chosen_verdict, triaged.rejected_verdict
    return {
        "id": pair.id,
        "source": pair.source,
        "split": triaged.split,
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "outcome": triaged.outcome.value,
        "direction": triaged.direction.value,
        "chosen_verdict": chosen.label.value,
        "rejected_verdict": rejected.label.value,
        "verdicts": {"chosen": _rules_to_rows(chosen), "rejected": _rules_to_rows(rejected)},
        "reasons": {"chosen": chosen.reason, "rejected": rejected.reason},
        "correction": triaged.correction,
        "topic": pair.topic,
    }


def _rules_to_rows(verdict: Verdict) -> list[dict[str, str]]:
    return [{"rule": rule.rule, "label": rule.label.value, "reason": rule.reason} for rule in verdict.rules]


def _from_row(row: dict[str, Any]) -> TriagedPair:
    prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"])
    return TriagedPair(
        pair=Pair(row["id"], prompt, row["chosen"], row["rejected"], row["source"], row.get("topic")),
        split=row["split"],
        chosen_verdict=_verdict_from_row(row, "chosen"),
        rejected_verdict=_verdict_from_row(row, "rejected"),
        outcome=Outcome(row["outcome"]),
        direction=Direction(row["direction"]),
        correction=row["correction"],
    )


def _verdict_from_row(row: dict[str, Any], side: str) -> Verdict:
    rules = tuple(RuleVerdict(r["rule"], Label(r["label"]), r["reason"]) for r in row["verdicts"][side])
    return Verdict(Label(row[f"{side}_verdict"]), rules, row["reasons"][side])


def _refuse_surrogate(group: list[TriagedPair]) -> DataError:
    """Find the pair that cannot be encoded. Replacing what is broken would judge one text and train on another."""
    for triaged in group:
        try:
            for text in _texts(_to_row(triaged)):
                text.encode("utf-8")
        except UnicodeEncodeError as error:
            return DataError(
                f"pair '{triaged.pair.id}' ({triaged.pair.source}) holds {error.object[error.start]!r}",
                "text must be valid Unicode, and half of a surrogate pair is not",
                "Correct the text, or leave the pair out",
            )
    raise AssertionError("every pair of the group can be encoded")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
