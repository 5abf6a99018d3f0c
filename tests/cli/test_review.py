"""`realigner review`: from a run to a study, from answers to figures, and back into triage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from review_study import SYSTEMS, write_study

from realigner.triaging import read_triage

from .conftest import Say

SCRIPTED = "oracle: {kind: scripted, path: said.jsonl}\n"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def spoken_json(say: Say, *arguments: object) -> dict[str, Any]:
    spoken = say("review", *arguments, "--json")
    assert spoken.code == 0, spoken.err
    found: dict[str, Any] = json.loads(spoken.out)
    return found


@pytest.fixture
def triaged(folder: Path, say: Say) -> Path:
    """A run of 40 pairs: the judge calls `chosen` broken, `rejected` fine, and of ten pairs it cannot say anything."""
    said = [
        {"prompt": f"Why does disk {i} fail?", "response": text, "label": "unsure" if i >= 30 else label}
        for i in range(40)
        for text, label in (("It is your fault.", "non_compliant"), ("Let us look.", "compliant"))
    ]
    lines(folder / "said.jsonl", said)
    with (folder / "recipe.yaml").open("a") as file:
        file.write(SCRIPTED)
    assert say("triage", "recipe.yaml").code == 0
    return folder


def test_undecided_pairs_come_back_into_triage_as_people_decided_them(triaged: Path, say: Say) -> None:
    made = spoken_json(say, "new", "study", "--run", "run", "--undecided", "--audit", 20)
    assert made["items"] == {"audit": 20, "undecided": 20}
    undecided = rows(Path("study/undecided.jsonl"))
    answers = [
        {"item": row["id"], "label": "non_compliant" if row["side"] == "chosen" else "compliant", "note": "seen"}
        for row in undecided
    ]
    found = spoken_json(say, "import", "study", lines(Path("ann.jsonl"), answers), "--task", "undecided")
    assert found["answers"] == 20
    assert spoken_json(say, "export", "study", "verdicts.jsonl", "--as", "verdicts")["rows"] == 20
    with Path("recipe.yaml").open("a") as file:
        file.write("human: {path: verdicts.jsonl}\n")
    refused = say("triage", "recipe.yaml")
    assert refused.code == 2
    assert "human" in refused.error  # the stored triage was made without them
    checked = say("check", "recipe.yaml")
    assert "20 responses were decided by people" in checked.out
    done = say("triage", "recipe.yaml", "--redo")
    assert done.code == 0
    assert "people decided 20 responses, 20 unlike the oracle" in done.err
    table = list(read_triage("run/triage.parquet"))
    assert {item.outcome.value for item in table} == {"INVERT"}
    assert sum(item.chosen_verdict.reason == "human: seen" for item in table) == 10
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["stages"]["triage"]["facts"]["human"] == {"used": 20, "changed": 20, "other_text": 0, "unknown": 0}


def test_answers_to_the_audit_become_its_figures_in_the_run(triaged: Path, say: Say) -> None:
    spoken_json(say, "new", "study", "--run", "run", "--audit", 30)
    answers = [
        {"item": row["id"], "label": "non_compliant" if "fault" in row["response"] else "compliant", "annotator": who}
        for row in rows(Path("study/audit.jsonl"))
        for who in ("ann", "bea")
    ]
    spoken_json(say, "import", "study", lines(Path("a.jsonl"), answers[:20]), "--task", "audit")
    missing = say("review", "score", "study")
    assert missing.code == 2
    assert "20 questions have no answer" in missing.error.replace("of 30 questions", "questions")
    assert say("review", "score", "study", "--partial").code == 0
    spoken_json(say, "import", "study", lines(Path("a.jsonl"), answers), "--task", "audit")
    found = spoken_json(say, "score", "study")["tasks"][0]
    assert found["figures"]["alpha"]["value"] == pytest.approx(1.0)
    assert found["audit"]["accuracy"]["value"] == 1.0
    stored = json.loads(Path("run/audit.json").read_text())["triage"]
    assert stored["accuracy"] == found["audit"]["accuracy"]
    assert "accuracy     100.0%" in say("review", "score", "study").out
    Path("run").rename("moved")
    assert "no such directory" in say("review", "score", "study").error
    assert say("review", "score", "study", "--run", "moved").code == 0


def test_a_sheet_that_was_filled_in_elsewhere_is_taken_as_it_is(triaged: Path, say: Say) -> None:
    spoken_json(say, "new", "study", "--run", "run", "--audit", 10)
    sheet = rows(Path("study/sheets/audit.jsonl"))
    filled = [{**row, "label": "Compliant"} for row in sheet[:-1]] + sheet[-1:]
    found = spoken_json(say, "import", "study", lines(Path("zoe.jsonl"), filled), "--task", "audit")
    assert (found["answers"], found["empty"]) == (9, 1)
    status = say("review", "status", "study")
    assert "audit (audit): 9 of 14 answers" in status.out
    assert "zoe (f-" in status.out


def test_votes_stay_blind_until_they_are_unblinded_and_then_end(folder: Path, say: Say) -> None:
    write_study(folder / "study", ["preference"], count=4, annotators=2)
    votes = [{"item": f"item-{i}", "choice": 1 if i < 3 else "tie", "annotator": who} for i in range(4) for who in "xy"]
    spoken_json(say, "import", "study", lines(folder / "v.jsonl", votes[:-1]), "--task", "preference")
    for verb in (["status", "study"], ["score", "study"], ["export", "study", "a.jsonl"], ["export", "study", "a.csv"]):
        spoken = say("review", *verb)
        assert spoken.code == 0
        text = spoken.out + spoken.err + "".join(file.read_text() for file in folder.glob("a.*"))
        assert not [name for name in SYSTEMS if name in text]
    assert "blind" in say("review", "score", "study").out
    early = say("review", "unblind", "study")
    assert early.code == 2
    assert "1 votes are missing" in early.error
    spoken_json(say, "import", "study", lines(folder / "v.jsonl", votes), "--task", "preference")
    shown = say("review", "unblind", "study")
    assert "Zephyrion-9   best in 75.0%" in shown.out
    assert "no difference  25.0%" in shown.out.replace("no difference ", "no difference ")
    assert spoken_json(say, "score", "study")["tasks"][0]["preference"]["systems"]["Zephyrion-9"]["majority"] == 3
    spoken_json(say, "export", "study", "a.jsonl")
    assert {row.get("system") for row in rows(folder / "a.jsonl")} == {"Zephyrion-9", None}


def test_a_study_that_changed_is_refused_by_every_verb(folder: Path, say: Say) -> None:
    write_study(folder / "study", ["audit"])
    vote = lines(folder / "v.jsonl", [{"item": "pair-0/chosen", "label": "unsure"}])
    spoken_json(say, "import", "study", vote, "--task", "audit")
    file = folder / "study" / "study.yaml"
    file.write_text(file.read_text().replace("spring review", "autumn review"))
    for verb in (["status"], ["export", "a.csv"], ["import", "v.jsonl"], ["score"], ["serve", "--port", "0"]):
        spoken = say("review", verb[0], "study", *verb[1:])
        assert spoken.code == 2
        assert "changed (study.yaml) after 1 entries" in spoken.error


def test_without_the_extra_the_page_says_how_to_install_it(
    folder: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(folder / "study")
    monkeypatch.setattr("realigner.review.serve.find_spec", lambda name: None)
    spoken = say("review", "serve", "study")
    assert spoken.code == 2
    assert "needs starlette and uvicorn" in spoken.error
    assert "pip install 'realigner[review]'" in spoken.error
    assert say("review", "status", "study").code == 0


def test_an_address_that_is_taken_is_refused(folder: Path, say: Say) -> None:
    write_study(folder / "study")
    spoken = say("review", "serve", "study", "--host", "203.0.113.7")
    assert spoken.code == 2
    assert "203.0.113.7 port 8420: it cannot be listened on" in spoken.error


def test_exports_for_a_recipe_are_jsonl(folder: Path, say: Say) -> None:
    write_study(folder / "study")
    spoken = say("review", "export", "study", "c.csv", "--as", "corrections")
    assert (spoken.code, "corrections are written as .jsonl" in spoken.error) == (2, True)
