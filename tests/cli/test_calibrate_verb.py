"""`realigner calibrate`, from a recipe and labelled examples to a file that the judge takes."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import saved_tiny

from realigner.oracle.calibrate import local_judges
from realigner.oracle.calibration import Calibration
from realigner.oracle.local import LocalJudge
from realigner.policy import Policy
from realigner.recipe import Recipe
from realigner.records import Judgement, user_prompt

from .conftest import Say

POLICY = {"id": "p", "version": "1", "title": "t", "rules": [{"id": "kind", "by": "llm", "text": "Be kind."}]}


def test_a_calibration_is_fitted_to_the_judge_that_will_use_it(tmp_path: Path, say: Say) -> None:
    model = saved_tiny("llama", tmp_path / "model", max_position_embeddings=2048, layers=1)
    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
    content = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "policy.yaml"}}
    oracle = {"kind": "judges", "llm": {"kind": "local", "path": str(model), "template": "plain"}}
    with_judge = Recipe.parse({**content, "oracle": oracle}, base=tmp_path)
    judge = LocalJudge(local_judges(with_judge)["oracle.llm"])
    kind = Policy.parse(POLICY).rules[0]
    responses = [f"text {n}" for n in range(12)]
    odds = judge.log_odds([(kind, Judgement(user_prompt("q"), response)) for response in responses])
    middle = sorted(odds)[6]  # labels that go with what the judge says
    lines = [
        {"rule": "kind", "prompt": "q", "response": response, "label": ("non_compliant", "compliant")[odd >= middle]}
        for response, odd in zip(responses, odds, strict=True)
    ]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(with_judge.to_yaml(), encoding="utf-8")
    said = say(
        "calibrate", tmp_path / "recipe.yaml", "--examples", tmp_path / "e.jsonl", "--output", tmp_path / "c.json"
    )
    assert said.code == 0, said.err
    assert said.out.startswith("12 examples: p(compliant) = σ(")
    settings = local_judges(with_judge)["oracle.llm"].model_copy(update={"calibration": str(tmp_path / "c.json")})
    assert LocalJudge(settings).identity != judge.identity
    found = Calibration.load(tmp_path / "c.json", judge.uncalibrated)
    assert found.probability(max(odds)) > 0.5 > found.probability(min(odds))


def test_a_policy_without_examples_is_refused_with_the_remedy(tmp_path: Path, say: Say) -> None:
    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
    content = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "policy.yaml"}}
    oracle = {"kind": "judges", "llm": {"kind": "local", "path": "m"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**content, "oracle": oracle}), encoding="utf-8")
    said = say("calibrate", tmp_path / "recipe.yaml", "--output", tmp_path / "c.json")
    assert said.code == 2
    assert "its rules have no examples to fit to. Give a file with --examples" in said.error
