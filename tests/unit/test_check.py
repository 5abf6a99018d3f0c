"""`check` finds every fault at once and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from realigner import check as module
from realigner.check import Finding, check
from realigner.recipe import Recipe
from realigner.runs import Run

POLICY = """
id: kind
version: "1"
title: No blame
rules:
  - id: no-blame
    text: A response does not blame.
    forbid: {words: [your fault]}
    examples: [{text: It is your fault., label: non_compliant, why: it blames}]
"""
BLAME, KIND = "It is your fault.", "Let us look."


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved_tiny("qwen2", tmp_path_factory.mktemp("check") / "model")


@pytest.fixture
def content(tmp_path: Path, model: Path) -> dict[str, Any]:
    """A recipe in which nothing is wrong: 60 pairs, half of them conflicts."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    write(tmp_path, [(BLAME, KIND), (BLAME, BLAME + " Yes."), (KIND, BLAME), (KIND, "Sure.")] * 15)
    return {
        "output": str(tmp_path / "run"),
        "model": {"path": str(model)},
        "data": {"path": str(tmp_path / "old.jsonl"), "eval_fraction": 0.2},
        "policy": {"path": str(tmp_path / "policy.yaml")},
        "impact": {"gold": {"size": 6}},
        "generate": {"max_new_tokens": 16},
    }


def write(folder: Path, answers: list[tuple[str, str]]) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": a, "rejected": b} for i, (a, b) in enumerate(answers)]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(content: dict[str, Any], level: str | None = None) -> str:
    findings = check(Recipe.parse(content))
    return "\n".join(str(finding) for finding in findings if level in (None, finding.level))


def test_a_good_recipe_has_no_error_and_no_warning_and_no_run_directory(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    text = found(content)
    assert {line.split()[0] for line in text.splitlines()} == {"ok"}
    for expected in (
        "data    60 pairs from 60 rows; format trl",
        "policy  kind 1: 1 rules, 1 examples hold",
        "oracle  rules/1:",
        "triage  of all 60 pairs: INVERT 25.0%, PUNISH 25.0%, CONFIRM 25.0%, NEUTRAL 25.0%, UNDECIDED 0.0%",
        "gold    paper: 6 pairs, 6 of the data held out",
        "text    format chat; at most ",
        "text    the 60 longest pairs have up to ",
        "model   PeftModelForCausalLM: ",
        "output  needs about ",
        f"output  {tmp_path}/run is free",
    ):
        assert expected in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.jsonl", "policy.yaml"]


def test_every_fault_is_listed_not_only_the_first(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    content["data"]["path"] = str(tmp_path / "gone.jsonl")
    content["policy"]["path"] = str(tmp_path / "gone.yaml")
    content["model"]["path"] = str(tmp_path / "nothing")
    content["train"] = {"batch_size": 10, "micro_batch": 4}
    errors = found(content, "error").splitlines()
    assert [line.split()[1] for line in errors] == ["data", "policy", "train", "text", "model", "output"]
    assert "train.micro_batch = 4 does not divide batch_size = 10" in errors[2]
    assert "run: it exists and is no run directory. Choose another `output`" in errors[5]


def test_a_model_that_cannot_be_had_is_said_once(content: dict[str, Any]) -> None:
    content["model"]["path"] = "nobody/nothing"
    (line,) = found(content, "error").splitlines()
    assert "model   model.path = 'nobody/nothing': it is no directory here and not in the cache, and the hub" in line


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({"data": {"eval_fraction": 1e-6}}, "error", "no pair on the held-out side: change data.eval_fraction"),
        ({"data": {"fields": {"chosen": "best", "rejected": "worst"}}}, "error", "data.fields.chosen = 'best'"),
        (
            {"impact": {"method": "difference"}, "model": {"dtype": "bfloat16", "device": "cpu"}},
            "error",
            "impact.method = difference for a model in bfloat16",
        ),
        ({"impact": {"gold": {"size": 48}}}, "error", "a gold batch may take at most half of a class"),
        ({"model": {"lora": {"targets": ["query"]}}}, "error", "model.lora.targets = ['query']: no such layers"),
        ({"text": {"max_length": 10**6}}, "error", "text.max_length = 1000000: the model's context is"),
        ({"text": {"max_length": 24}, "generate": {"max_new_tokens": 4}}, "error", "text.overflow"),
        ({"text": {"max_length": 24, "overflow": "cut"}, "generate": {"max_new_tokens": 4}}, "warning", "cut prompts"),
        ({"text": {"max_length": 24, "overflow": "drop"}, "generate": {"max_new_tokens": 4}}, "warning", "dropped"),
        ({"generate": {"max_new_tokens": 10**5}}, "error", "it leaves no room for a prompt"),
        ({"corrections": {"path": "gone.jsonl"}}, "error", "corrections gone.jsonl: no such file"),
        ({"evaluate": {"oracle": {"kind": "scripted", "path": "gone.jsonl"}}}, "error", "gone.jsonl"),
    ],
)
def test_a_fault_is_found_before_the_run(
    content: dict[str, Any], changes: dict[str, Any], level: str, text: str
) -> None:
    for section, values in changes.items():
        content[section] = {**content.get(section, {}), **values}
    assert text in found(content, level)


