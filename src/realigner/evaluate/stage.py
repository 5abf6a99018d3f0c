"""The stages `generate` and `evaluate`: answers to held-out prompts before and after, and what is said of them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from realigner import ranks
from realigner.atomic import write_text
from realigner.evaluate.agreement import SIDES, agreement
from realigner.evaluate.answers import RESPONSES, answer, answered_in, judgement_of, judgement_rows, question_of
from realigner.evaluate.draw import draw_prompts
from realigner.evaluate.retained import Retained, compare_on_rows
from realigner.model.encoded import encode_triaged, row_of
from realigner.model.export import trained_settings
from realigner.model.load import load_model
from realigner.model.stage import recipe_encoder
from realigner.oracle import Oracle, ask, open_oracle
from realigner.oracle.build import asked_facts, judged_by
from realigner.oracle.noise import without_noise
from realigner.oracle.plan import Planner
from realigner.policy import Policy
from realigner.records import Judgement, TriagedPair, Verdict
from realigner.runs import Run
from realigner.triaging import read_triage


def run_generate(run: Run) -> dict[str, Any]:
    """Write `responses.parquet`: one response to each chosen held-out prompt by the reference and by the new model."""
    recipe = run.recipe
    models = {"before": recipe.model, "after": trained_settings(recipe.model, run.path("model"))}
    answers = answer(models, [question_of(item) for item in held_out_prompts(run)], recipe, run.progress)
    with run.writing("responses.parquet") as path:
        pq.write_table(pa.Table.from_pylist(answers.rows, schema=RESPONSES), path)
    return answers.facts


def held_out_prompts(run: Run) -> list[TriagedPair]:
    """Return `generate.prompts` held-out pairs of distinct prompts, drawn by the seed."""
    held_out = read_triage(run.path("triage.parquet"), split="eval")
    return draw_prompts(held_out, run.recipe.generate.prompts, run.recipe.seed, "generate")


def run_evaluate(run: Run) -> dict[str, Any]:
    """Write `judgements.parquet` and `summary.json`."""
    if ranks.rank() > 0:  # judges are asked once, by the first process; the models run on all
        _retained(run)
        return {}
    recipe = run.recipe
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    judge = recipe.evaluation_oracle
    rows = pq.read_table(run.path("responses.parquet")).to_pylist()
    questions = [judgement_of(row) for row in rows]
    with open_oracle(judge, policy, recipe.output, run.spent) as oracle:
        verdicts = _judge(run, oracle, questions, judge.questions_at_a_time)
        asked = asked_facts(oracle)
    with run.writing("judgements.parquet") as path:
        pq.write_table(judgement_rows(rows, verdicts), path)
    by_side = {side: [v for row, v in zip(rows, verdicts, strict=True) if row["model"] == side] for side in SIDES}
    answered = answered_in([row for row in rows if row["model"] == SIDES[0]])
    retained, cut = _retained(run)
    triage, weigh = run.facts("triage"), run.facts("weigh")
    same = without_noise(oracle.identity) == without_noise(triage["oracle"])
    warnings = list(weigh["warnings"])
    if same:
        warnings.append("The oracle that evaluates is the one that triaged: shared errors of judgement do not show.")
    if recipe.oracle.noise is not None:
        warnings.append("Triage judged with mistakes put in on purpose (oracle.noise): a study of robustness.")
    if recipe.loss.alpha_kl == 0 and recipe.loss.kl_budget is None:
        warnings.append("Trained without a KL anchor (loss.alpha_kl is 0): nothing held retained behaviour in place.")
    summary = {
        "schema": 1,
        "counts": triage["outcomes"],
        "agreement": agreement(by_side, answered, recipe.seed),
        "kl": None if retained is None else retained.kl_per_token(recipe.seed),
        "perplexity": {s: None if retained is None else retained.perplexity(s, recipe.seed) for s in SIDES},
        "retained_tokens": 0 if retained is None else int(retained.tokens.sum()),
        "seconds": {name: record["seconds"] for name, record in run.stages.items() if "seconds" in record},
        "oracle": {"training": triage["oracle"], "evaluation": oracle.identity, "same": same},
        "policy": {
            "id": policy.id,
            "version": policy.version,
            "title": policy.title,
            "hash": policy.hash,
            "rules": [{"id": rule.id, "tier": rule.tier, "by": rule.by, "text": rule.text} for rule in policy.rules],
        },
        "warnings": warnings,
    }
    with run.writing("summary.json") as path:
        write_text(path, json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    pairs = 0 if retained is None else len(retained.tokens)
    return {"responses": len(rows), "retained_pairs": pairs, "text": cut, **asked}


def _judge(run: Run, oracle: Oracle, questions: list[Judgement], at_a_time: int) -> list[Verdict]:
    """Return the verdicts on the responses; where a judge is asked, say before how much of it, and hold the limits."""
    judged = judged_by(oracle)
    if judged is None:
        return ask(oracle, questions, at_a_time, run.progress)
    with Planner(judged) as planner:
        planner.add(questions)
        plan = planner.plan()
    for line in plan.lines():
        run.progress.say(line)
    plan.refuse_over(judged.meter)
    with judged.asking(plan.calls, run.progress):
        return ask(oracle, questions, at_a_time)


def _retained(run: Run) -> tuple[Retained | None, dict[str, int]]:
    """Compare the models on held-out retained pairs (None where there are none); say what was cut or dropped."""
    recipe = run.recipe
    before = load_model(recipe.model)
    encoder = recipe_encoder(recipe, before.config)
    kept = (i for i in read_triage(run.path("triage.parquet"), split="eval") if i.outcome.is_retained)
    drawn = draw_prompts(kept, recipe.evaluate.retained, recipe.seed, "retained")
    rows = [row_of(example, "chosen") for example in encode_triaged(drawn, encoder)]
    if not rows:
        return None, dict(encoder.tally)
    after = load_model(trained_settings(recipe.model, run.path("model")))
    return compare_on_rows(before, after, rows, progress=run.progress), dict(encoder.tally)
