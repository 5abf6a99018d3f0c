"""A study file: what it may say, what it refuses in words, and that its hash is over everything that is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from review_study import KINDS, SYSTEMS, lines, make_study, rows_of, write_study

from realigner.errors import ReviewError
from realigner.review import load_study
from realigner.review.study import read_key


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = folder / "study.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))
    return folder


def test_a_study_is_read_with_its_items_and_the_wording_of_its_policy(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert list(study.tasks) == list(KINDS)
    assert [len(task.items) for task in study.tasks.values()] == [6, 6, 6, 6]
    assert study.tasks["preference"].items[0].texts == ("Response 1 to 0.", "Response 2 to 0.", "Response 3 to 0.")
    assert study.tasks["audit"].items[0].judge[0].rules == ("no-dosage",)
    assert study.wording is not None
    assert study.wording.rule_ids == ("no-dosage", "kind")
    assert study.task("audit").settings.asks == "Does this response keep the policy?"


def test_code_in_a_policy_is_not_run_for_its_wording(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    (folder / "boom.py").write_text("raise SystemExit('code was run')")
    policy = yaml.safe_load((folder / "policy.yaml").read_text())
    policy["rules"][0]["forbid"] = {"python": "boom:check"}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    wording = load_study(folder).wording
    assert wording is not None
    assert wording.rules[0].text.startswith("Do not state")


@pytest.mark.parametrize("name", ["study.yaml", "audit.jsonl", "systems.jsonl", "policy.yaml"])
def test_the_hash_is_over_every_file_that_a_study_is_made_of(tmp_path: Path, name: str) -> None:
    folder = write_study(tmp_path)
    before = load_study(folder).hash
    assert load_study(folder).hash == before
    text = (folder / name).read_text()
    (folder / name).write_text(
        text.replace("Question 0", "Question 00")
        .replace("Quill", "Kuill")
        .replace("blame", "scold")
        .replace("fair", "just")
    )
    assert load_study(folder).hash != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("title"), r"title: missing"),
        (lambda c: c.update(titel="x"), r"titel: unknown key \(Did you mean 'title'\?\)"),
        (lambda c: c.update(tasks=[]), r"tasks: '\[\]': .*at least 1"),
        (lambda c: c["tasks"][0].update(kind="vote"), r"tasks\.1\.kind: 'vote': .*'audit'"),
        (lambda c: c["tasks"][0].update(id="../up"), r"tasks\.1\.id: '\.\./up'"),
        (lambda c: c["tasks"][0].update(overlap=2), r"tasks\.1\.overlap: '2': .*less than or equal to 1"),
        (lambda c: c["tasks"][1].update(id="audit"), r"task id 'audit' is used twice"),
        (lambda c: c["tasks"][1].pop("key"), r"a preference task needs `key`"),
        (lambda c: c["tasks"][0].update(ties=False), r"ties: belongs to kind preference, not to audit"),
        (lambda c: c["tasks"][0].update(items="../study.yaml"), r"files of a study lie in its folder"),
        (lambda c: c["tasks"][0].update(items="/etc/hostname"), r"files of a study lie in its folder"),
        (lambda c: c["tasks"][0].update(items="none.jsonl"), r"task 'audit': none\.jsonl: no such file"),
        (lambda c: c.update(policy="study.yaml"), r"policy study\.yaml: version: Field required"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_place_and_the_rule(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = edit(write_study(tmp_path / "study"), change)
    with pytest.raises(ReviewError, match=message):
        load_study(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "a study is a mapping"),
        (b"id: [\n", r"line 2: it is not valid YAML"),
        (b"id: \xff\n", "byte 4: it is not UTF-8"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(ReviewError, match=message):
        load_study(tmp_path)
    with pytest.raises(ReviewError, match=r"no such file.*realigner review new"):
        load_study(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("audit", "nonsense", r"audit\.jsonl:2: each line must be one JSON object"),
        ("audit", '{"id": "a", "prompt": "p"}', r"audit\.jsonl:2: response: Field required"),
        ("audit", '{"id": "a", "prompt": [], "response": "r"}', r"audit\.jsonl:2: prompt"),
        (
            "audit",
            '{"id": "a", "prompt": "p", "response": "r", "system": "x"}',
            r"system: unknown key; an item of kind",
        ),
        (
            "audit",
            '{"id": "pair-0/chosen", "prompt": "p", "response": "r"}',
            r"id 'pair-0/chosen': an id is given once",
        ),
        ("audit", '{"id": "a", "prompt": "p", "response": "\\ud83d"}', r"response: .*unicode"),
        ("preference", '{"id": "a", "prompt": "p", "responses": ["one"]}', r"responses: .*at least 2"),
        ("preference", '{"id": "a", "prompt": "p", "responses": [' + '"x", ' * 9 + '"x"]}', r"responses: .*at most 9"),
        ("correction", '{"id": "a", "prompt": "p", "chosen": "c"}', r"rejected: Field required"),
    ],
)
def test_a_wrong_item_is_refused_with_its_line(tmp_path: Path, kind: str, line: str, message: str) -> None:
    folder = write_study(tmp_path)
    lines(folder / f"{kind}.jsonl", rows_of(kind, 1))
    with (folder / f"{kind}.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ReviewError, match=message):
        load_study(folder)


def test_a_task_without_items_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    (folder / "audit.jsonl").write_text("\n")
    with pytest.raises(ReviewError, match="it has no line"):
        load_study(folder)


def test_a_line_separator_inside_a_text_does_not_break_a_line(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    lines(folder / "audit.jsonl", [{"id": "a", "prompt": "one\u2028two\x85three", "response": "r\u2029s"}])
    item = load_study(folder).tasks["audit"].items[0]
    assert (item.prompt[0]["content"], item.texts) == ("one\u2028two\x85three", ("r\u2029s",))


def test_the_key_says_whose_each_response_is(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    key = read_key(study, study.tasks["preference"])
    assert key["item-3"] == SYSTEMS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "item-0"}], r"systems\.jsonl:1: each line is"),
        ([{"id": "other", "systems": ["a", "b", "c"]}], r"id 'other': each item of the task stands here once"),
        ([{"id": "item-0", "systems": ["a", "b"]}], r"an item has one system for each response"),
        ([{"id": "item-0", "systems": ["a", "a", "b"]}], r"an item has one system for each response"),
        ([{"id": "item-0", "systems": ["a", "b", "c"]}], r"no line for item 'item-1'"),
    ],
)
def test_a_key_that_does_not_fit_the_items_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    folder = write_study(tmp_path)
    lines(folder / "systems.jsonl", rows)
    study = load_study(folder)
    with pytest.raises(ReviewError, match=message):
        read_key(study, study.tasks["preference"])


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match=r"task 'audits': the study's tasks are audit, .*Did you mean 'audit'"):
        make_study(tmp_path).task("audits")