def test_data_without_conflicts_are_an_error(tmp_path: Path, content: dict[str, Any]) -> None:
    write(tmp_path, [(KIND, BLAME)] * 40)
    assert "no conflicts: nothing to re-align" in found(content, "error")


def test_corrections_are_judged_and_those_without_a_pair_are_pointed_out(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    (tmp_path / "fix.jsonl").write_text('{"id": "nobody", "correction": "Let us see."}\n')
    content["corrections"] = {"path": str(tmp_path / "fix.jsonl")}
    assert "corrections 0 accepted, 0 refused; 1 belong to no pair" in found(content, "warning")


def test_a_rule_without_an_example_is_pointed_out(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "policy.yaml").write_text("\n".join(POLICY.splitlines()[:-1]))
    assert "rule no-blame has no example, so nothing tests what it says" in found(content, "warning")


def test_a_tokenizer_without_a_template_is_an_error_with_a_remedy(
    tmp_path: Path, content: dict[str, Any], model: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in model.iterdir():
        if file.suffix != ".jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    content["model"]["path"] = str(bare)
    assert "has no chat template: text.format 'chat' takes the template from the tokenizer" in found(content, "error")


def test_a_model_without_safetensors_is_an_error(tmp_path: Path, content: dict[str, Any], model: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    content["model"]["path"] = str(bare)
    assert "it holds no safetensors file. Save the model with save_pretrained" in found(content, "error")


def test_a_full_disk_is_told_before_the_run(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.atomic, "free_bytes", lambda _: 1000)
    assert "the run needs about" in found(content, "error")
    assert "only 1000 bytes are free there" in found(content, "error")


def test_a_run_in_use_is_told(content: dict[str, Any]) -> None:
    with Run.open(Recipe.parse(content)):
        assert "it is in use by process" in found(content, "error")
    assert "holds a run that finished no stage" in found(content, "ok")


def test_long_data_are_sampled_and_that_is_said(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 20)
    text = found(content)
    assert "60 pairs from 60 rows" in text
    assert "of a sample of 20 pairs" in text
    monkeypatch.setattr(module, "SECONDS", -1.0)
    assert "1 pairs from 1 rows (the first ones: reading stopped after" in found(content)


def test_findings_are_plain_json() -> None:
    assert Finding("ok", "data", "x").as_dict() == {"level": "ok", "topic": "data", "text": "x"}


JUDGED = """
id: kind
version: "1"
title: No blame
rules:
  - id: no-blame
    by: llm
    text: A response does not blame.
    violates: [reproach]
    allowed: [reproach]
    forbid: {words: [your fault]}
    examples: [{text: It is your fault., label: non_compliant, why: it blames}]
"""


def test_a_policy_that_needs_a_judge_is_refused_under_checks_alone(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "policy.yaml").write_text(JUDGED)
    errors = found(content, "error")
    assert "1 rule is judged by wording: no-blame (llm): this policy needs a judge" in errors
    assert (
        "Set oracle.kind: judges, or let their deterministic fallbacks stand in with oracle.fallbacks: true" in errors
    )
    assert (
        "kind 1: 1 rules, 0 examples hold; 1 rules need a judge, who is shown 1 examples that nothing checks"
        in found(content, "ok")
    )


def test_fallbacks_that_stand_in_and_contradictions_are_pointed_out(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "policy.yaml").write_text(JUDGED)
    content["oracle"] = {"fallbacks": True}
    warnings = found(content, "warning")
    assert "deterministic fallbacks stand in for the judge of no-blame: they see wording, not meaning" in warnings
    assert "no-blame: 'reproach' stands under violates and allowed. Remove one of the two" in warnings
    assert "1 lint warnings; see: realigner policy lint" in found(content, "ok")
    assert "oracle  rules/1:" in found(content, "ok")
    assert found(content, "error") == ""
