"""Answers to verdicts: what the stage `evaluate` of a run and a comparison of any two models share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from realigner.atomic import write_text
from realigner.evaluate.agreement import SIDES, Answered, agreement
from realigner.evaluate.answers import answered_in, judgement_of, judgement_rows
from realigner.oracle import Oracle, ask, open_oracle
from realigner.oracle.build import asked_facts, judged_by
from realigner.oracle.plan import Planner
from realigner.policy import Policy
from realigner.progress import Progress
from realigner.recipe import Recipe
from realigner.records import Judgement, Verdict
from realigner.runs import Run
from realigner.spent import Spent


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows of responses.parquet with their verdicts, and who gave them."""

    rows: list[dict[str, Any]]
    verdicts: list[Verdict]
    policy: Policy
    oracle: str
    """The identity of the judge."""
    asked: dict[str, Any]
    """What judges were asked, for the facts of a stage."""

    def agreement(self, seed: int) -> dict[str, Any]:
        """Return policy agreement before and after; see `realigner.evaluate.agreement`."""
        return agreement(self.by_side, self.answered, seed)

    @property
    def by_side(self) -> dict[str, list[Verdict]]:
        """The verdicts on the answers of each side, in the same order of prompts."""
        pairs = list(zip(self.rows, self.verdicts, strict=True))
        return {side: [verdict for row, verdict in pairs if row["model"] == side] for side in SIDES}

    @property
    def answered(self) -> list[Answered]:
        """What the answers of a side are of, in that order."""
        return list(answered_in([row for row in self.rows if row["model"] == SIDES[0]]))


def judge_answers(run: Run) -> Judged:
    """Judge responses.parquet by the evaluation's oracle, and write judgements.parquet."""
    recipe = run.recipe
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    judge = recipe.evaluation_oracle
    rows = pq.read_table(run.path("responses.parquet")).to_pylist()
    with open_oracle(judge, policy, recipe.output, run.spent) as oracle:
        verdicts = _judge(oracle, [judgement_of(row) for row in rows], judge.questions_at_a_time, run.progress)
        asked = asked_facts(oracle)
    with run.writing("judgements.parquet") as path:
        pq.write_table(judgement_rows(rows, verdicts), path)
    return Judged(rows, verdicts, policy, oracle.identity, asked)


def judge_questions(
    recipe: Recipe, policy: Policy, questions: Sequence[Judgement], progress: Progress, spent: Spent
) -> tuple[list[Verdict], str, dict[str, Any]]:
    """Return the verdicts of the evaluation's oracle, its identity, and what asking took.

    Raises:
        OracleError: the oracle cannot be built or asked.
        LimitReached: a limit on calls or money would be passed; what was answered is stored.
    """
    judge = recipe.evaluation_oracle
    with open_oracle(judge, policy, recipe.output, spent) as oracle:
        verdicts = _judge(oracle, list(questions), judge.questions_at_a_time, progress)
        return verdicts, oracle.identity, asked_facts(oracle)


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Return what summary.json says of the policy."""
    return {
        "id": policy.id,
        "version": policy.version,
        "title": policy.title,
        "hash": policy.hash,
        "rules": [{"id": rule.id, "tier": rule.tier, "by": rule.by, "text": rule.text} for rule in policy.rules],
    }


def write_summary(run: Run, summary: Mapping[str, Any]) -> None:
    """Write summary.json."""
    with run.writing("summary.json") as path:
        write_text(path, json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _judge(oracle: Oracle, questions: list[Judgement], at_a_time: int, progress: Progress) -> list[Verdict]:
    """Return the verdicts on the responses; where a judge is asked, say before how much of it, and hold the limits."""
    judged = judged_by(oracle)
    if judged is None:
        return ask(oracle, questions, at_a_time, progress)
    with Planner(judged) as planner:
        planner.add(questions)
        plan = planner.plan()
    for line in plan.lines():
        progress.say(line)
    plan.refuse_over(judged.meter)
    with judged.asking(plan.calls, progress):
        return ask(oracle, questions, at_a_time)
