"""Any two models by any policy on any prompts, without a run: their answers, the verdicts, agreement side by side.

What it writes is a run directory of four stages, `generate`, `evaluate`, `measure` and `report`. So it resumes, refuses
what was computed from other inputs, can be audited (`realigner audit sample DIR --of evaluation`) and is read by the
same tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from realigner.atomic import hash_of
from realigner.data.prompts import ReadPrompt, read_prompts
from realigner.errors import DataError, RecipeError
from realigner.evaluate.answers import RESPONSES, Question, answer
from realigner.evaluate.judging import judge_answers, policy_facts, write_summary
from realigner.evaluate.parts import measure_parts
from realigner.inputs import evaluate_inputs, measure_inputs, report_inputs
from realigner.manifest import MANIFEST, UPSTREAM, Inputs, key_of
from realigner.model.load import model_fingerprint
from realigner.oracle.noise import without_noise
from realigner.progress import SILENT, Progress
from realigner.recipe import ModelSettings, Recipe
from realigner.records import prompt_key, text_hash
from realigner.report.gate import read_gate, refuse_unmet
from realigner.report.stage import run_report
from realigner.runs import Run, StoredRun, load_run


@dataclass(frozen=True, slots=True)
class TwoModels:
    """What is compared. `recipe.model` is the model before, `recipe.data.path` the file of prompts."""

    recipe: Recipe
    after: ModelSettings
    prompts: tuple[ReadPrompt, ...]

    @property
    def models(self) -> dict[str, ModelSettings]:
        """Both models by the names that they have in every table."""
        return {"before": self.recipe.model, "after": self.after}


def two_models(
    before: str,
    after: str,
    policy: str,
    prompts: Path,
    out: Path,
    *,
    settings: tuple[str, ...] = (),
    column: str | None = None,
) -> TwoModels:
    """Read what is to be compared.

    Args:
        before: directory (of a model or an adapter) or hub id.
        after: the same.
        policy: policy file, or the name of a shipped one.
        prompts: JSONL, Parquet or CSV.
        out: the directory to write.
        settings: overrides `a.b=value` as of a recipe: `generate`, `text`, `oracle`, `data.topic`, `seed` and `model`
            (both models) apply. Unless `generate.prompts` is given, every prompt is answered.
        column: where the prompt stands.

    Raises:
        RecipeError: an override is wrong.
        DataError: the prompts cannot be read.
    """
    content = {
        "output": str(out),
        "model": {"path": before, "lora": None},
        "data": {"path": str(prompts)},
        "policy": {"path": policy},
    }
    recipe = Recipe.compose(content, settings, source="realigner evaluate", base=Path.cwd())
    if not Path(recipe.data.path).is_file():
        raise DataError(f"prompts {prompts}", "there is no such file", "Give JSONL, Parquet or CSV with --prompts")
    found = read_prompts(Path(recipe.data.path), column, recipe.data.topic)
    if not any(setting.startswith("generate.prompts=") for setting in settings):
        recipe = recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"prompts": len(found)})})
    if recipe.evaluate.inside is not None and recipe.evaluate.inside.triage is None:
        raise RecipeError(
            "evaluate.inside without a run",
            "judged pairs show the direction, and two models have none",
            "Set evaluate.inside.triage to the triage.parquet of a run",
        )
    other = Recipe.parse(
        {**recipe.model_dump(), "model": {**recipe.model.model_dump(), "path": after}}, base=Path.cwd()
    )
    return TwoModels(recipe, other.model, tuple(_drawn(found, recipe.generate.prompts, recipe.seed)))


def compare_two(compared: TwoModels, *, progress: Progress = SILENT, redo: bool = False) -> StoredRun:
    """Let both models answer, judge the answers, write summary and report; return the directory.

    Raises:
        RealignerError: something given is wrong; what was finished is kept, and the same call resumes.
        GateNotMet: the gate that `report.gate` names is not met; everything is kept.
    """

    def generate(run: Run) -> Mapping[str, Any]:
        questions = [Question(read.prompt, topic=read.topic) for read in compared.prompts]
        answers = answer(compared.models, questions, compared.recipe, run.progress)
        with run.writing("responses.parquet") as path:
            pq.write_table(pa.Table.from_pylist(answers.rows, schema=RESPONSES), path)
        return {**answers.facts, "models": {side: model.path for side, model in compared.models.items()}}

    def evaluate(run: Run) -> Mapping[str, Any]:
        return _evaluate(run, compared)

    def measure(run: Run) -> Mapping[str, Any]:
        return measure_parts(run, compared.models)

    gate = compared.recipe.report.gate
    if gate is not None:
        read_gate(gate)  # before anything is computed
    with Run.open(compared.recipe, _inputs(compared, progress), progress=progress, redo=redo) as run:
        stages = (("generate", generate), ("evaluate", evaluate), ("measure", measure), ("report", run_report))
        for name, work in stages:
            run.stage(name, work)
    if gate is not None:
        refuse_unmet(compared.recipe.output, gate)
    return load_run(compared.recipe.output)


def _evaluate(run: Run, compared: TwoModels) -> Mapping[str, Any]:
    judged = judge_answers(run)
    training = {side: _judge_in_training(model) for side, model in compared.models.items()}
    known = {identity for identity in training.values() if identity is not None}
    same = without_noise(judged.oracle) in {without_noise(identity) for identity in known} if known else None
    warnings = {
        True: ["The judge chose the training pairs of one of the models: shared errors of judgement do not show."],
        False: [],
        None: ["Whether the judge had a part in training either model is not recorded. It should have had none."],
    }[same]
    summary = {
        "schema": 1,
        "counts": {},
        "agreement": judged.agreement(compared.recipe.seed),
        "kl": None,
        "perplexity": {"before": None, "after": None},
        "retained_tokens": 0,
        "seconds": {name: record["seconds"] for name, record in run.stages.items() if "seconds" in record},
        "oracle": {"training": training["after"] or training["before"], "evaluation": judged.oracle, "same": same},
        "policy": policy_facts(judged.policy),
        "warnings": warnings,
    }
    write_summary(run, summary)
    return {"responses": len(judged.rows), **judged.asked}


def _inputs(compared: TwoModels, progress: Progress) -> dict[str, Inputs]:
    """Return what decides each stage."""
    recipe = compared.recipe
    audit = Path(recipe.output) / "audit.json"
    generate = {
        "seed": recipe.seed,
        "models": {side: _model(model) for side, model in compared.models.items()},
        "text": recipe.text.model_dump(mode="json"),
        "generate": recipe.generate.model_dump(mode="json"),
        "prompts": text_hash(*(f"{prompt_key(read.prompt)} {read.topic}" for read in compared.prompts)),
    }
    evaluate = {**evaluate_inputs(recipe, progress), UPSTREAM: {"generate": key_of(generate)}}
    measure = {**measure_inputs(recipe, progress), UPSTREAM: {"evaluate": key_of(evaluate)}}
    report = {
        **report_inputs(recipe, progress),
        "audit": hash_of(audit) if audit.is_file() else None,
        UPSTREAM: {"measure": key_of(measure)},
    }
    return {"generate": generate, "evaluate": evaluate, "measure": measure, "report": report}


def _model(settings: ModelSettings) -> dict[str, Any]:
    how = settings.model_dump(mode="json", include={"dtype", "device", "attention"})
    return {**how, "content": model_fingerprint(settings)}


def _judge_in_training(model: ModelSettings) -> str | None:
    """Return who triaged for a model that lies in a run directory; None where that is not known."""
    folder = Path(model.path).parent
    if not (folder / MANIFEST).is_file():
        return None
    run = load_run(folder)
    return str(run.facts("triage")["oracle"]) if run.is_done("triage") else None


def _drawn(prompts: list[ReadPrompt], count: int, seed: int) -> list[ReadPrompt]:
    """Return `count` prompts by the rank of a hash, as held-out prompts are drawn."""

    def rank(read: ReadPrompt) -> str:
        return text_hash(str(seed), "generate", prompt_key(read.prompt))

    return prompts if count >= len(prompts) else sorted(prompts, key=rank)[:count]
