"""`realigner policy`: what the verbs print, as text and as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from realigner.cli.main import main
from realigner.policy import Policy
from realigner.policy.prompt import estimated_tokens, instructions
from realigner.policy.shipped import shipped_names

RULES: list[dict[str, Any]] = [
    {
        "id": "kind",
        "by": "llm",
        "text": "Be kind to the person.",
        "violates": ["mockery"],
        "examples": [
            {"text": "You fool.", "label": "non_compliant", "why": "mocks"},
            {"text": "Take your time.", "label": "compliant", "why": "kind"},
        ],
    },
    {"id": "brief", "text": "Be brief.", "require": {"length": {"max": 5}}},
]


def write(folder: Path, name: str = "policy.yaml", **changes: Any) -> str:
    content = {"id": "p", "version": "1", "title": "A \x1b[31mtitle", "rules": RULES, **changes}
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["policy", *arguments, "--json"])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert facts["exit_code"] == code
    return code, facts


def test_list_names_every_shipped_policy_and_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = answer(capsys, "list")
    assert code == 0
    assert [item["name"] for item in facts["policies"]] == list(shipped_names())
    assert main(["policy", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in shipped_names())


def test_show_prints_the_prompt_of_each_rule_with_its_hash_and_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    policy = Policy.load(path)
    code, facts = answer(capsys, "show", path)
    kind, brief = facts["rules"]
    assert (code, facts["hash"]) == (0, policy.hash)
    assert kind["compiled"] == instructions([policy.rules[0]])
    assert (kind["hash"], kind["estimated_tokens"]) == (policy.rules[0].hash, estimated_tokens(kind["compiled"]))
    assert (brief["by"], brief["compiled"]) == ("rules", "Be brief.\nBroken unless the response has at most 5 words.")
    assert main(["policy", "show", path]) == 0
    out = capsys.readouterr().out
    assert kind["prompt_hash"] in out
    assert "\x1b" not in out


@pytest.mark.parametrize(("view", "first"), [("guard", "S1: Kind."), ("auditor", "kind (standard). Be kind")])
def test_show_prints_the_other_compilations(
    view: str, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, facts = answer(capsys, "show", write(tmp_path), "--rule", "kind", "--for", view)
    assert [rule["rule"] for rule in facts["rules"]] == ["kind"]
    assert facts["rules"][0]["compiled"].startswith(first)


def test_show_names_a_rule_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = answer(capsys, "show", write(tmp_path), "--rule", "kin")
    assert (code, facts["error"]["remedy"]) == (2, "Name one of them. Did you mean 'kind'?")


def test_code_of_a_policy_runs_only_when_permitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, rules=[{"id": "r", "text": "t", "forbid": {"python": "operator:contains"}}])
    code, facts = answer(capsys, "show", path)
    assert code == 2
    assert "a python check imports and runs code" in facts["error"]["rule"]
    assert answer(capsys, "show", path, "--allow-code")[0] == 0


def test_lint_leaves_with_3_for_contradictions_and_0_for_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, facts = answer(capsys, "lint", write(tmp_path))
    assert (code, facts["errors"], [finding["code"] for finding in facts["findings"]]) == (0, 0, ["no-example"])
    clash = [{**RULES[0], "allowed": ["Mockery"]}]
    code, facts = answer(capsys, "lint", write(tmp_path, rules=clash))
    assert (code, facts["ok"], facts["errors"]) == (3, False, 1)
    assert facts["findings"][0]["rules"] == ["kind"]
    assert main(["policy", "lint", str(tmp_path / "policy.yaml")]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "p 1: 1 errors, 0 warnings"


def test_lint_of_a_policy_that_cannot_decide_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = answer(capsys, "lint", write(tmp_path, decision="any_critical"))
    assert code == 2
    assert "decision any_critical needs a rule of tier critical" in facts["error"]["rule"]


def test_diff_says_what_changed_and_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path)
    new = write(tmp_path, "new.yaml", version="2", rules=[{**RULES[0], "violates": ["mockery", "threats"]}, RULES[1]])
    code, facts = answer(capsys, "diff", old, new)
    assert (code, facts["differs"], facts["judged_again"], facts["unchanged"]) == (0, True, ["kind"], ["brief"])
    assert facts["changed"][0]["direction"] == "tightened"
    assert main(["policy", "diff", old, new]) == 0
    assert "    now also breaks it: threats\n" in capsys.readouterr().out
    assert answer(capsys, "diff", old, old)[1]["differs"] is False
