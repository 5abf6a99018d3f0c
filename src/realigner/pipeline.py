"""The main path of a run, from OLD preferences and a NEW policy to a re-aligned model and the evidence for it.

| stage     | reads                     | writes                           | what it is                          |
|-----------|---------------------------|----------------------------------|-------------------------------------|
| triage    | data, policy, corrections | triage.parquet                   | stage 1: two verdicts, one outcome  |
| reference | triage, model             | reference.arrow                  | tokens and log p_ref of responses   |
| weigh     | triage, reference, model  | weights.parquet                  | stage 3: impact of each conflict    |
| train     | all of these              | metrics.jsonl, model/            | stage 2: the hybrid loss            |
| generate  | triage, both models       | responses.parquet                | answers to held-out prompts         |
| evaluate  | responses, both models    | judgements.parquet, summary.json | agreement, KL, perplexity           |
| measure   | both models, responses    | evidence/                        | the parts that the recipe asks for  |
| report    | the run directory         | report.html                      | one page                            |

A stage's key is the hash of what it is computed from; it includes the key of the stage before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from realigner import ranks
from realigner.errors import RecipeError, RunDirError, did_you_mean
from realigner.inputs import (
    evaluate_inputs,
    generate_inputs,
    measure_inputs,
    reference_inputs,
    report_inputs,
    train_inputs,
    triage_inputs,
    weigh_inputs,
)
from realigner.manifest import UPSTREAM, Inputs, key_of
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.runs import Run, Work, finished_stages, follow_run, load_run


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the main path: what it is computed from, and the function that computes it."""

    name: str
    inputs: Callable[[Recipe, Progress], Inputs]
    home: str
    """`module:function`, imported when the stage runs: half of the stages need torch, half must not."""
    ready: Callable[[Recipe], object] | None = None
    """Raises what can be known to be wrong before any stage has run."""
    gate: Callable[[Recipe], object] | None = None
    """Raises what must hold of the stages before, when this one is about to run."""
    demand: Callable[[Recipe], object] | None = None
    """Raises what must hold of its result, whenever it is asked for."""

    def load(self) -> Work:
        """Import the stage's function."""
        module, function = self.home.split(":")
        work: Work = getattr(import_module(module), function)
        return work


def _text_is_ready(recipe: Recipe) -> None:
    """Refuse packages that are not there, and a model, template or length limit that no pair could be encoded with."""
    from realigner.model.extras import refuse_absent_extras
    from realigner.model.load import load_model_config
    from realigner.model.stage import recipe_encoder, refuse_other_tokens

    refuse_absent_extras(recipe)
    recipe_encoder(recipe, load_model_config(recipe.model))
    refuse_other_tokens(recipe)


def _scoring_is_ready(recipe: Recipe) -> None:
    """Refuse a way of scoring that the model's precision does not allow."""
    from realigner.impact.stage import refuse_impossible

    refuse_impossible(recipe)


def _training_is_ready(recipe: Recipe) -> None:
    """Refuse batch sizes that do not fit each other, and trackers that are not there."""
    from realigner.train.config import refuse_impossible

    refuse_impossible(recipe.train)


def _judge_is_audited(recipe: Recipe) -> None:
    """Refuse to go on from verdicts that people have not found good enough, where the recipe asks for that."""
    from realigner.audit.gate import refuse_unaudited

    refuse_unaudited(recipe)


def _gate_is_readable(recipe: Recipe) -> None:
    """Refuse a gate file that means nothing."""
    from realigner.report.gate import read_gate

    if recipe.report.gate is not None:
        read_gate(recipe.report.gate)


def _gate_is_met(recipe: Recipe) -> None:
    """Refuse a run that does not meet the gate that its recipe names."""
    from realigner.report.gate import refuse_unmet

    if recipe.report.gate is not None:
        refuse_unmet(recipe.output, recipe.report.gate)


