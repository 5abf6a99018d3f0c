"""Answers to files and back: nothing is lost on the way, nothing is taken twice, nothing wrong is taken at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from review_study import make_study

from realigner.errors import ReviewError
from realigner.review import Store, load_study
from realigner.review.answers import Choice, Corrected, Judged, Value
from realigner.review.results import correction_rows, unblind_study, verdict_rows, voted_rows
from realigner.review.transfer import COLUMNS, export_rows, import_answers, write_rows

VALUES: dict[str, list[Value]] = {
    "audit": [Judged("non_compliant", ("no-dosage", "kind"), "=1+1"), Judged("unsure", (), "'quoted'\nand more")],
    "preference": [Choice(3, "-x"), Choice("tie"), Choice("none_good", "@all")],
    "correction": [Corrected('Ask "them", soon;\nplease 🌱'), Corrected("", True, "no way")],
    "undecided": [Judged("compliant")],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(make_study(tmp_path / "study")) as store:
        yield store


def fill(store: Store, name: str = "Ada") -> None:
    person, _ = store.join(name)
    for kind, values in VALUES.items():
        for number, value in enumerate(values):
            step = store.current_step(store.study.tasks[kind], person)
            assert step is not None
            places = (2, 3, 1) if kind == "preference" else ()
            store.save(step, value, revision=0, once=f"{kind}{number}{name}", places=places, seconds=1.5)


def everything(store: Store) -> list[dict[str, Any]]:
    return list(export_rows(store, store.study.tasks.values(), history=True))


def essence(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("source", "number")} for row in rows]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_what_was_exported_is_imported_into_another_copy_exactly_and_once(
    store: Store, tmp_path: Path, form: str
) -> None:
    fill(store)
    path = tmp_path / f"answers.{form}"
    write_rows(list(export_rows(store, store.study.tasks.values())), path)
    with Store(load_study(store.study.directory), tmp_path / "other.sqlite") as other:
        first = import_answers(other, path)
        assert (first.answers, first.known, first.empty) == (8, 0, 0)
        assert essence(everything(other)) == essence(everything(store))
        again = import_answers(other, path)
        assert (again.answers, again.known) == (0, 8)
        assert essence(everything(other)) == essence(everything(store))


def test_the_copy_it_came_from_knows_all_of_it(store: Store, tmp_path: Path) -> None:
    fill(store)
    write_rows(list(export_rows(store, store.study.tasks.values())), tmp_path / "a.jsonl")
    assert import_answers(store, tmp_path / "a.jsonl").answers == 0


def test_the_history_keeps_what_no_longer_counts_and_says_so(store: Store) -> None:
    person, _ = store.join("Ada")
    task = store.study.tasks["audit"]
    step = store.current_step(task, person)
    assert step is not None
    step = store.save(step, Judged("compliant"), revision=0, once="1")
    step = store.save(step, Judged("unsure"), revision=step.revision, once="2")
    store.reveal(step, once="3")
    store.save(step, Judged("non_compliant"), revision=step.revision, once="4")
    rows = list(export_rows(store, [task], history=True))
    assert [(row["action"], row.get("label"), row["counts"]) for row in rows] == [
        ("answer", "compliant", False),
        ("answer", "unsure", True),
        ("reveal", None, False),
        ("answer", "non_compliant", False),
    ]
    assert {row["study"] for row in rows} == {store.study.hash}
    assert [row["label"] for row in export_rows(store, [task])] == ["unsure"]


def test_no_cell_of_a_spreadsheet_begins_a_formula(store: Store, tmp_path: Path) -> None:
    fill(store)
    write_rows(list(export_rows(store, store.study.tasks.values())), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert tuple(rows[0]) == COLUMNS
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert rows[0]["note"] == "'=1+1"


def test_a_sheet_from_a_spreadsheet_with_semicolons_and_empty_rows_is_understood(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "bea.csv"
    path.write_text(
        "item;label;rules;note\n"
        "pair-0/chosen;Non-Compliant;no-dosage, kind;said so\n"
        "pair-1/chosen;;;only a note\n"
        "pair-2/chosen; COMPLIANT ;;\n"
    )
    found = import_answers(store, path, task="audit")
    assert (found.answers, found.known, found.empty) == (2, 0, 1)
    [first, second] = store.steps(store.study.tasks["audit"])
    assert {first.value, second.value} == {
        Judged("non_compliant", ("no-dosage", "kind"), "said so"),
        Judged("compliant"),
    }
    assert [person.name for person in store.annotators()] == ["bea"]


ROW = {"task": "audit", "item": "pair-0/chosen", "label": "unsure", "annotator": "bea"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "item": "pair-99"}], r"line 1: item 'pair-99': task 'audit' has no such item"),
        ([{**ROW, "task": "audits"}], r"task 'audits'.*Did you mean 'audit'"),
        ([{"item": "pair-0/chosen", "label": "unsure"}], r"line 1: no task.*--task"),
        ([{**ROW, "lable": "x"}], r"column 'lable'.*Did you mean 'label'"),
        ([{**ROW, "label": "maybe"}], r"line 1: label: Choose one of the verdicts"),
        ([{**ROW, "label": "non_compliant", "rules": ["other"]}], r"no rule “other”"),
        ([{**ROW, "study": "0" * 16}], r"it answers study 0{16}"),
        ([{**ROW, "audit": "abc"}], r"a sheet of audit abc: task 'audit' belongs to audit \(none\)"),
        ([{**ROW, "occasion": 3}], r"occasion 3 is neither 1 nor 2"),
        ([{**ROW, "seconds": "nan"}], r"a number or time is wrong"),
        ([{**ROW, "at": "yesterday"}], r"a number or time is wrong"),
        ([{**ROW, "task": "preference", "item": "item-0", "choice": 7}], r"choice: Choose one of the answers"),
        (
            [{**ROW, "task": "preference", "item": "item-0", "choice": 1, "places": [1, 1, 2]}],
            r"places 1 1 2 are no order",
        ),
        (
            [ROW, {**ROW, "label": "compliant"}],
            r"line 2: 'bea' on item 'pair-0/chosen': another answer of theirs is in",
        ),
        ([ROW, "nonsense"], r"line 2: each line is one JSON object"),
    ],
)
def test_a_file_with_one_wrong_row_is_refused_whole(
    store: Store, tmp_path: Path, rows: list[Any], message: str
) -> None:
    good = {**ROW, "item": "pair-5/chosen"}
    path = tmp_path / "bea.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, good]))
    with pytest.raises(ReviewError, match=message):
        import_answers(store, path)
    assert everything(store) == []


def test_a_person_who_answered_here_cannot_be_contradicted_from_elsewhere(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "bea.jsonl"
    path.write_text(json.dumps(ROW))
    import_answers(store, path)
    path.write_text(json.dumps({**ROW, "label": "compliant"}))
    with pytest.raises(ReviewError, match="another answer of theirs is in the study"):
        import_answers(store, path)


def test_what_is_not_there_or_has_another_name_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="no such file"):
        import_answers(store, tmp_path / "none.csv")
    with pytest.raises(ReviewError, match=r"written as \.jsonl or \.csv"):
        write_rows([], tmp_path / "answers.xlsx")


def test_corrections_come_out_once_a_pair_as_the_recipe_takes_them(store: Store, tmp_path: Path) -> None:
    for name in ("Ada", "Bob"):
        person, _ = store.join(name)
        task = store.study.tasks["correction"]
        while (step := store.current_step(task, person)) is not None:
            value = Corrected("", True) if step.item == "pair-1" else Corrected(f"{name} on {step.item}")
            store.save(step, value, revision=0, once=f"{name}{step.number}")
    found = correction_rows(store)
    assert found.left_out == {"no answer can be given": 2, "pair was corrected by somebody before": 5}
    assert {row["id"] for row in found.rows} == {f"pair-{i}" for i in (0, 2, 3, 4, 5)}
    assert all(row["correction"] == f"Ada on {row['id']}" for row in found.rows)
    assert all((row["provenance"], row["study"]) == ("human", store.study.hash) for row in found.rows)
    from realigner.data import read_corrections

    write_rows(found.rows, tmp_path / "corrections.jsonl")
    assert {item.pair_id for item in read_corrections(tmp_path / "corrections.jsonl")} == {r["id"] for r in found.rows}


def test_verdicts_come_out_where_people_agree_and_are_counted_where_they_do_not(store: Store, tmp_path: Path) -> None:
    said = {
        "pair-0/chosen": ("compliant", "compliant", "unsure"),
        "pair-1/chosen": ("non_compliant", "compliant"),
        "pair-2/chosen": ("unsure", "unsure", "compliant"),
        "pair-3/chosen": ("non_compliant", "non_compliant", "compliant"),
    }
    rows = [
        {
            "task": "undecided",
            "item": item,
            "label": label,
            "annotator": str(n),
            "rules": ["kind"] if "non" in label else [],
        }
        for item, labels in said.items()
        for n, label in enumerate(labels)
    ]
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_answers(store, path)
    found = verdict_rows(store)
    assert [(row["id"], row["side"], row["label"], row["rules"]) for row in found.rows] == [
        ("pair-0", "chosen", "compliant", []),
        ("pair-3", "chosen", "non_compliant", ["kind"]),
    ]
    assert found.left_out == {"people are unsure, or divided": 2}
    assert found.rows[0]["policy"] == "clinic 2.1"
    assert len(found.rows[1]["annotators"]) == 3


def test_unblinding_waits_for_the_votes_and_ends_them(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match=r"task 'preference': 18 votes are missing"):
        unblind_study(store)
    assert store.unblinded is None
    rows = [{"task": "preference", "item": "item-0", "choice": 2, "annotator": "x"}]
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(rows[0]))
    import_answers(store, path)
    blind = list(export_rows(store, store.study.tasks.values()))
    assert "system" not in voted_rows(store, blind)[0]
    unblind_study(store, early=True)
    assert store.unblinded is not None
    assert voted_rows(store, blind)[0]["system"] == "Quillfeather"


def test_no_vote_is_imported_once_the_systems_are_known_but_known_ones_stay_known(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    vote = {"task": "preference", "item": "item-0", "choice": 2, "annotator": "x"}
    path.write_text(json.dumps(vote))
    import_answers(store, path)
    unblind_study(store, early=True)
    assert import_answers(store, path).known == 1
    path.write_text(json.dumps({**vote, "item": "item-1"}))
    with pytest.raises(ReviewError, match="takes no votes any more"):
        import_answers(store, path)
    path.write_text(json.dumps({"task": "audit", "item": "pair-0/chosen", "label": "unsure"}))
    assert import_answers(store, path).answers == 1


def test_a_key_that_does_not_fit_is_refused_before_the_votes_are_ended(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", ["preference"])
    with Store(study) as store:
        (tmp_path / "study" / "systems.jsonl").write_text('{"id": "item-0", "systems": ["a", "b", "c"]}\n')
        with pytest.raises(ReviewError, match="no line for item"):
            unblind_study(store, early=True)
        assert store.unblinded is None
    with (
        Store(make_study(tmp_path / "other", ["audit"])) as store,
        pytest.raises(ReviewError, match="nothing to un-blind"),
    ):
        unblind_study(store)
