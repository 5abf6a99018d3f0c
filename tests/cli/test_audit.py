"""`realigner audit`: sheets out, answers in, figures beside the run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny

from realigner.runs import load_run

from .conftest import Say

BLAME, POLITE = "It is your fault.", "Let us look."


@pytest.fixture
def triaged(folder: Path, say: Say) -> Path:
    """A folder with a run of 40 INVERT pairs, triaged."""
    assert say("triage", "recipe.yaml").code == 0
    return folder


def drawn(say: Say, *options: object) -> dict[str, Any]:
    spoken = say("audit", "sample", "run", "--json", *options)
    assert spoken.code == 0, spoken.err
    found: dict[str, Any] = json.loads(spoken.out)
    return found


def fill(sheet: str, name: str, label: Callable[[dict[str, Any]], str] | None = None) -> Path:
    """Answer a sheet: by the truth, or as told."""
    rows = [json.loads(line) for line in Path(sheet).read_text().splitlines()]
    for row in rows:
        row["label"] = label(row) if label else "non_compliant" if row["response"] == BLAME else "compliant"
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_whole_audit_from_the_draw_to_the_figures(triaged: Path, say: Say) -> None:
    facts = drawn(say, "--n", 30)
    assert facts["drawn"] == 30
    assert {s["name"] for s in facts["strata"]} == {
        "INVERT · chosen · non_compliant · no-blame",
        "INVERT · rejected · compliant · no rule",
    }
    sheet, _, wording = facts["files"]
    assert "A response does not blame." in Path(wording).read_text()
    spoken = say("audit", "score", "run", fill(sheet, "ann"), fill(sheet, "bea"))
    assert spoken.code == 0, spoken.err
    assert "Accuracy          100.0%" in spoken.out
    assert "Krippendorff's α  1.000 (1.000 to 1.000; 30 items)" in spoken.out
    assert spoken.out.endswith("wrote run/audit.json\nNext: realigner run run\n")
    stored = json.loads(Path("run/audit.json").read_text())["triage"]
    assert stored["accuracy"]["value"] == 1
    assert stored["accuracy"]["low"] > 0.85
    assert stored["oracle"] == load_run("run").facts("triage")["oracle"]
    rows = pq.read_table(f"run/audit/triage-{facts['audit']}.rows.parquet").to_pylist()
    assert len(rows) == 60
    assert {row["annotator"] for row in rows} == {"ann", "bea"}
    assert sum(row["weight"] for row in rows) == pytest.approx(2 * 80)


def test_wrong_verdicts_show_in_accuracy_corrected_rates_and_epsilon(triaged: Path, say: Say) -> None:
    sheet = drawn(say, "--n", 80)["files"][0]
    draw = random.Random(0)
    answers = fill(
        sheet, "ann", lambda row: "compliant" if row["response"] != BLAME or draw.random() < 0.3 else "non_compliant"
    )
    found = json.loads(say("audit", "score", "run", answers, "--json").out)
    wrong = sum(json.loads(line)["label"] == "compliant" for line in answers.read_text().splitlines()) / 80 - 0.5
    assert wrong > 0.05
    assert found["accuracy"]["value"] == pytest.approx(1 - wrong)
    assert found["rates"]["all"]["all"]["raw"] == pytest.approx(0.5)
    assert found["rates"]["all"]["all"]["corrected"]["value"] == pytest.approx(0.5 + wrong)
    assert found["outcomes"]["INVERT"]["epsilon"]["value"] == pytest.approx(wrong)


def test_an_audit_outlives_a_stage_that_is_redone_and_counts_only_for_its_verdicts(triaged: Path, say: Say) -> None:
    sheet = drawn(say, "--n", 20)["files"][0]
    answers = fill(sheet, "ann")
    assert say("audit", "score", "run", answers).code == 0
    assert say("triage", "recipe.yaml", "--redo").code == 0
    assert Path("run/audit.json").is_file()
    assert say("audit", "score", "run", answers).code == 0
    policy = Path("policy.yaml").read_text()
    Path("policy.yaml").write_text(policy.replace("[your fault]", "[your fault, look]"))
    spoken = say("audit", "sample", "run", "--n", 30)
    assert "it has changed since the verdicts were made by kind 1" in spoken.error
    assert "Restore it, or judge anew: realigner triage run --redo" in spoken.error
    assert say("triage", "recipe.yaml", "--redo").code == 0
    spoken = say("audit", "score", "run", answers)
    assert spoken.code == 2
    assert "its verdicts changed since the audit" in spoken.error
    assert "Draw anew: realigner audit sample run --of triage" in spoken.error


def test_each_wrong_input_has_its_message(triaged: Path, say: Say) -> None:
    assert "its stage 'evaluate' has not been finished" in say("audit", "sample", "run", "--of", "evaluation").error
    assert (
        "no audit was drawn from it. First run: realigner audit sample run" in say("audit", "score", "run", "x").error
    )
    facts = drawn(say, "--n", 20)
    sheet = facts["files"][0]
    assert "it is there, and may hold answers" in say("audit", "sample", "run", "--n", 20).error
    assert "each needs 2. Ask for 4 or more" in say("audit", "sample", "run", "--n", 3).error
    assert "no sheet holds an answer" in say("audit", "score", "run", sheet).error
    half = fill(sheet, "half", lambda row: "compliant" if int(row["item"], 16) % 2 else "")
    left = sum(not json.loads(line)["label"] for line in half.read_text().splitlines())
    assert f"{left} of 20 questions have no answer" in say("audit", "score", "run", half).error
    spoken = say("audit", "score", "run", half, "--partial")
    assert spoken.code == 0
    assert f"WARNING {left} questions have no answer" in spoken.out
    whole = fill(sheet, "ann")
    assert "one person answers an item once" in say("audit", "score", "run", whole, whole).error
    other = drawn(say, "--n", 30, "--out", "other.csv")
    assert other["files"] == ["other.jsonl", "other.csv", "other.policy.txt"]
    spoken = say("audit", "score", "run", whole, fill("other.jsonl", "bea"))
    assert "Give the sheets of one of them" in spoken.error
    assert say("audit", "score", "run", "bea.jsonl").code == 0
    Path("run/audit.json").write_text("{}")
    assert "it is no audit that this version" in say("audit", "score", "run", whole).error


TRAINED = """
output: run
model: {path: model, lora: {rank: 4, alpha: 8}}
data: {path: old.jsonl}
policy: {path: policy.yaml}
oracle: {min_accuracy: 0.75}
impact: {gold: {size: 3}}
loss: {invert: robust, epsilon: audit}
train: {batch_size: 4, micro_batch: 4, max_steps: 2}
generate: {prompts: 4, max_new_tokens: 4}
evaluate: {retained: 3}
"""


def test_a_run_waits_behind_its_floor_and_then_trains_with_the_audits_epsilon(folder: Path, say: Say) -> None:
    tiny.saved_tiny("qwen2", folder / "model")
    draw = random.Random(0)
    rows = []
    for i in range(40):
        chosen, rejected = draw.sample([BLAME, POLITE, "Ask a nurse.", "That is your fault, and late."], 2)
        rows.append({"prompt": f"Why does disk {i} fail?", "chosen": chosen, "rejected": rejected})
    Path("old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(TRAINED)
    spoken = say("check", "recipe.yaml")
    assert spoken.code == 0, spoken.out
    assert "warning  audit   the run will stop after triage. oracle.min_accuracy = 0.75: no audit" in spoken.out

    spoken = say("run", "recipe.yaml")
    assert spoken.code == 3
    assert spoken.error == (
        "error: oracle.min_accuracy = 0.75: no audit of the run's triage has been scored. Run: realigner audit sample "
        f"{folder}/run; let people fill in its sheets; then: realigner audit score {folder}/run SHEET...; then this "
        "again"
    )
    assert list(load_run("run").stages) == ["triage"]

    sheet = drawn(say, "--n", 60)["files"][0]

    def wrong(share: float) -> Callable[[dict[str, Any]], str]:
        draw = random.Random(1)
        return lambda row: "non_compliant" if ("fault" in row["response"]) ^ (draw.random() < share) else "compliant"

    assert say("audit", "score", "run", fill(sheet, "strict", wrong(0.3))).code == 0
    spoken = say("reference", "run")
    assert spoken.code == 3
    assert "the lower end of its interval must reach oracle.min_accuracy = 0.75" in spoken.error

    assert say("audit", "score", "run", fill(sheet, "ann", wrong(0.05))).code == 0
    spoken = say("run", "recipe.yaml")
    assert spoken.code == 0, spoken.err
    epsilon = json.loads(Path("run/audit.json").read_text())["triage"]["outcomes"]["INVERT"]["epsilon"]["value"]
    assert load_run("run").facts("weigh")["epsilon"] == epsilon
    assert load_run("run").stages["weigh"]["inputs"]["loss"]["epsilon"] == epsilon

    spoken = say("replay", "run", "--json")
    assert spoken.code == 0, spoken.err
    assert json.loads(spoken.out)["agrees"]

    # Another audit gives another ε, and then the weights are not those of the recipe any more.
    assert say("audit", "score", "run", fill(sheet, "bea", wrong(0.1))).code == 0
    assert "stage 'weigh': loss.epsilon" in say("run", "recipe.yaml").error
