from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from audited import NO, UNSURE, YES, verdict, world

from realigner.audit import AuditItem, Unit, draw, draw_sample
from realigner.audit.keyfile import Key, read_key, write_key
from realigner.audit.sheet import audit_of, read_sheet, write_sheets
from realigner.errors import AuditError
from realigner.records import Message, user_prompt

HOSTILE = (
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(A1)",
    "\ttab",
    "'quoted'",
    "a\x00b\x1b[31m",
    'quo"te, comma; semi\nline\r\nend ',
    "\ufeffmark \u2028 separator",
    "😀 שלום",
)


def hostile_items() -> tuple[AuditItem, ...]:
    units = [
        Unit(
            f"u{i}", (*user_prompt(text), Message(role="assistant", content="x")), text, verdict(), "NEUTRAL", "chosen"
        )
        for i, text in enumerate(HOSTILE)
    ]
    return draw(lambda: units, 100, 0).questions


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_neither_sheet_holds_a_verdict_an_outcome_a_side_or_a_model(tmp_path: Path) -> None:
    sample = draw_sample(world(300), 100)
    jsonl, table = write_sheets(sample.questions, "a1", tmp_path / "sheet")
    for row in rows_of(jsonl):
        assert set(row) == {"audit", "item", "prompt", "response", "label", "rules", "note", "annotator"}
        assert (row["label"], row["rules"], row["note"], row["annotator"]) == ("", [], "", "")
    for path in (jsonl, table):
        text = path.read_text()
        for word in ("compliant", "INVERT", "PUNISH", "no-blame", "stratum", "weight"):
            assert word not in text, word


def test_filled_sheets_give_the_same_answers_from_jsonl_and_csv_whatever_the_texts(tmp_path: Path) -> None:
    items = hostile_items()
    jsonl, table = write_sheets(items, "a1", tmp_path / "ann")
    rows = rows_of(jsonl)
    with table.open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    for i, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        row["label"] = cell["label"] = ("compliant", "Non-compliant", " UNSURE ")[i % 3]
        row["rules"] = ["cite", "short"] if i % 3 == 1 else []
        cell["rules"] = "cite; short" if i % 3 == 1 else ""
        row["note"] = cell["note"] = "why, so"
    write_rows(jsonl, rows)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    found = read_sheet(jsonl, "a1", items)
    assert found == read_sheet(table, "a1", items)
    assert [answer.label for answer in found[:3]] == [YES, NO, UNSURE]
    assert found[1].rules == ("cite", "short")
    assert {answer.annotator for answer in found} == {"ann"}
    assert audit_of(jsonl) == audit_of(table) == "a1"


def test_no_cell_of_a_csv_sheet_is_a_formula(tmp_path: Path) -> None:
    _, table = write_sheets(hostile_items(), "a1", tmp_path / "sheet")
    assert "\x00" not in table.read_text()
    assert "\x1b" not in table.read_text()
    with table.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            for cell in row.values():
                assert not cell.startswith(("=", "+", "-", "@", "\t")), cell


def test_a_spreadsheet_may_write_semicolons_and_other_line_ends(tmp_path: Path) -> None:
    sample = draw_sample(world(300), 20)
    _, table = write_sheets(sample.questions, "a1", tmp_path / "ann")
    with table.open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    for cell in cells:
        cell["label"], cell["annotator"] = "compliant", "bea"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, cells[0], delimiter=";", lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    assert {answer.annotator for answer in read_sheet(table, "a1", sample.questions)} == {"bea"}
    assert len(read_sheet(table, "a1", sample.questions)) == 20


def test_a_sheet_is_never_overwritten(tmp_path: Path) -> None:
    sample = draw_sample(world(300), 20)
    write_sheets(sample.questions, "a1", tmp_path / "sheet")
    with pytest.raises(AuditError, match=r"sheet\.jsonl: it is there, and may hold answers\. Name another file"):
        write_sheets(sample.questions, "a1", tmp_path / "sheet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": "another text"}, r"line 1: the response of item \w+ was changed: an answer must be about what"),
        ({"prompt": ""}, r"line 1: the prompt of item \w+ was changed"),
        ({"item": "123"}, "line 1: item 123: this audit did not ask about it"),
        ({"audit": "b2"}, "line 1: audit b2: this audit is a1"),
        ({"label": "good"}, "label 'good': people say compliant, non_compliant or unsure"),
        ({"label": "invalid"}, "label 'invalid': people say compliant, non_compliant or unsure"),
        ({"label": "", "rules": ["cite"]}, "names the rules cite and has no label"),
        ({"rules": 7}, "rules = 7: it must be text"),
    ],
)
def test_a_sheet_that_is_wrong_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    sample = draw_sample(world(300), 20)
    jsonl, _ = write_sheets(sample.questions, "a1", tmp_path / "ann")
    rows = [{**row, "label": "compliant"} for row in rows_of(jsonl)]
    write_rows(jsonl, [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(AuditError, match=message):
        read_sheet(jsonl, "a1", sample.questions)


def test_files_that_are_no_sheets_are_refused(tmp_path: Path) -> None:
    items = draw_sample(world(300), 20).questions
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lines.jsonl").write_text('{"audit": "a1"\n')
    (tmp_path / "other.csv").write_text("name,age\nann,7\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(AuditError, match="no such file"):
        read_sheet(tmp_path / "none.csv", "a1", items)
    with pytest.raises(AuditError, match="cannot be read as UTF-8 text"):
        read_sheet(tmp_path / "bytes", "a1", items)
    with pytest.raises(AuditError, match=r"lines\.jsonl, line 1: it is no JSON object"):
        read_sheet(tmp_path / "lines.jsonl", "a1", items)
    with pytest.raises(AuditError, match=r"other\.csv, row 2: no audit, item, label: a sheet has audit, item, prompt"):
        read_sheet(tmp_path / "other.csv", "a1", items)
    assert read_sheet(tmp_path / "empty.csv", "a1", items) == []


def test_rows_without_a_label_are_no_answers(tmp_path: Path) -> None:
    sample = draw_sample(world(300), 20)
    jsonl, table = write_sheets(sample.questions, "a1", tmp_path / "ann")
    assert read_sheet(jsonl, "a1", sample.questions) == read_sheet(table, "a1", sample.questions) == []


def test_a_key_is_read_back_as_it_was_written_and_not_if_it_was_altered(tmp_path: Path) -> None:
    sample = draw_sample(world(300), 60, seed=3)
    key = Key("triage", 60, "d1", "sha256:1", "rules", "kind 1 abc", 0, sample)
    path = tmp_path / "key.json"
    write_key(key, path)
    assert read_key(path) == key
    content = json.loads(path.read_text())
    assert sum(row["weight"] for row in content["items"]) == pytest.approx(600)
    content["items"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(AuditError, match="it was altered after the draw"):
        read_key(path)
    path.write_text("{}")
    with pytest.raises(AuditError, match="it is not a key that this version"):
        read_key(path)
