"""What docs/policy.md and docs/triage.md show is what happens."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from realigner.oracle import ScriptedOracle
from realigner.policy import Policy, Rule
from realigner.policy import lint as lint_module
from realigner.policy.checks import KINDS
from realigner.policy.compare import compare
from realigner.policy.decisions import Decision, Threshold
from realigner.policy.lint import lint
from realigner.policy.shipped import shipped_names
from realigner.records import Label, RuleVerdict, user_prompt
from realigner.triaging.corrections import Refusal
from realigner.triaging.store import triage_schema

DOCS = Path(__file__).resolve().parents[3] / "docs"
POLICY, TRIAGE = ((DOCS / name).read_text(encoding="utf-8") for name in ("policy.md", "triage.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policy.yaml").write_text(blocks(POLICY, "yaml")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_policy_of_the_page_loads_with_its_examples(in_folder: Path) -> None:
    policy = Policy.load("policy.yaml")
    assert sum(len(rule.examples) for rule in policy.rules) == 4
    assert policy.judge(user_prompt("Hello"), "Good morning.").label is Label.COMPLIANT


def test_the_python_of_the_page_prints_what_it_says(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = blocks(POLICY, "python")[-1]
    exec(compile(example, "docs/policy.md", "exec"), {})
    expected = re.findall(r"print\(.*\)\s+# (.*)", example)
    assert capsys.readouterr().out.splitlines() == expected


def test_the_python_check_of_the_page_works(in_folder: Path) -> None:
    (in_folder / "checks.py").write_text(blocks(POLICY, "python")[0], encoding="utf-8")
    rule = {"id": "r", "text": "Cite.", "require": {"python": "checks:cites_a_paper"}}
    content = {"id": "p", "version": "1", "title": "t", "rules": [rule]}
    policy = Policy.parse(content, allow_code=True, folder=in_folder)
    labels = [policy.judge(user_prompt("q"), text).label for text in ("see doi.org/1", "trust me")]
    assert labels == [Label.COMPLIANT, Label.NON_COMPLIANT]


def test_the_python_of_the_triage_page_runs(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "How much?", "chosen": "Take 400 mg.", "rejected": "Ask your doctor."}
    Path("pairs.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(blocks(TRIAGE, "python")[0], "docs/triage.md", "exec"), names)
    assert "'INVERT': 1" in capsys.readouterr().out


def test_the_scripted_line_of_the_page_is_read(in_folder: Path) -> None:
    Path("verdicts.jsonl").write_text(blocks(TRIAGE, "json")[0], encoding="utf-8")
    assert ScriptedOracle.from_file("verdicts.jsonl").identity.startswith("scripted/1:")


def table_of(heading: str, first: str) -> list[list[str]]:
    """Return the cells of the table in a section whose head row begins with a cell."""
    section = re.split(r"^## ", POLICY, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(heading))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[0] == first)
    stop = next((n for n in range(start + 2, len(rows)) if set(rows[n][0]) <= {"-"}), len(rows) + 1) - 1
    return rows[start : max(stop, start + 1)]


def test_the_schema_of_the_page_names_every_key() -> None:
    for model, first in ((Policy, "key of the policy"), (Rule, "key of a rule")):
        keys = {field.alias or name for name, field in model.model_fields.items()}
        assert {row[0].strip("`") for row in table_of("The schema", first)[2:]} == keys


def test_the_wording_rule_of_the_page_loads_and_is_clean() -> None:
    rule = yaml.safe_load(blocks(POLICY, "yaml")[1])
    assert lint(Policy.parse({"id": "p", "version": "1", "title": "t", "rules": rule})) == []


def test_the_truth_table_of_the_page_is_what_is_decided() -> None:
    rules = [
        {"id": "x", "by": "llm", "text": "x", "tier": "critical", "requires": ["do x"]},
        {"id": "y", "by": "llm", "text": "y", "tier": "high"},
        {"id": "z", "by": "llm", "text": "z", "tier": "high"},
    ]
    letters = {"C": Label.COMPLIANT, "N": Label.NON_COMPLIANT, "U": Label.UNSURE, "I": Label.INVALID}
    head, _, *rows = table_of("From rules to a decision", "X")
    assert [name.strip("`") for name in head[3:]] == list(get_args(Decision))
    assert len(rows) == 11
    for decision, column in zip(get_args(Decision), range(3, 7), strict=True):
        content = {"id": "p", "version": "1", "title": "t", "decision": decision, "rules": rules}
        policy = Policy.parse(content)
        for row in rows:
            verdicts = [RuleVerdict(name, letters[cell], "") for name, cell in zip("xyz", row[:3], strict=True)]
            assert policy.decide(verdicts).label is letters[row[column]], (decision, row)


def test_the_weights_of_the_page_are_the_defaults() -> None:
    shown = re.findall(r"defaults are `(\{at: .*?\}\})`", POLICY)
    assert [yaml.safe_load(text) for text in shown] == [Threshold().model_dump()]


def test_every_kind_of_lint_finding_is_documented() -> None:
    source = inspect.getsource(lint_module)
    codes = set(re.findall(r"_(?:error|warning)\(\s*\"([a-z-]+)\"", source)) | {"contradiction"}
    assert {row[0].strip("`") for row in table_of("Lint", "code")[2:]} == codes


def test_the_shipped_policies_of_the_page_are_those_that_there_are() -> None:
    expected = []
    for name in shipped_names():
        policy = Policy.load(name)
        wording = policy.wording_rules
        expected.append(
            [f"`{name}`", *(str(n) for n in (len(policy.rules), len(wording), sum(r.has_checks for r in wording)))]
        )
    assert table_of("Shipped policies", "name")[2:] == expected


def test_the_difference_shown_on_the_page_is_what_is_printed() -> None:
    old, new = (Policy.load(f"realigner:pku-saferlhf-{which}") for which in ("old", "new"))
    assert f"| tail -1\n{compare(old, new).lines()[-1]}\n" in POLICY


def test_every_check_column_and_refusal_is_documented() -> None:
    assert [kind for kind in KINDS if f"{{{kind}:" not in POLICY] == []
    assert [name for name in triage_schema().names if f"`{name}`" not in TRIAGE] == []
    assert [reason for reason in Refusal if f"`{reason.value}`" not in TRIAGE] == []
