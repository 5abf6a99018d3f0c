"""Benchmark files as they are published become documents: the same ones whatever their order, and no leak of keys."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realigner.errors import DataError
from realigner.evaluate.utility_docs import leaves, read_documents
from realigner.recipe_evaluate import UtilityTask


def task(tmp_path: Path, name: str, rows: list[dict[str, Any]], suffix: str = "jsonl", shots: int = 0) -> UtilityTask:
    path = tmp_path / f"{name}.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return UtilityTask(name=name, path=str(path), shots=shots)


def mmlu(n: int = 40) -> list[dict[str, Any]]:
    return [
        {"subject": f"s{i % 4}", "question": f"q{i}", "choices": ["a", "b", "c", "d"], "answer": i % 4}
        for i in range(n)
    ]


def test_the_draw_depends_on_the_documents_and_the_seed_alone(tmp_path: Path) -> None:
    def asked(rows: list[dict[str, Any]], limit: int, seed: int) -> set[str]:
        given = task(tmp_path, "mmlu", rows)
        return {document.id for leaf in leaves(given, read_documents(given), limit, seed) for document in leaf.asked}

    small, large = asked(mmlu(), 10, 0), asked(mmlu(), 20, 0)
    assert len(small) == 10 and small < large
    assert asked(mmlu()[::-1], 10, 0) == small
    assert asked(mmlu(), 10, 1) != small


def test_a_question_that_stands_twice_counts_once(tmp_path: Path) -> None:
    assert len(read_documents(task(tmp_path, "mmlu", mmlu(8) + mmlu(8)))) == 8


def test_answers_are_numbers_numbers_as_text_or_letters_in_json_and_parquet(tmp_path: Path) -> None:
    rows = mmlu(4)
    for answers in ([0, 1, 2, 3], ["0", "1", "2", "3"], ["A", "B", "C", "D"]):
        given = [{**row, "answer": answer} for row, answer in zip(rows, answers, strict=True)]
        for suffix in ("jsonl", "parquet"):
            documents = read_documents(task(tmp_path, "mmlu", given, suffix))
            assert [document.fields["answer"] for document in documents] == [0, 1, 2, 3]


def test_hellaswag_as_published_loses_its_marks(tmp_path: Path) -> None:
    row = {
        "activity_label": "Baking",
        "ctx_a": "[header] How to bake [title] Take  flour. [step] Mix.",
        "ctx_b": "she",
        "endings": ["[substeps] bakes bread.", "sleeps."],
        "label": "1",
    }
    (document,) = read_documents(task(tmp_path, "hellaswag", [row]))
    assert document.fields["question"] == "Baking: How to bake. Take flour. Mix. She"
    assert document.fields["choices"] == [" bakes bread.", "sleeps."]


def test_the_right_answer_of_gpqa_stands_anywhere_and_always_in_the_same_place(tmp_path: Path) -> None:
    keys = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    rows = [{"Question": f"Why {i}?", **{key: f"{key} of {i}" for key in keys}} for i in range(200)]
    documents = read_documents(task(tmp_path, "gpqa", rows))
    places = Counter(document.fields["answer"] for document in documents)
    assert set(places) == {0, 1, 2, 3} and min(places.values()) > 25
    assert all(d.fields["choices"][d.fields["answer"]].startswith("Correct") for d in documents)
    again = {d.id: d.fields["answer"] for d in read_documents(task(tmp_path, "gpqa", rows[::-1]))}
    assert {d.id: d.fields["answer"] for d in documents} == again


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("mmlu", {"question": "q", "choices": ["a", "b", "c"], "answer": 0}, "they must be a list of 4 texts"),
        ("mmlu", {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 4}, "its answer is 4: it must be 0 to 3"),
        ("mmlu", {"question": " ", "choices": ["a", "b", "c", "d"], "answer": 0}, "column 'question' holds ' '"),
        ("mmlu", {"questions": "q"}, "Did you mean 'questions'"),
        ("gsm8k", {"question": "q", "answer": "it is 3"}, "it must end in '#### ' and a number"),
        ("hellaswag", {"ctx": "c", "endings": ["only one"], "label": 0}, "a list of two texts or more"),
        ("hellaswag", {"ctx": "c\ud800", "endings": ["a", "b"], "label": 0}, "half of a surrogate pair"),
        (
            "gpqa",
            {
                "Question": "q",
                "Correct Answer": "a",
                "Incorrect Answer 1": "a",
                "Incorrect Answer 2": "b",
                "Incorrect Answer 3": "c",
            },
            "two of its answers are equal",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_documents(task(tmp_path, name, [row]))
    assert f"{name}.jsonl" in str(error.value)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no row"):
        read_documents(task(tmp_path, "gsm8k", []))
