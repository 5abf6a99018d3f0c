"""triage.parquet: its columns are a promise, and what is read is what was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.errors import DataError
from realigner.records import (
    Direction,
    Label,
    Message,
    Outcome,
    Pair,
    RuleVerdict,
    TriagedPair,
    Verdict,
    user_prompt,
)
from realigner.triaging import read_triage, store, write_triage
from realigner.triaging.store import triage_schema

# Every valid Unicode text: surrogates are no characters, and are tested below.
text = st.text(st.characters(exclude_categories=["Cs"]))
labels = st.sampled_from(list(Label))
verdicts = st.builds(Verdict, labels, st.lists(st.builds(RuleVerdict, text, labels, text), max_size=3).map(tuple), text)
messages = st.builds(lambda role, content: Message(role=role, content=content), text, text)
triaged_pairs = st.builds(
    TriagedPair,
    pair=st.builds(Pair, text, st.lists(messages, max_size=3).map(tuple), text, text, text),
    split=st.sampled_from(["train", "eval"]),
    chosen_verdict=verdicts,
    rejected_verdict=verdicts,
    outcome=st.sampled_from(list(Outcome)),
    direction=st.sampled_from(list(Direction)),
    correction=st.none() | text,
)


def example(name: str = "1", split: str = "train", chosen: str = "yes", source: str = "f:1") -> TriagedPair:
    verdict = Verdict(Label.COMPLIANT, (RuleVerdict("r", Label.COMPLIANT, "fine"),), "no rule is broken")
    return TriagedPair(
        Pair(name, user_prompt("q"), chosen, "no", source),
        "train" if split == "train" else "eval",
        verdict,
        verdict,
        Outcome.NEUTRAL,
        Direction.RETAIN,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(triaged_pairs, max_size=6))
def test_what_is_read_is_what_was_written(written: list[TriagedPair]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "triage.parquet"
        assert write_triage(written, path) == len(written)
        assert list(read_triage(path)) == written


def test_the_columns_are_the_promised_ones(tmp_path: Path) -> None:
    write_triage([example()], tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    rules = "list<element: struct<rule: string, label: string, reason: string>>"
    assert {field.name: str(field.type) for field in schema} == {
        "id": "string",
        "source": "string",
        "split": "string",
        "prompt": "list<element: struct<role: string, content: string>>",
        "chosen": "string",
        "rejected": "string",
        "outcome": "string",
        "direction": "string",
        "chosen_verdict": "string",
        "rejected_verdict": "string",
        "verdicts": f"struct<chosen: {rules}, rejected: {rules}>",
        "reasons": "struct<chosen: string, rejected: string>",
        "correction": "string",
        "topic": "string",
    }
    assert [field.name for field in schema if field.nullable] == ["correction", "topic"]


def test_other_tools_read_plain_values(tmp_path: Path) -> None:
    write_triage([example()], tmp_path / "t.parquet")
    row = pq.read_table(tmp_path / "t.parquet").to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "q"}]
    assert (row["outcome"], row["direction"], row["chosen_verdict"]) == ("NEUTRAL", "retain", "compliant")
    assert row["verdicts"]["rejected"] == [{"rule": "r", "label": "compliant", "reason": "fine"}]
    assert row["reasons"] == {"chosen": "no rule is broken", "rejected": "no rule is broken"}
    assert row["correction"] is None


def test_one_side_of_the_split_can_be_read_alone(tmp_path: Path) -> None:
    written = [example(str(i), "eval" if i % 3 == 0 else "train") for i in range(9)]
    write_triage(written, tmp_path / "t.parquet")
    assert [t.pair.id for t in read_triage(tmp_path / "t.parquet", split="eval")] == ["0", "3", "6"]
    assert [t.pair.id for t in read_triage(tmp_path / "t.parquet", split="train")] == ["1", "2", "4", "5", "7", "8"]


def test_rows_are_written_and_read_a_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GROUP_ROWS", 4)
    monkeypatch.setattr(store, "TABLES", 2)
    written = [example(str(i)) for i in range(20)]
    write_triage(iter(written), tmp_path / "t.parquet")
    file = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [8, 8, 4]
    assert list(read_triage(tmp_path / "t.parquet")) == written


def test_half_a_surrogate_pair_is_refused_and_its_pair_named(tmp_path: Path) -> None:
    pairs = [example("good"), example("odd", chosen="half \ud83d an emoji", source="data.jsonl:7")]
    with pytest.raises(DataError) as caught:
        write_triage(pairs, tmp_path / "t.parquet")
    assert str(caught.value) == (
        r"pair 'odd' (data.jsonl:7) holds '\ud83d': text must be valid Unicode, and half of a surrogate pair is not. "
        "Correct the text, or leave the pair out"
    )


def test_a_file_from_before_there_were_topics_is_read(tmp_path: Path) -> None:
    written = [example(str(i)) for i in range(3)]
    write_triage(written, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    pq.write_table(table.drop_columns(["topic"]), tmp_path / "old.parquet")
    assert list(read_triage(tmp_path / "old.parquet")) == written


def test_no_pairs_are_a_file_with_no_rows(tmp_path: Path) -> None:
    assert write_triage([], tmp_path / "t.parquet") == 0
    assert list(read_triage(tmp_path / "t.parquet")) == []


def test_a_file_that_is_no_triage_is_refused_before_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(DataError, match=r"no such file\. Run the stage first: realigner triage RUN"):
        read_triage(path)
    path.write_bytes(b"not parquet, though it is long enough to hold a footer")
    with pytest.raises(DataError, match="it is not a Parquet file"):
        read_triage(path)
    columns = {name: ["x"] for name in triage_schema().names if name not in ("prompt", "verdicts", "reasons", "split")}
    pq.write_table(pa.table({**columns, "prompt": [1]}), path)
    with pytest.raises(
        DataError, match=r"split, prompt, verdicts, reasons missing or of another type: its columns are id"
    ):
        read_triage(path)
