"""`realigner win-rate`: any number of systems, from files of their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Say


def answers(name: str, texts: list[str]) -> None:
    lines = [{"prompt": f"Why {n}?", "response": text} for n, text in enumerate(texts)]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def files(folder: Path) -> Path:
    answers("good", [f"Answer {n}." for n in range(12)])
    answers("half", [f"Answer {n}." if n % 2 else f"No blame {n}." for n in range(12)])
    answers("bad", [f"No blame {n}." if n else "Answer." for n in range(12)])
    (folder / "blame.yaml").write_text(
        "id: p\nversion: '1'\ntitle: T\nrules: [{id: r, text: Never blame., forbid: {words: [blame]}}]\n"
    )
    return folder


def test_three_systems_are_ranked_by_a_policy_with_strengths_and_intervals(files: Path, say: Say) -> None:
    spoken = say("win-rate", "good.jsonl", "half.jsonl", "bad.jsonl", "--policy", "blame.yaml", "--out", "w.json")
    assert spoken.code == 0, spoken.err
    found = json.loads(Path("w.json").read_text())
    rates = {name: rate["value"] for name, rate in found["rates"].items()}
    assert rates == pytest.approx({"good": 20.5 / 24, "half": 11.5 / 24, "bad": 4 / 24})
    assert list(found["strengths"]) == ["good", "half", "bad"]
    pair = found["pairs"][0]
    assert (pair["a"], pair["b"]) == ("good", "half")
    assert pair["figures"]["win_rate.losses"]["value"] == 0.5
    assert "half against good: 0 won, 6 tied, 6 lost" in spoken.out
    assert "Bradley-Terry strengths" in spoken.out


def test_both_sides_of_a_run_and_a_file_are_systems_and_prompts_that_one_lacks_are_counted(
    files: Path, say: Say
) -> None:
    rows = [
        {"model": side, "prompt": [{"role": "user", "content": f"Why {n}?"}], "response": f"{side} {n}"}
        for side in ("before", "after")
        for n in range(10)
    ]
    Path("run").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), "run/responses.parquet")
    spoken = say("win-rate", "mine=run", "good.jsonl", "--policy", "blame.yaml", "--json")
    assert spoken.code == 0, spoken.err
    found = json.loads(spoken.out)
    assert found["systems"] == ["mine:before", "mine:after", "good"]
    assert (found["prompts"], found["left_out"]) == (10, {"mine:before": 0, "mine:after": 0, "good": 2})
    assert found["rates"]["good"]["value"] == 0.5


def test_choices_made_elsewhere_decide_where_a_judge_is_named(files: Path, say: Say) -> None:
    with Path("choices.jsonl").open("w") as file:
        for n in range(12):
            good, half = f"Answer {n}.", f"Answer {n}." if n % 2 else f"No blame {n}."
            for first, second in ((good, half), (half, good)):
                choice = "neither" if first == second else "first" if first == good else "second"
                line: dict[str, Any] = {"prompt": f"Why {n}?", "first": first, "second": second, "choice": choice}
                file.write(json.dumps(line) + "\n")
    Path("judge.yaml").write_text("kind: scripted\npath: choices.jsonl\n")
    spoken = say("win-rate", "good.jsonl", "half.jsonl", "--judge", "judge.yaml", "--criterion", "Be kind.", "--json")
    found = json.loads(spoken.out)
    assert found["rates"]["good"]["value"] == 0.75
    assert found["criterion"] == "Be kind."
    assert found["strengths"] == {}, "two systems need no strengths"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["good.jsonl", "half.jsonl"], "no --judge and no --policy"),
        (["good.jsonl", "half.jsonl", "--policy", "blame.yaml", "--criterion", "x"], "--criterion without --judge"),
        (["good.jsonl", "--policy", "blame.yaml"], "1 systems: a comparison needs two"),
        (["good.jsonl", "other=good.jsonl", "--judge", "gone.yaml"], "gone.yaml: it cannot be read"),
        (["good.jsonl", "good.jsonl", "--policy", "blame.yaml"], "two systems are called 'good'"),
        (["good.jsonl", "far.jsonl", "--policy", "blame.yaml"], "no prompt that all of them answered"),
        (["good.jsonl", "odd.jsonl", "--policy", "blame.yaml"], "no column 'response'"),
        (["good.jsonl", ".", "--policy", "blame.yaml"], "it holds no responses.parquet"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(files: Path, say: Say, arguments: list[str], said: str) -> None:
    Path("far.jsonl").write_text('{"prompt": "Else?", "response": "x"}\n')
    Path("odd.jsonl").write_text('{"prompt": "Why 1?", "answer": "x"}\n')
    spoken = say("win-rate", *arguments)
    assert spoken.code == 2
    assert said in spoken.err
