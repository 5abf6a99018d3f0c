"""The stages `generate` and `evaluate`: answers to held-out prompts before and after, and what is said of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from realigner import ranks
from realigner.chain.previous import PREVIOUS, stored_chain
from realigner.chain.regressions import regression_warnings, regressions
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.answers import RESPONSES, answer, question_of
from realigner.evaluate.draw import draw_prompts
from realigner.evaluate.judging import Judged, judge_answers, policy_facts, write_summary
from realigner.evaluate.retained import Retained, compare_on_rows
from realigner.model.encoded import encode_triaged, row_of
from realigner.model.export import trained_settings
from realigner.model.load import load_model
from realigner.model.stage import recipe_encoder
from realigner.oracle.noise import without_noise
from realigner.records import TriagedPair
from realigner.runs import Run
from realigner.triaging import read_triage


def run_generate(run: Run) -> dict[str, Any]:
    """Write `responses.parquet`: one response to each chosen held-out prompt by the model before and by the new one."""
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
    judged = judge_answers(run)
    retained, cut = _retained(run)
    triage, weigh = run.facts("triage"), run.facts("weigh")
    same = without_noise(judged.oracle) == without_noise(triage["oracle"])
    warnings = list(weigh["warnings"])
    if same:
        warnings.append("The oracle that evaluates is the one that triaged: shared errors of judgement do not show.")
    if recipe.oracle.noise is not None:
        warnings.append("Triage judged with mistakes put in on purpose (oracle.noise): a study of robustness.")
    if recipe.loss.alpha_kl == 0 and recipe.loss.kl_budget is None:
        warnings.append("Trained without a KL anchor (loss.alpha_kl is 0): nothing held retained behaviour in place.")
    earlier = earlier_policies(run, judged)
    warnings += regression_warnings(earlier)
    summary = {
        "schema": 1,
        "counts": triage["outcomes"],
        "agreement": judged.agreement(recipe.seed),
        "kl": None if retained is None else retained.kl_per_token(recipe.seed),
        "perplexity": {s: None if retained is None else retained.perplexity(s, recipe.seed) for s in SIDES},
        "retained_tokens": 0 if retained is None else int(retained.tokens.sum()),
        "seconds": {name: record["seconds"] for name, record in run.stages.items() if "seconds" in record},
        "oracle": {"training": triage["oracle"], "evaluation": judged.oracle, "same": same},
        "policy": policy_facts(judged.policy),
        "earlier_policies": earlier,
        "warnings": warnings,
    }
    write_summary(run, summary)
    pairs = 0 if retained is None else len(retained.tokens)
    return {"responses": len(judged.rows), "retained_pairs": pairs, "text": cut, **judged.asked}


def earlier_policies(run: Run, judged: Judged) -> dict[str, Any] | None:
    """Return whether rules of earlier policies still hold; None for a run that follows none."""
    chain = stored_chain(run.path(PREVIOUS)) if run.recipe.previous is not None else []
    prompts = [item.prompt for item in judged.answered]
    return regressions(chain, judged.policy, judged.by_side, prompts, run.recipe.seed) if chain else None


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
