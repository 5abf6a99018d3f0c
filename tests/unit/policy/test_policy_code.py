"""Python checks: refused without permission, loaded from a named place, and never able to break a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from realigner.errors import PolicyError
from realigner.policy import Policy
from realigner.records import Label, RuleVerdict, user_prompt

CHECKS = """
from realigner.records import Label

def shouts(prompt, response):
    return response.isupper()

def verdict(prompt, response):
    return Label(response)

def fails(prompt, response):
    raise KeyError(response)

def number(prompt, response):
    return 1

def lonely():
    return True

CONSTANT = 3
"""


def content(check: str | dict[str, Any], place: str = "forbid") -> dict[str, Any]:
    body = {"python": check} if isinstance(check, str) else check
    rule: dict[str, Any] = {"id": "r", "text": "A rule.", place: body}
    if place in ("when", "unless"):
        rule["forbid"] = {"regex": "."}
    return {"id": "p", "version": "1", "title": "t", "rules": [rule]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checks.py").write_text(CHECKS, encoding="utf-8")
    return tmp_path


def judge(folder: Path, check: str | dict[str, Any], response: str, place: str = "forbid") -> RuleVerdict:
    policy = Policy.parse(content(check, place), allow_code=True, folder=folder)
    return policy.judge(user_prompt("question"), response).rules[0]


def fault(folder: Path | None, check: str) -> str:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(content(check), allow_code=True, folder=folder)
    return str(caught.value)


def test_code_is_neither_run_nor_imported_without_permission(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(content("checks:shouts")), encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert "rule 'r': forbid.python: a python check imports and runs code, which is off by default" in str(caught.value)
    assert "set policy.allow_code: true in the recipe or pass allow_code=True" in str(caught.value)
    with pytest.raises(ValueError, match="off by default"):
        Policy(**content("checks:shouts"))


def test_a_function_beside_the_policy_file_is_found_and_asked(folder: Path) -> None:
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(content("checks:shouts")), encoding="utf-8")
    policy = Policy.load(path, allow_code=True)
    assert policy.judge(user_prompt("q"), "LOUD").reason == "r: checks:shouts says yes"
    assert policy.judge(user_prompt("q"), "quiet").label is Label.COMPLIANT


def test_an_installed_module_can_be_named() -> None:
    policy = Policy.parse(content("operator:contains", "require"), allow_code=True)
    verdict = policy.judge(user_prompt("x"), "not a turn of the prompt")
    assert verdict.rules[0] == RuleVerdict("r", Label.NON_COMPLIANT, "operator:contains says no")


@pytest.mark.parametrize("label", list(Label))
@pytest.mark.parametrize("place", ["forbid", "require"])
def test_a_label_is_the_verdict_of_a_whole_demand(folder: Path, label: Label, place: str) -> None:
    verdict = judge(folder, "checks:verdict", label.value, place)
    assert verdict == RuleVerdict("r", label, f"checks:verdict says {label.value}")


@pytest.mark.parametrize("place", ["when", "unless"])
@pytest.mark.parametrize("label", list(Label))
def test_a_label_where_only_yes_or_no_fits_never_becomes_a_class(folder: Path, label: Label, place: str) -> None:
    verdict = judge(folder, "checks:verdict", label.value, place)
    assert verdict.label is (Label.UNSURE if label is Label.UNSURE else Label.INVALID)


@pytest.mark.parametrize("kind", ["all", "any", "not"])
def test_a_label_inside_a_combination_is_invalid(folder: Path, kind: str) -> None:
    inner: Any = {"python": "checks:verdict"}
    verdict = judge(folder, {kind: inner if kind == "not" else [inner]}, "compliant")
    assert verdict.label is Label.INVALID
    assert verdict.reason == "checks:verdict says compliant, where only a yes or no can be used"


def test_a_function_that_raises_is_invalid_by_type_and_place_without_its_text(folder: Path) -> None:
    verdict = judge(folder, "checks:fails", "private words")
    assert verdict == RuleVerdict("r", Label.INVALID, "checks:fails raised KeyError (checks.py, line 11)")


def test_a_function_that_returns_something_else_is_invalid(folder: Path) -> None:
    assert judge(folder, "checks:number", "x").reason == "checks:number returned int, not bool or Label"
    assert judge(folder, "checks:number", "x").label is Label.INVALID


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("checks", "'checks' is not of the form module:function"),
        ("../checks:shouts", "'../checks:shouts' is not of the form module:function"),
        ("cheks:shouts", "module 'cheks' was not found beside the policy file"),
        ("checks:shuots", "module 'checks' has no function 'shuots'. Did you mean 'shouts'?"),
        ("checks:CONSTANT", "module 'checks' has no function 'CONSTANT'"),
        ("checks:lonely", "'checks:lonely' must take (prompt, response): too many positional arguments"),
        ("broken:f", "module 'broken' fails to import: ZeroDivisionError"),
        ("needy:f", "module 'needy' needs 'not_there_at_all', which is not installed"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_at_load(folder: Path, target: str, message: str) -> None:
    (folder / "broken.py").write_text("1 / 0", encoding="utf-8")
    (folder / "needy.py").write_text("import not_there_at_all", encoding="utf-8")
    assert f"rule 'r': forbid: {message}" in fault(folder, target)


def test_edited_code_is_another_policy(folder: Path) -> None:
    before = Policy.parse(content("checks:shouts"), allow_code=True, folder=folder)
    file = folder / "checks.py"
    written = file.stat()
    file.write_text(CHECKS.replace("isupper", "islower"), encoding="utf-8")
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))  # within a second, at the same size
    after = Policy.parse(content("checks:shouts"), allow_code=True, folder=folder)
    assert after.judge(user_prompt("q"), "quiet").label is Label.NON_COMPLIANT
    assert before.hash != after.hash
    assert before.rules[0].hash != after.rules[0].hash