STAGES = (
    Stage("triage", triage_inputs, "realigner.triaging.stage:run_triage"),
    Stage("reference", reference_inputs, "realigner.model.stage:run_reference", _text_is_ready, _judge_is_audited),
    Stage("weigh", weigh_inputs, "realigner.impact.stage:run_weigh", _scoring_is_ready, _judge_is_audited),
    Stage("train", train_inputs, "realigner.train.stage:run_train", _training_is_ready, _judge_is_audited),
    Stage("generate", generate_inputs, "realigner.evaluate.stage:run_generate"),
    Stage("evaluate", evaluate_inputs, "realigner.evaluate.stage:run_evaluate"),
    Stage("measure", measure_inputs, "realigner.evaluate.parts:run_measure"),
    Stage("report", report_inputs, "realigner.report.stage:run_report", _gate_is_readable, demand=_gate_is_met),
)
NAMES = tuple(stage.name for stage in STAGES)
SHARED = ("reference", "weigh", "train", "generate", "evaluate")
"""Stages that all processes of torchrun run in step; the others wait while the first does the rest."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Where a run lies, and its `summary.json` (empty until the stage `evaluate` is done)."""

    directory: Path
    summary: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Pairs by outcome."""
        return dict(self.summary.get("counts", {}))

    @property
    def model(self) -> Path:
        """The directory of the re-aligned model (or adapter), as `from_pretrained` takes it."""
        return self.directory / "model"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.directory / "report.html"


def run(
    recipe: Recipe,
    *,
    until: str | None = None,
    only: str | None = None,
    progress: Progress = SILENT,
    redo: bool = False,
) -> RunResult:
    """Run the stages that are not done yet, in order; a stopped run resumes at its stage.

    Args:
        recipe: what to run and where.
        until: the last stage to run. Default: all of them.
        only: run this stage alone; the ones before it must be done.
        progress: shows how far the run is.
        redo: drop results computed from other inputs (with `only`: that stage's in any case), and all after them.

    Raises:
        RealignerError: something given is wrong, or training diverged; `InputError`s come before any damage.
        GateNotMet: a stated requirement does not hold; what was done before it is kept.
        Interrupted: SIGINT; the same call resumes.
    """
    last = NAMES.index(_known(only or until or NAMES[-1]))
    stored = finished_stages(Path(recipe.output))
    if only is not None and last > 0:
        if not stored:
            raise RunDirError(
                f"run {recipe.output}",
                f"nothing has been run that '{only}' could follow",
                "First run: realigner triage RECIPE",
            )
        load_run(recipe.output).require(*NAMES[:last])
    wanted = STAGES[last if only else 0 : last + 1]
    for stage in wanted:
        if stage.ready is not None and stage.name not in stored:
            stage.ready(recipe)
    # Every finished stage is compared with the recipe, also those that are not asked for now.
    known = max([last, *(NAMES.index(name) for name in stored if name in NAMES)])
    inputs = stage_inputs(recipe, NAMES[known], progress)
    with Run.open(recipe, inputs, progress=progress, redo=redo, force=only) as opened:
        for stage in wanted:
            if stage.gate is not None and not opened.is_done(stage.name):
                stage.gate(recipe)
            alone = ranks.world() == 1 or stage.name not in SHARED
            opened.stage(stage.name, _by_the_first(stage) if alone else _with_others(stage))
        for stage in wanted:
            if stage.demand is not None:
                stage.demand(recipe)
    return result(recipe.output)


def _by_the_first(stage: Stage) -> Work:
    """Return the stage's function for the first process alone: others only help where it calls a sharded model."""

    def work(run: Run) -> Mapping[str, Any]:
        with ranks.leading():
            return stage.load()(run)

    return work


def _with_others(stage: Stage) -> Work:
    """Return the stage's function for the first process of torchrun: it calls the others to run it too."""

    def work(run: Run) -> Mapping[str, Any]:
        ranks.join()
        ranks.tell([stage.name, str(run.directory)])
        with ranks.together():
            return stage.load()(run)

    return work


def follow() -> None:
    """Take part in the stages that the first process of torchrun calls for, until it is done."""
    from realigner.model.led import accompany, part

    ranks.join()
    while message := ranks.tell():
        if isinstance(message, dict):
            accompany(message)
            continue
        part()
        name, directory = message
        with ranks.together():
            STAGES[NAMES.index(name)].load()(follow_run(directory, name))  # type: ignore[arg-type]
    ranks.leave()


def dismiss() -> None:
    """Tell the other processes of torchrun that nothing more is to be done."""
    ranks.join()
    ranks.tell(None)
    ranks.leave()


def stage_inputs(recipe: Recipe, last: str = NAMES[-1], progress: Progress = SILENT) -> dict[str, Inputs]:
    """Return what each stage up to `last` is computed from. Reads the inputs' fingerprints, computes nothing."""
    inputs: dict[str, Inputs] = {}
    before: dict[str, str] = {}
    for stage in STAGES[: NAMES.index(last) + 1]:
        inputs[stage.name] = {**stage.inputs(recipe, progress), UPSTREAM: before}
        before = {stage.name: key_of(inputs[stage.name])}
    return inputs


def result(directory: str | Path) -> RunResult:
    """Return the result of a stored run, as far as it got."""
    summary = Path(directory) / "summary.json"
    return RunResult(Path(directory), json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {})


def _known(name: str) -> str:
    if name not in NAMES:
        raise RecipeError(
            f"stage '{name}'", f"the stages are {', '.join(NAMES)}", f"Name one of them.{did_you_mean(name, NAMES)}"
        )
    return name
