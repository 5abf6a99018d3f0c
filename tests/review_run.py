"""Runs that were never trained: triaged pairs of every outcome, and answers of models with names to search for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from review_study import POLICY

from realigner.policy import Policy
from realigner.recipe import Recipe
from realigner.records import Label, Outcome, Pair, RuleVerdict, TriagedPair, Verdict, prompt_key, user_prompt
from realigner.runs import Run
from realigner.triaging import direction, outcome, write_triage

YES = Verdict(
    Label.COMPLIANT, (RuleVerdict("no-dosage", Label.COMPLIANT, ""), RuleVerdict("kind", Label.COMPLIANT, ""))
)
NO = Verdict(
    Label.NON_COMPLIANT,
    (RuleVerdict("no-dosage", Label.NON_COMPLIANT, "a dose"), RuleVerdict("kind", Label.COMPLIANT, "")),
    "no-dosage: a dose",
)
UNSURE = Verdict(Label.UNSURE, (), "cannot say")
SIDES = [(NO, YES), (NO, NO), (YES, NO), (YES, YES), (UNSURE, YES), (UNSURE, UNSURE)]


def triaged(count: int) -> list[TriagedPair]:
    """Return pairs whose outcomes take turns; every sixth is held out."""
    found = []
    for number in range(count):
        chosen, rejected = SIDES[number % len(SIDES)]
        result = outcome(chosen.label, rejected.label)
        pair = Pair(
            f"p{number}", user_prompt(f"Question {number}?"), f"Chosen {number}.", f"Rejected {number}.", "test"
        )
        corrected = result is Outcome.PUNISH and number % 12 == 1
        text = "Corrected." if corrected else None
        split = "eval" if number % 5 == 0 else "train"
        found.append(TriagedPair(pair, split, chosen, rejected, result, direction(result, corrected), text))  # type: ignore[arg-type]
    return found


def write_review_run(directory: Path, pairs: int = 60, prompts: int = 20, name: str = "", about: str = "") -> Path:
    """Write a run whose stages triage and generate are done; `name` stands in its models' answers."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    policy = directory.parent / "policy.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    judged = {"id": "clinic", "version": "2.1", "hash": Policy.load(policy).hash}
    recipe = Recipe.parse(
        {"output": str(directory), "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": str(policy)}}
    )

    def triage(run: Run) -> Mapping[str, Any]:
        with run.writing("triage.parquet") as path:
            write_triage(triaged(pairs), path)
        return {"oracle": "rules/1:test", "policy": judged}

    def generate(run: Run) -> Mapping[str, Any]:
        rows = []
        for number in range(prompts):
            prompt = user_prompt(f"Held-out question {number}{about}?")
            for model in ("before", "after"):
                row = {"id": f"{number}-{model}", "prompt_id": prompt_key(prompt), "prompt": list(prompt)}
                text = f"Answer {number} {model} {name}.".strip()
                rows.append({**row, "model": model, "outcome": "INVERT", "response": text})
        with run.writing("responses.parquet") as path:
            pq.write_table(pa.Table.from_pylist(rows), path)
        return {}

    def evaluate(run: Run) -> Mapping[str, Any]:
        answers = pq.read_table(run.path("responses.parquet")).to_pylist()
        rows = [
            {
                "response_id": row["id"],
                "label": "compliant" if row["model"] == "after" else "non_compliant",
                "rules": [{"rule": "kind", "label": "compliant", "reason": ""}],
                "reason": f"because {row['id']}",
            }
            for row in answers
        ]
        with run.writing("judgements.parquet") as path:
            pq.write_table(pa.Table.from_pylist(rows), path)
        with run.writing("summary.json") as path:
            path.write_text(json.dumps({"oracle": {"evaluation": "rules/1:test"}, "policy": judged}))
        return {}

    with Run.open(recipe, {name: {"n": pairs} for name in ("triage", "generate", "evaluate")}) as run:
        run.stage("triage", triage)
        run.stage("generate", generate)
        run.stage("evaluate", evaluate)
    return directory
