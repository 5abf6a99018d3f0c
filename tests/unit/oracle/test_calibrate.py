"""Labelled examples of a recipe's judge: where they come from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import OracleError
from realigner.oracle.calibrate import calibrate, local_judges, policy_examples, read_examples
from realigner.policy import Policy
from realigner.policy.prompt import rule_wording
from realigner.recipe import Recipe

EXAMPLES = [{"text": f"text {n}", "label": ("compliant", "non_compliant")[n % 2], "why": "so"} for n in range(6)]
POLICY: dict[str, Any] = {
    "id": "p",
    "version": "1",
    "title": "t",
    "rules": [
        {"id": "kind", "by": "llm", "text": "Be kind.", "examples": EXAMPLES},
        {"id": "mild", "by": "llm", "text": "Be mild.", "examples": EXAMPLES},
        {"id": "safe", "by": "classifier", "text": "Be safe.", "examples": EXAMPLES[:2]},
        {"id": "red", "text": "No red.", "forbid": {"words": ["red"]}},
    ],
}


def recipe(tmp_path: Path, oracle: dict[str, Any]) -> Recipe:
    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
    content = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "policy.yaml"}}
    return Recipe.parse({**content, "oracle": {"kind": "judges", **oracle}}, base=tmp_path)


def local(path: Path | str = "m") -> dict[str, Any]:
    return {"kind": "local", "path": str(path), "template": "plain"}


def test_an_example_is_judged_by_its_rule_without_it() -> None:
    found = policy_examples(Policy.parse(POLICY), "llm")
    assert len(found) == 12
    for example in found:
        wording = rule_wording(example.rule)
        assert f'"{example.question.response}"' not in wording
        assert len(example.rule.examples) == 5
    assert [example.compliant for example in found[:4]] == [True, False, True, False]
    assert len(policy_examples(Policy.parse(POLICY), "classifier")) == 2


def test_the_judges_of_a_recipe_are_found_wherever_they_stand(tmp_path: Path) -> None:
    votes = {"kind": "votes", "judges": [local("a"), {"kind": "rules"}]}
    cascade = {"kind": "cascade", "steps": [{"judge": {"kind": "rules"}}, {"judge": votes}, {"judge": local("b")}]}
    found = local_judges(recipe(tmp_path, {"llm": cascade, "classifier": local("c")}))
    assert {place: Path(settings.path).name for place, settings in found.items()} == {
        "oracle.llm.steps.1.judge.judges.0": "a",
        "oracle.llm.steps.2.judge": "b",
        "oracle.classifier": "c",
    }


def test_examples_are_read_with_their_rule_and_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    line = {"rule": "mild", "prompt": turns, "response": "r", "label": "non_compliant"}
    (tmp_path / "e.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    [example] = read_examples(tmp_path / "e.jsonl", Policy.parse(POLICY))
    assert (example.rule.id, example.compliant, list(example.question.prompt)) == ("mild", False, turns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "milt"}, r"e\.jsonl:1: rule 'milt': policy p 1 has no such rule\. Correct it\. Did you mean 'mi"),
        ({"label": "unsure"}, r"e\.jsonl:1: label is 'unsure': it must be compliant or non_compliant"),
        ({"response": 3}, r"e\.jsonl:1: response is '3': it must be a text"),
        ({"extra": 1}, r"e\.jsonl:1: unknown key 'extra'"),
    ],
)
def test_a_bad_example_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    line = {"rule": "mild", "prompt": "q", "response": "r", "label": "compliant", **change}
    (tmp_path / "e.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(OracleError, match=message):
        list(read_examples(tmp_path / "e.jsonl", Policy.parse(POLICY)))


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    free = recipe(tmp_path, {"llm": {"kind": "rules"}})
    with pytest.raises(OracleError, match="it has no judge of kind 'local'"):
        calibrate(free, None, "platt", None)
    two = recipe(tmp_path, {"llm": local("a"), "classifier": local("b")})
    with pytest.raises(OracleError, match=r"2 local judges: .*--judge oracle\.llm \| oracle\.classifier"):
        calibrate(two, None, "platt", None)
    with pytest.raises(OracleError, match=r"--judge oracle\.lm: .*Did you mean 'oracle\.llm'"):
        calibrate(two, None, "platt", "oracle.lm")
    with pytest.raises(OracleError, match="method 'isotonic': the methods are platt, temperature"):
        calibrate(two, None, "isotonic", "oracle.llm")  # type: ignore[arg-type]
    with pytest.raises(OracleError, match="no such file"):
        list(read_examples(tmp_path / "none.jsonl", Policy.parse(POLICY)))
