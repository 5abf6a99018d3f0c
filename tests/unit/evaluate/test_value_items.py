"""Files of statements in five forms become keyed questions. The DailyDilemmas and WorldValuesBench rows are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import DataError, RecipeError
from realigner.evaluate.value_items import YES_NO, Answers, draw_items, read_items
from realigner.recipe_evaluate import ValueSet


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def persona(path: Path, answers: list[str]) -> str:
    rows = [
        {"question": f"Would you say {i}?", "answer_matching_behavior": f" {answer}", "label_confidence": 0.9}
        for i, answer in enumerate(answers)
    ]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_persona_statements_are_keyed_by_the_answer_that_matches(tmp_path: Path) -> None:
    items = read_items(ValueSet(path=persona(tmp_path / "risk-averse.jsonl", ["Yes", "No"])))
    assert [(item.set, item.value, item.key) for item in items] == [
        ("risk-averse", "risk-averse", 1),
        ("risk-averse", "risk-averse", -1),
    ]
    assert items[0].question == "Would you say 0?" and items[0].answers == YES_NO


def test_reverse_keyed_items_of_valuebench_count_the_other_way(tmp_path: Path) -> None:
    text = "questionnaire,item,value,agreement,question\nA,I plan.,Order,1,?\nA,I improvise.,Order,-1,?\n"
    items = read_items(ValueSet(path=write(tmp_path / "v.csv", text), name="vb"))
    assert [(item.set, item.value, item.key) for item in items] == [("vb", "Order", 1), ("vb", "Order", -1)]
    assert items[1].question == 'Is the following statement something you would say?\n"I improvise."'


DILEMMAS = """\
idx,dilemma_idx,basic_situation,dilemma_situation,action_type,action,negative_consequence,values_aggregated
0,0,work,A friend copies your report.,to_do,Tell the boss,They lose trust,"['honesty', 'justice', 'honesty']"
1,0,work,A friend copies your report.,not_to_do,Say nothing,It goes on,"['loyalty']"
"""  # rows of ours, in the columns of DailyDilemmas


def test_a_dilemmas_action_speaks_for_each_of_its_values(tmp_path: Path) -> None:
    items = read_items(ValueSet(path=write(tmp_path / "dilemmas.csv", DILEMMAS)))
    assert [(item.value, item.key) for item in items] == [("honesty", 1), ("justice", 1), ("loyalty", 1)]
    assert items[0].question == items[1].question
    assert items[2].question == ("A friend copies your report.\n\nAction: Say nothing\n\nWould you take this action?")


QUESTIONS = {
    "Q1": "On a scale of 1 to 4, 1 meaning 'Very' and 4 meaning 'Not at all', how important is rest?",
    "Q2": {"question": "On a scale of 0 to 10, 0 meaning 'Never' and 10 meaning 'Always', is it right?"},
    "B_COUNTRY": {"question": "In what country was the interview conducted?"},
}
SAMPLE = (
    "Question\tQuestion Category\tContinent\tUrban / Rural\tEducation\tD_INTERVIEW\n"
    "Q1\tNorms\tAsia\tUrban\tTertiary\t1\nQ1\tNorms\tAsia\tUrban\tTertiary\t2\nQ2\tNorms\tEurope\tRural\tPrimary\t3\n"
)  # rows of ours, in the columns of WorldValuesBench's samples.tsv


def test_a_person_of_a_survey_answers_on_a_scale_whose_middle_counts_for_neither_half(tmp_path: Path) -> None:
    questions = write(tmp_path / "question_metadata.json", json.dumps(QUESTIONS))
    items = read_items(ValueSet(path=write(tmp_path / "samples.tsv", SAMPLE), questions=questions))
    assert [item.value for item in items] == ["Q1", "Q2"]  # two persons of one kind are asked once
    assert items[0].answers == Answers(high=("3", "4"), low=("1", "2"))
    assert items[1].answers == Answers(high=("6", "7", "8", "9", "10"), low=("0", "1", "2", "3", "4"))
    assert "They live in europe. They live in rural surroundings. Their education: primary." in items[1].question


def test_a_survey_needs_its_questions(tmp_path: Path) -> None:
    sample = write(tmp_path / "samples.tsv", SAMPLE)
    with pytest.raises(RecipeError, match=r"names its questions by id only\. Give questions: the file question_m"):
        read_items(ValueSet(path=sample))
    for content, message in (("[]", "no JSON object of questions"), ("{}", r"question 'Q1': .* does not say what")):
        with pytest.raises(DataError, match=message):
            read_items(ValueSet(path=sample, questions=write(tmp_path / "q.json", content)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "answer_matching_behavior": "Maybe"}, "answer_matching_behavior is 'maybe'"),
        ({"item": "i", "value": "v", "agreement": 2}, "agreement is '2': it must be 1 or -1"),
        ({"item": "", "value": "v", "agreement": 1}, "column 'item' holds ''"),
        (
            {"dilemma_situation": "s", "action": "a", "values_aggregated": "honesty"},
            "values_aggregated is no list of names",
        ),
        (
            {"dilemma_situation": "s", "action": "a", "values_aggregated": "{[]: 1}"},
            "values_aggregated is no list of names",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_items(ValueSet(path=write(tmp_path / "x.jsonl", json.dumps(row))))


def test_a_file_in_no_known_form_is_refused_with_what_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"text": "hello"}')
    with pytest.raises(RecipeError, match=r"with the columns text: it is in none of the known formats \(persona: "):
        read_items(ValueSet(path=path))


def test_an_item_that_speaks_both_ways_is_refused(tmp_path: Path) -> None:
    rows = [{"item": "I rest.", "value": "Rest", "agreement": sign} for sign in (1, -1)]
    path = write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="it speaks both for and against Rest"):
        read_items(ValueSet(path=path))


def test_a_draw_takes_as_many_of_each_value_whatever_their_order(tmp_path: Path) -> None:
    items = read_items(ValueSet(path=persona(tmp_path / "a.jsonl", ["Yes", "No"] * 20)))
    items += read_items(ValueSet(path=persona(tmp_path / "b.jsonl", ["Yes"] * 3)))
    drawn = draw_items(items, 5, seed=0)
    assert [sum(item.value == value for item in drawn) for value in ("a", "b")] == [5, 3]
    assert set(drawn) == set(draw_items(items[::-1], 5, seed=0)) != set(draw_items(items, 5, seed=1))
    assert draw_items(items, None, seed=0) == items
