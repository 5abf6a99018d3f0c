"""Utility, value probes and inside view on real material, by the command that a user types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from realigner.cli.main import main
from realigner.errors import RecipeError
from realigner.evaluate.evidence import read_evidence
from realigner.evaluate.value_items import read_items
from realigner.recipe_evaluate import ValueSet
from realigner.records import Direction, Label, Outcome, Pair, TriagedPair, Verdict, user_prompt
from realigner.triaging.store import write_triage
from realigner.two_models import two_models

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def models(shared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """stories260k, and the same with every weight moved a little."""
    folder = tmp_path_factory.mktemp("models")
    before, after = shared_path / "models" / "stories260k", folder / "after"
    shutil.copytree(before, after)
    weights = load_file(after / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {n: w + 0.05 * w.std() * torch.randn(w.shape, generator=generator) for n, w in weights.items()}
    (after / "model.safetensors").chmod(0o644)
    save_file(moved, after / "model.safetensors", metadata={"format": "pt"})
    return {"before": before, "after": after}


def compare(models: dict[str, Path], out: Path, evaluate: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (out / "policy.yaml").write_text(
        "id: p\nversion: '1'\ntitle: T\nrules: [{id: r, text: Never write the., forbid: {words: [the]}}]\n"
    )
    (out / "prompts.jsonl").write_text('{"prompt": "Once upon a time"}\n{"prompt": "One day"}\n')
    options = {
        "--before": models["before"],
        "--after": models["after"],
        "--policy": out / "policy.yaml",
        "--prompts": out / "prompts.jsonl",
        "--out": out / "run",
    }
    settings = {"text.format": "plain", "generate.max_new_tokens": 4}
    settings |= {f"evaluate.{part}": json.dumps(section) for part, section in evaluate.items()}
    arguments = [str(text) for pair in options.items() for text in pair]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    assert main(["evaluate", *arguments, "--quiet"]) == 0
    return read_evidence(out / "run")


def test_benchmarks_on_real_questions(
    shared_path: Path, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared_path / "data" / "utility"
    tasks = [
        {"name": "mmlu", "path": str(data / "mmlu_test_sample.jsonl"), "limit": 8},
        {"name": "hellaswag", "path": str(data / "hellaswag_val_sample.jsonl"), "limit": 8},
        {"name": "gsm8k", "path": str(data / "gsm8k_test.jsonl"), "limit": 3},
    ]
    found = compare(models, tmp_path, {"utility": {"tasks": tasks, "max_new_tokens": 8}})["utility"]
    assert set(found["figures"]) == {
        f"utility.{task}.{key}" for task in ("mmlu", "hellaswag", "gsm8k") for key in ("before", "after", "diff")
    }
    for figure in found["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert [found["figures"][f"utility.{task['name']}.diff"]["n"] for task in tasks] == [8, 8, 3]
    # So few documents of so small a model show nothing, and the page must not say that they do.
    assert all(row["verdict"] == "not shown" for row in found["tables"][0]["rows"])
    assert "utility.mmlu" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_values_of_real_questionnaires(shared_path: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """Of ValueBench two questionnaires; all of it is read."""
    persona = shared_path / "data" / "anthropic-evals" / "risk-averse.jsonl"
    whole = shared_path / "data" / "valuebench" / "value_orientation.csv"
    items = read_items(ValueSet(path=str(whole)))
    assert len({item.value for item in items}) == 222 and {item.key for item in items} == {1, -1}
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "vb.csv").write_text("".join(lines[:31]), encoding="utf-8")
    sets: list[dict[str, Any]] = [{"path": str(persona)}, {"path": str(tmp_path / "vb.csv")}]
    found = compare(models, tmp_path, {"values": {"sets": sets, "limit": 4}})["values"]
    table = {row["value"]: row for row in found["tables"][1]["rows"]}
    assert set(table) > {"risk-averse", "Decisiveness"} and table["risk-averse"]["items"] == 4
    for row in table.values():
        assert row["moved"] in ("yes", "no") and 0 <= row["beyond_drift"]["p_holm"] <= 1
    assert found["sources"][0]["n"] == 4 and found["sources"][1]["n"] > 15
    assert {"values.vb.drift", "values.risk-averse.change"} <= set(found["figures"])


def test_the_inside_of_a_real_model(shared_path: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """Openings of stories, continued by a story or by broken words; two models without a run."""
    yes, no = Verdict(Label.COMPLIANT), Verdict(Label.NON_COMPLIANT)
    names = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna")
    pairs = []
    for i in range(24):
        name = names[i % 6]
        prompt = user_prompt(f"Once upon a time there was a girl named {name}, day {i}.")
        pair = Pair(str(i), prompt, f" {name} was happy and played with a ball.", f" {name} zq xx kv jj qqz.", "here")
        side: Any = "train" if i < 16 else "eval"
        pairs.append(TriagedPair(pair, side, yes, no, Outcome.CONFIRM, Direction.RETAIN))
    write_triage(pairs, tmp_path / "triage.parquet")
    settings = {"triage": str(tmp_path / "triage.parquet"), "permutations": 199}
    found = compare(models, tmp_path, {"inside": settings})["inside"]
    assert len(found["tables"][0]["rows"]) == 5  # layers of the model
    gaps = [found["figures"][f"inside.layer_{layer}.gap"] for layer in range(1, 6)]
    assert all(gap["low"] > 0.5 for gap in gaps)  # stories and broken words are told apart at every layer
    assert {found["figures"][f"inside.layer_{layer}.shift"]["n"] for layer in range(1, 6)} == {8}


def test_two_models_without_a_run_need_a_triage_for_their_inside(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "One day"}\n')
    with pytest.raises(RecipeError, match=r"evaluate\.inside without a run: judged pairs show the direction"):
        two_models(
            str(models["before"]),
            str(models["after"]),
            "realigner:house-style",
            tmp_path / "prompts.jsonl",
            tmp_path / "run",
            settings=("evaluate.inside={}",),
        )
