"""The journal of candidates: nothing is lost, nothing is read twice, and a killed writer leaves it whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from realigner.corrections.journal import Draft, Journal, candidate_key
from realigner.errors import OracleError
from realigner.records import user_prompt


def test_what_was_added_is_found_again_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    odd = Draft("line\nbreak \u2028 and \ud800 half", "stop", model="m", seed=3, input_tokens=5, output_tokens=7)
    with Journal.open(path) as journal:
        assert journal.find("a") is None
        journal.add("a", odd, {"id": "1"})
        journal.add("b", Draft("cut", "length"), {"id": "2"})
        assert journal.find("a") == odd
    with Journal.open(path) as journal:
        assert len(journal) == 2
        assert journal.find("a") == odd
        assert journal.find("b") == Draft("cut", "length")
        journal.add("c", Draft("more", "stop"), {})
        assert journal.find("a") == odd
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["key"], line.get("id")) for line in lines] == [("a", "1"), ("b", "2"), ("c", None)]


def test_the_key_is_writer_prompt_and_number() -> None:
    key = candidate_key("w", user_prompt("q"), 0)
    others = [candidate_key("v", user_prompt("q"), 0), candidate_key("w", user_prompt("r"), 0)]
    assert len({key, candidate_key("w", user_prompt("q"), 1), *others}) == 4


def test_an_unfinished_last_line_is_cut_off_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal.open(path) as journal:
        journal.add("a", Draft("one", "stop"), {})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with Journal.open(path) as journal:
        assert len(journal) == 1
        journal.add("b", Draft("two", "stop"), {})
    with Journal.open(path) as journal:
        assert journal.find("b") == Draft("two", "stop")


@pytest.mark.parametrize("line", ["{}", "not json", '{"format": 99, "key": "a", "draft": {}}', "[]"])
def test_a_file_that_is_no_journal_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(OracleError, match=r"journal\.jsonl, line 1: it is no line of a journal"), Journal.open(path):
        pass


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with (
        Journal.open(path),
        pytest.raises(OracleError, match="another process writes to it"),
        Journal.open(path),
    ):
        pass


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OracleError, match=r"cannot be written .*Set corrections\.generate\.journal"),
        Journal.open(tmp_path / "file" / "journal.jsonl"),
    ):
        pass


PROGRAM = """
import sys
from realigner.corrections.journal import Draft, Journal
with Journal.open(sys.argv[1]) as journal:
    for number in range(10**6):
        journal.add(str(number), Draft("text " * 50, "stop"), {})
        print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_had_added(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 200:
                break
        os.kill(process.pid, signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().splitlines()]
    with Journal.open(path) as journal:
        for number in range(max(said, default=200) + 1):
            assert journal.find(str(number)) is not None
