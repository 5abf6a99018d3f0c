"""What a run would ask of its judges, stage by stage, without asking: `--dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from realigner.data import DataTally, read_pairs, split_of
from realigner.errors import RealignerError
from realigner.evaluate.parts import configured
from realigner.oracle import PolicyOracle
from realigner.oracle.build import judged_by, look_into_oracle
from realigner.oracle.plan import Plan, Planner
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.records import Judgement, Message, prompt_key
from realigner.spent import Spent
from realigner.triaging.plan import plan_triage, writer_lines

JUDGING = ("triage", "evaluate")
"""The stages that judge."""


class Forecast:
    """What the stages of a run would ask. Nothing is asked, nothing is written.

    Args:
        plans: of each stage; None where all of its rules are computed.
        refusal: why a limit would keep the run from starting, or an empty string.
        writer: what else is said of a stage: of corrections that will be written, of the parts of `measure`.
    """

    def __init__(
        self, plans: dict[str, Plan | None], refusal: str, writer: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.plans, self.refusal, self.writer = plans, refusal, writer or {}

    def lines(self) -> list[str]:
        """Return it for people."""
        lines = []
        for stage, plan in self.plans.items():
            said = ["its rules are computed, no judge is asked"] if plan is None else plan.lines()
            lines += [f"{stage}: {line}" for line in (*said, *self.writer.get(stage, ()))]
        lines += [f"measure: {line}" for line in self.writer.get("measure", ())]
        return [*lines, *([f"refused: {self.refusal}"] if self.refusal else ["nothing was asked"])]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plans = {stage: None if plan is None else plan.as_dict() for stage, plan in self.plans.items()}
        return {"plan": plans, "refused": self.refusal or None}


def forecast(recipe: Recipe, stages: Sequence[str] = JUDGING, progress: Progress = SILENT) -> Forecast:
    """Return what stages would ask, as far as the data and the store tell.

    Raises:
        RealignerError: the recipe, the data, the policy, a judge's settings or the price file are wrong.
    """
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    plans: dict[str, Plan | None] = {}
    refusals, spent = [], Spent()
    for stage in stages:
        settings = recipe.oracle if stage == "triage" else recipe.evaluation_oracle
        with look_into_oracle(settings, policy, recipe.output, spent) as oracle:
            judged = judged_by(oracle)
            plans[stage] = plan = None if judged is None else _plan(stage, recipe, judged, progress)
            if plan is None or judged is None:
                continue
            try:
                plan.refuse_over(judged.meter)
            except RealignerError as error:
                refusals.append(f"{stage}: {error}")
            # What one stage takes is not there for the next.
            spent.calls += plan.calls
            spent.cost += plan.cost() or 0.0
    said = {"triage": writer_lines(recipe, plans["triage"])} if "triage" in stages else {}
    if tuple(stages) == JUDGING:
        said["measure"] = [
            f"{part.name}: {line}"
            for part, section in configured(recipe.evaluate)
            for line in part.asks(section, recipe)
        ]
    return Forecast(plans, "; ".join(refusals), said)


def with_limits(recipe: Recipe, max_calls: int | None, max_cost: float | None) -> Recipe:
    """Return the recipe with limits for its judges; where no judge is asked there is nothing to limit.

    Raises:
        RecipeError: a limit on money without a price file.
    """
    given = {name: value for name, value in (("max_calls", max_calls), ("max_cost", max_cost)) if value is not None}
    if not given:
        return recipe
    content = recipe.model_dump()
    for settings in (content["oracle"], content["evaluate"]["oracle"]):
        if settings is not None and settings["kind"] == "judges":
            settings |= given
    win_rate = content["evaluate"]["win_rate"]
    if win_rate is not None and win_rate["judge"]["kind"] == "http":
        win_rate |= given
    if content["corrections"] is not None and content["corrections"]["generate"] is not None:
        content["corrections"]["generate"] |= given
    return Recipe.parse(content, source="--max-calls, --max-cost")


def _plan(stage: str, recipe: Recipe, oracle: PolicyOracle, progress: Progress) -> Plan:
    if stage == "triage":
        return plan_triage(recipe, oracle, progress)
    answers = Path(recipe.output) / "responses.parquet"
    with Planner(oracle) as planner:
        if answers.is_file():
            planner.add(list(_answers(answers)))
        else:
            planner.add(list(_stand_ins(recipe)), sure=False)
        return planner.plan()


def _answers(path: Path) -> Iterator[Judgement]:
    import pyarrow.parquet as pq

    for row in pq.read_table(path, columns=["prompt", "response"]).to_pylist():
        prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"])
        yield Judgement(prompt, row["response"])


def _stand_ins(recipe: Recipe) -> Iterator[Judgement]:
    """Yield texts of the size that the answers will have: two for each prompt that will be drawn."""
    prompts: set[str] = set()
    for pair in read_pairs(recipe.data, DataTally()):
        key = prompt_key(pair.prompt)
        if key in prompts or split_of(pair.prompt, recipe.seed, recipe.data.eval_fraction) != "eval":
            continue
        prompts.add(key)
        # The blanks make texts that no store holds, as the answers are not there yet.
        yield from (Judgement(pair.prompt, f"{pair.chosen}{blanks}") for blanks in (" \n", " \n\n"))
        if len(prompts) == recipe.generate.prompts:
            return
