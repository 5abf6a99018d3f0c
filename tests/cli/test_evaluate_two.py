"""`realigner evaluate --before MODEL --after MODEL`: any two models, without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny

from realigner.report import render_report
from realigner.runs import load_run

from .conftest import Say

SHORT = ("--set", "generate.max_new_tokens=6", "--set", "generate.batch_size=8")


@pytest.fixture
def models(folder: Path) -> Path:
    """A folder with two small models, a policy and prompts with topics."""
    tiny.saved_tiny("qwen2", folder / "one", seed=0)
    tiny.saved_tiny("qwen2", folder / "two", seed=1)
    rows = [{"prompt": f"Why does disk {i} fail?", "kind": "disk" if i % 3 else "disc"} for i in range(12)]
    rows.append(rows[0])
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def compared(say: Say, *options: object, before: str = "one", after: str = "two", out: str = "found") -> Any:
    return say(
        "evaluate", "--before", before, "--after", after, "--policy", "policy.yaml", "--prompts", "prompts.jsonl",
        "--out", out, *SHORT, *options,
    )  # fmt: skip


def scripted(directory: str, label: Any) -> Path:
    """Write a judge for the answers of a comparison: `label(row)` of each."""
    rows = pq.read_table(f"{directory}/responses.parquet").to_pylist()
    lines = {json.dumps({"prompt": row["prompt"], "response": row["response"], "label": label(row)}) for row in rows}
    Path("verdicts.jsonl").write_text("\n".join(sorted(lines)) + "\n")
    return Path("verdicts.jsonl")


def test_two_models_are_compared_by_topic_with_intervals_and_a_report(models: Path, say: Say) -> None:
    spoken = compared(say, "--set", "data.topic=kind", "--json")
    assert spoken.code == 0, spoken.err
    summary = json.loads(spoken.out)["summary"]
    assert summary == json.loads(Path("found/summary.json").read_text())
    assert summary["agreement"]["after"]["n"] == 12, "a prompt that occurs twice is asked once"
    assert {name: part["after"]["n"] for name, part in summary["agreement"]["by_topic"].items()} == {
        "disc": 4,
        "disk": 8,
    }
    assert summary["agreement"]["by_outcome"] == {}
    assert summary["oracle"]["same"] is None
    assert "not recorded" in summary["warnings"][0]
    rows = pq.read_table("found/responses.parquet").to_pylist()
    assert {row["model"] for row in rows} == {"before", "after"}
    assert load_run("found").facts("generate")["models"] == {"before": f"{models}/one", "after": f"{models}/two"}
    assert "By topic" in Path("found/report.html").read_text()
    assert {path.name for path in Path("found").iterdir() if not path.name.startswith(".")} == {
        *("recipe.yaml", "manifest.json", "responses.parquet", "judgements.parquet", "summary.json", "report.html"),
        "tables",
    }


@pytest.mark.parametrize(("shares"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_known_answers_score_0_50_and_100_percent(models: Path, say: Say, shares: tuple[float, float]) -> None:
    assert compared(say).code == 0
    numbers: dict[str, int] = {}

    def label(row: dict[str, Any]) -> str:
        place = numbers.setdefault(row["prompt_id"], len(numbers))
        share = shares[row["model"] == "after"]
        return "compliant" if place % 2 < 2 * share else "non_compliant"

    judge = scripted("found", label)
    spoken = compared(say, "--set", "oracle.kind=scripted", "--set", f"oracle.path={judge}", "--redo", "--json")
    assert spoken.code == 0, spoken.err
    found = json.loads(spoken.out)["summary"]["agreement"]
    assert (found["before"]["value"], found["after"]["value"]) == shares
    assert found["change"]["value"] == shares[1] - shares[0]


def test_a_model_against_itself_changes_nothing(models: Path, say: Say) -> None:
    spoken = compared(say, after="one", out="same")
    assert spoken.code == 0, spoken.err
    change = json.loads(Path("same/summary.json").read_text())["agreement"]["change"]
    assert (change["value"], change["gained"], change["lost"], change["p"]) == (0, 0, 0, 1)
    assert "To correct these figures: realigner audit sample" in spoken.out


def test_a_comparison_resumes_refuses_other_inputs_and_is_audited(models: Path, say: Say) -> None:
    assert compared(say).code == 0
    assert compared(say).err.count("already done, kept") == 4
    spoken = compared(say, before="two")
    assert spoken.code == 2
    assert "stage 'generate': models.before.content" in spoken.error
    spoken = say("audit", "sample", "found", "--of", "evaluation", "--n", "24", "--json")
    assert spoken.code == 0, spoken.err
    sheet = Path(json.loads(spoken.out)["files"][0])
    rows = [{**json.loads(line), "label": "compliant"} for line in sheet.read_text().splitlines()]
    Path("ann.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spoken = say("audit", "score", "found", "ann.jsonl")
    assert spoken.code == 0, spoken.err
    assert "give the same `realigner evaluate` again with --redo" in spoken.out
    assert "audit none -> " in compared(say).error
    assert compared(say, "--redo").code == 0
    assert "Before, raw" in Path("found/report.html").read_text()
    assert "Before, raw" in render_report(Path("found"))


def test_each_wrong_input_has_its_message(models: Path, say: Say) -> None:
    wrong = {
        "no RECIPE: evaluate takes a RECIPE, or all of --before, --after": [],
        "no --policy and no --prompts and no --out: evaluate takes": ["--before", "one", "--after", "two"],
        "RECIPE and --before: a run has its own models": ["recipe.yaml", "--before", "one"],
        "RECIPE and --column: a run has its own models": ["recipe.yaml", "--column", "q"],
    }
    for message, options in wrong.items():
        spoken = say("evaluate", *options)
        assert (spoken.code, message in spoken.error) == (2, True), spoken.error
    assert "what judges are asked depends on answers" in compared(say, "--dry-run").error
    assert "model.path" in compared(say, before="nowhere", out="other").error
    Path("prompts.jsonl").write_text('{"ask": "why?"}\n')
    assert "no column prompt, goal, question, instruction, text" in compared(say).error
    assert (
        "no column 'aks': its columns are ask. Name one of them. Did you mean 'ask'?"
        in compared(say, "--column", "aks").error
    )
    Path("prompts.jsonl").unlink()
    assert "there is no such file. Give JSONL, Parquet or CSV" in compared(say).error
