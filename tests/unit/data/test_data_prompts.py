from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realigner.data.prompts import read_prompts
from realigner.errors import DataError
from realigner.records import user_prompt


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl_parquet_and_csv_give_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"Goal": 'Say "a",\nb', "kind": "x"}, {"Goal": "c", "kind": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text('\ufeffGoal,kind\n"Say ""a"",\nb",x\nc,y\n', encoding="utf-8")
    files = [jsonl(tmp_path / "p.jsonl", *rows), tmp_path / "p.parquet", tmp_path / "p.csv"]
    found = [[(p.prompt, p.topic) for p in read_prompts(file, topic="kind")] for file in files]
    assert found[0] == found[1] == found[2] == [(user_prompt('Say "a",\nb'), "x"), (user_prompt("c"), "y")]


def test_messages_are_prompts_and_a_prompt_counts_once(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path = jsonl(tmp_path / "p.jsonl", {"prompt": turns}, {"prompt": "a"}, {"prompt": turns})
    assert [len(read.prompt) for read in read_prompts(path)] == [3, 1]


@pytest.mark.parametrize(
    "prompt",
    ["", " \n", None, 7, [], [{"role": "assistant", "content": "a"}], [{"role": "x", "content": "a"}], "\ud83d"],
)
def test_what_is_no_prompt_is_refused_with_its_place(tmp_path: Path, prompt: Any) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "fine"}, {"prompt": prompt})
    with pytest.raises(DataError, match=r"p\.jsonl:2: the prompt is .*: a prompt is valid Unicode text"):
        read_prompts(path)


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bytes.csv").write_bytes(b"prompt\n\xff\n")
    with pytest.raises(DataError, match="it has no row"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_prompts(tmp_path / "bytes.csv")
    with pytest.raises(DataError, match=r"it holds a list|it holds one JSON list"):
        read_prompts(jsonl(tmp_path / "list.jsonl", ["a"]))
    with pytest.raises(DataError, match="no column 'about': its columns are prompt"):
        read_prompts(jsonl(tmp_path / "p.jsonl", {"prompt": "a"}), topic="about")


@pytest.mark.shared
def test_xstest_and_advbench_are_read(shared_path: Path) -> None:
    safe = read_prompts(shared_path / "data" / "xstest" / "xstest_prompts.csv", topic="label")
    assert len(safe) == 450
    assert {read.topic for read in safe} == {"safe", "unsafe"}
    assert len(read_prompts(shared_path / "data" / "advbench" / "harmful_behaviors.csv")) == 520
