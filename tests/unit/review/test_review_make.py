"""New studies: drawn from a run or a file, blind, reproducible, ready to be served, and refused with a reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from review_run import triaged, write_review_run

from realigner.audit.keyfile import read_key as read_audit_key
from realigner.errors import ReviewError, RunDirError
from realigner.records import Outcome
from realigner.review import load_study
from realigner.review.make import Wanted, new_study
from realigner.review.study import read_key


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_review_run(tmp_path_factory.mktemp("one") / "run")


def test_a_study_of_everything_from_a_run(run: Path, tmp_path: Path) -> None:
    wanted = Wanted(audit=40, preference=12, corrections=5, undecided=True)
    made = new_study(tmp_path / "Spring Review", wanted, run=run, seed=3)
    assert made.items == {"audit": 40, "preference": 12, "correction": 4, "undecided": 30}
    study = load_study(made.directory)
    assert study.settings.id == "spring-review"
    assert study.wording is not None
    assert study.wording.id == "clinic"
    # What people see first says to read the policy, and the file says until when it may be edited.
    assert "before the first answer" in (made.directory / "study.yaml").read_text()
    settings = {task.id: task.settings for task in study.tasks.values()}
    assert (settings["preference"].overlap, settings["audit"].overlap, settings["correction"].overlap) == (
        1.0,
        0.2,
        0.0,
    )
    truth = {item.pair.id: item for item in triaged(60)}
    for item in study.tasks["correction"].items:
        pair = truth[item.pair]
        assert (pair.outcome, pair.correction, pair.split) == (Outcome.PUNISH, None, "train")
        assert item.texts == (pair.pair.chosen, pair.pair.rejected)
        assert item.judge[0].rules == ("no-dosage",)
    assert Counter(item.side for item in study.tasks["undecided"].items) == {"chosen": 20, "rejected": 10}
    assert {item.judge[0].label for item in study.tasks["undecided"].items} == {"unsure"}


def test_the_audit_is_drawn_by_the_audit_and_its_key_stays_in_the_run(run: Path, tmp_path: Path) -> None:
    made = new_study(tmp_path / "s", Wanted(audit=30), run=run)
    study = load_study(made.directory)
    task = study.tasks["audit"]
    key = read_audit_key(run / "audit" / f"triage-{task.settings.audit}.key.json")
    assert [item.id for item in task.items] == [item.id for item in key.sample.questions]
    by_unit = {item.id: item for item in key.sample.questions}
    for item in task.items:
        assert item.texts == (by_unit[item.id].response,)
        assert item.judge[0].label == by_unit[item.id].kind.label.value
    assert {file.name for file in (made.directory / "sheets").iterdir()} == {
        "audit.jsonl",
        "audit.csv",
        "audit.policy.txt",
    }


def test_the_answers_of_the_models_are_audited_in_a_task_of_their_own(run: Path, tmp_path: Path) -> None:
    made = new_study(tmp_path / "s", Wanted(audit=12, audit_answers=20), run=run)
    assert made.items == {"audit": 12, "audit-answers": 20}
    task = load_study(made.directory).tasks["audit-answers"]
    key = read_audit_key(run / "audit" / f"evaluation-{task.settings.audit}.key.json")
    assert [item.id for item in task.items] == [item.id for item in key.sample.questions]
    units = {item.id: item.unit for item in key.sample.questions}
    assert all(item.judge[0].reason == f"because {units[item.id]}" for item in task.items)
    # Whose answer it is stands in the key alone, which stays in the run.
    shown = [(item.id, item.pair, item.side) for item in task.items]
    assert not [text for row in shown for text in row if "before" in text or "after" in text]


def test_the_same_seed_draws_the_same_items_and_another_others(run: Path, tmp_path: Path) -> None:
    wanted = Wanted(preference=8, corrections=3)
    one, same, other = (new_study(tmp_path / f"s{n}", wanted, run=run, seed=seed) for n, seed in enumerate((1, 1, 2)))
    for name in ("preference.jsonl", "systems.jsonl", "correction.jsonl"):
        text = (one.directory / name).read_text()
        assert (same.directory / name).read_text() == text
        assert (other.directory / name).read_text() != text


def test_responses_of_a_run_are_its_model_before_and_after_in_no_order_that_tells(run: Path, tmp_path: Path) -> None:
    made = new_study(tmp_path / "s", Wanted(preference=20), run=run)
    assert set(made.systems) == {"run before", "run after"}
    study = load_study(made.directory)
    key = read_key(study, study.tasks["preference"])
    for item in study.tasks["preference"].items:
        assert [text.split()[2].rstrip(".") for text in item.texts] == [name.split()[1] for name in key[item.id]]
    first = Counter(systems[0] for systems in key.values())
    assert 4 <= first["run after"] <= 16
    text = (made.directory / "study.yaml").read_text() + (made.directory / "preference.jsonl").read_text()
    assert "run after" not in text


def test_triplets_are_the_models_of_three_runs(run: Path, tmp_path: Path) -> None:
    others = tuple(write_review_run(tmp_path / name / "run", prompts=15) for name in ("two", "three"))
    made = new_study(tmp_path / "s", Wanted(preference=100, against=others), run=run)
    assert made.items == {"preference": 15}  # the prompts that all have
    assert sorted(name.split("/")[-2][:3] for name in made.systems) == ["one", "thr", "two"]
    assert all(len(item.texts) == 3 for item in load_study(made.directory).tasks["preference"].items)


def test_a_file_of_responses_needs_no_run_and_self_naming_ones_are_counted(tmp_path: Path) -> None:
    given = [
        {"id": "q1", "prompt": "Who?", "responses": {"Zephyrion": "I am Zephyrion.", "Brontomax": "Me."}},
        {"prompt": [{"role": "user", "content": "What?"}], "responses": {"Zephyrion": "a", "Brontomax": "b"}},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"id": "p", "version": "1", "title": "t", "rules": [{"id": "r"}]}))
    made = new_study(tmp_path / "s", Wanted(responses=tmp_path / "r.jsonl"), policy=tmp_path / "p.yaml")
    assert (made.items, made.self_naming) == ({"preference": 2}, 1)
    study = load_study(made.directory)
    assert study.settings.run is None
    assert {frozenset(names) for names in read_key(study, study.tasks["preference"]).values()} == {
        frozenset({"Zephyrion", "Brontomax"})
    }


def test_a_shipped_policy_is_copied_into_the_study(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "p", "responses": {"a": "1", "b": "2"}}))
    made = new_study(tmp_path / "s", Wanted(responses=tmp_path / "r.jsonl"), policy=Path("realigner:house-style"))
    wording = load_study(made.directory).wording
    assert wording is not None
    assert wording.id == "house-style"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(), "a study of no task: nothing was asked for"),
        (Wanted(audit=10), "an audit: its items come from a run"),
        (Wanted(undecided=True), "--undecided: its items come from a run"),
        (Wanted(responses=Path("none.jsonl")), "no such file"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(tmp_path: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(ReviewError, match=message):
        new_study(tmp_path / "s", wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_hold_what_is_asked_for_is_refused(run: Path, tmp_path: Path) -> None:
    few = write_review_run(tmp_path / "few" / "run", pairs=1)
    other = write_review_run(tmp_path / "else" / "run", about=" of another kind")
    with pytest.raises(ReviewError, match="no undecided pair"):
        new_study(tmp_path / "s", Wanted(undecided=True), run=few)
    with pytest.raises(ReviewError, match="no PUNISH pair without a correction"):
        new_study(tmp_path / "s", Wanted(corrections=1), run=few)
    with pytest.raises(ReviewError, match="each run is named once"):
        new_study(tmp_path / "s", Wanted(preference=1, against=(run,)), run=run)
    with pytest.raises(ReviewError, match="no held-out prompt in common"):
        new_study(tmp_path / "s", Wanted(preference=1, against=(other,)), run=run)
    with pytest.raises(RunDirError, match="no such directory"):
        new_study(tmp_path / "s", Wanted(audit=1), run=tmp_path / "gone")
    with pytest.raises(ReviewError, match="it is there already"):
        new_study(tmp_path, Wanted(audit=1), run=run)


def test_a_policy_that_changed_since_the_run_is_not_shown(tmp_path: Path) -> None:
    run = write_review_run(tmp_path / "run", pairs=12)
    policy = tmp_path / "policy.yaml"
    policy.write_text(policy.read_text().replace("Do not blame.", "Do not scold."))
    with pytest.raises(ReviewError, match="people and judge go by the same wording"):
        new_study(tmp_path / "s", Wanted(undecided=True), run=run)
    # Who names a policy on purpose is taken at their word.
    assert new_study(tmp_path / "s", Wanted(undecided=True), run=run, policy=policy).items == {"undecided": 6}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", r"r\.jsonl:1: it is no prompt with responses"),
        ('{"prompt": "p"}', r"r\.jsonl:1: it is no prompt with responses"),
        ('{"prompt": "p", "responses": {"a": "1"}}', r"the texts of two systems or more"),
        ('{"prompt": "p", "responses": {"a": "1", "b": 2}}', r"the texts of two systems or more"),
        ('{"prompt": "p", "responses": ["1", "2"]}', r"the texts of two systems or more"),
        (
            '{"prompt": "p", "responses": {"a": "1", "b": "2"}}\n{"prompt": "p", "responses": {"a": "1", "b": "2"}}',
            "given once",
        ),
        (json.dumps({"prompt": "p", "responses": {str(i): "x" for i in range(10)}}), "at most 9 responses"),
        ('{"prompt": "p", "responses": {"tie": "1", "b": "2"}}', "are answers, not systems"),
    ],
)
def test_a_wrong_file_of_responses_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(ReviewError, match=message):
        new_study(tmp_path / "s", Wanted(responses=tmp_path / "r.jsonl"))
    assert not (tmp_path / "s").exists()
