"""The stages `generate` and `evaluate`: answers to held-out prompts before and after, and what is said of them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from realigner.atomic import write_text
from realigner.evaluate.agreement import agreement
from realigner.evaluate.draw import draw_prompts
from realigner.evaluate.retained import Retained, compare_on_rows
from realigner.model.chat import Encoder
from realigner.model.encoded import encode_triaged, row_of
from realigner.model.export import trained_settings
from realigner.model.generate import generate
from realigner.model.load import load_model
from realigner.model.stage import recipe_encoder
from realigner.oracle import Oracle, ask, open_oracle
from realigner.oracle.build import asked_facts, judged_by
from realigner.oracle.noise import without_noise
from realigner.oracle.plan import Planner
from realigner.policy import Policy
from realigner.records import Judgement, Message, TriagedPair, Verdict, prompt_key
from realigner.runs import Run
from realigner.triaging import read_triage

SIDES = ("before", "after")
_PROMPT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_RULES = pa.list_(pa.struct([("rule", pa.string()), ("label", pa.string()), ("reason", pa.string())]))
RESPONSES = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_id", pa.string()),
        ("pair_id", pa.string()),
        ("outcome", pa.string()),
        ("model", pa.string()),
        ("prompt", _PROMPT),
        ("response", pa.string()),
        ("finish", pa.string()),
        ("tokens", pa.int64()),
        ("seed", pa.int64()),
        ("settings", pa.string()),
    ]
)
JUDGEMENTS = pa.schema(
    [("response_id", pa.string()), ("label", pa.string()), ("rules", _RULES), ("reason", pa.string())]
)


def run_generate(run: Run) -> dict[str, Any]:
    """Write `responses.parquet`: one response to each chosen held-out prompt by the reference and by the new model."""
    recipe = run.recipe
    items = held_out_prompts(run)
    settings = json.dumps(recipe.generate.model_dump(mode="json"), sort_keys=True)
    rows, finished, left_out = [], {}, 0
    for side, where in zip(SIDES, (recipe.model, trained_settings(recipe.model, run.path("model"))), strict=True):
        model = load_model(where)
        encoder = recipe_encoder(recipe, model.config)
        items, dropped = _without_control_tokens(items, encoder)
        left_out += dropped  # the second model has the same tokenizer and drops none
        prompts = [item.pair.prompt for item in items]
        responses = generate(
            model, encoder, prompts, recipe.generate, seed=recipe.seed, progress=run.progress, label=f"answers {side}"
        )
        for item, response in zip(items, responses, strict=True):
            prompt_id = prompt_key(item.pair.prompt)
            rows.append(
                {
                    "id": f"{prompt_id}-{side}",
                    "prompt_id": prompt_id,
                    "pair_id": item.pair.id,
                    "outcome": str(item.outcome),
                    "model": side,
                    "prompt": list(item.pair.prompt),
                    "response": response.text,
                    "finish": response.finish,
                    "tokens": response.tokens,
                    "seed": response.seed,
                    "settings": settings,
                }
            )
        finished[side] = sum(r.finish == "stop" for r in responses) / max(len(responses), 1)
    with run.writing("responses.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
    return {
        "prompts": len(items),
        "left_out_control_token": left_out,
        "ended_by_themselves": finished,
        "cut_prompts": encoder.tally["cut_generation_prompts"],
    }


def _without_control_tokens(items: list[TriagedPair], encoder: Encoder) -> tuple[list[TriagedPair], int]:
    """Return the items whose prompt is text only, and how many are not: those would be read as structure."""
    kept = [item for item in items if encoder.control_token(m["content"] for m in item.pair.prompt) is None]
    return kept, len(items) - len(kept)


def held_out_prompts(run: Run) -> list[TriagedPair]:
    """Return `generate.prompts` held-out pairs of distinct prompts, drawn by the seed."""
    held_out = read_triage(run.path("triage.parquet"), split="eval")
    return draw_prompts(held_out, run.recipe.generate.prompts, run.recipe.seed, "generate")


def run_evaluate(run: Run) -> dict[str, Any]:
    """Write `judgements.parquet` and `summary.json`."""
    recipe = run.recipe
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    judge = recipe.evaluation_oracle
    rows = pq.read_table(run.path("responses.parquet")).to_pylist()
    questions = [
        Judgement(tuple(Message(role=m["role"], content=m["content"]) for m in row["prompt"]), row["response"])
        for row in rows
    ]
    with open_oracle(judge, policy, recipe.output, run.spent) as oracle:
        verdicts = _judge(run, oracle, questions, judge.questions_at_a_time)
        asked = asked_facts(oracle)
    with run.writing("judgements.parquet") as path:
        _write_judgements(rows, verdicts, str(path))
    by_side = {side: [v for row, v in zip(rows, verdicts, strict=True) if row["model"] == side] for side in SIDES}
    outcomes = [row["outcome"] for row in rows if row["model"] == SIDES[0]]
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
        "agreement": agreement(by_side, outcomes, recipe.seed),
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


def _write_judgements(rows: list[dict[str, Any]], verdicts: list[Verdict], path: str) -> None:
    found = [
        {
            "response_id": row["id"],
            "label": str(verdict.label),
            "rules": [{"rule": r.rule, "label": str(r.label), "reason": r.reason} for r in verdict.rules],
            "reason": verdict.reason,
        }
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(found, schema=JUDGEMENTS), path)
