"""The stage `measure`: the parts of the evaluation that a recipe asks for, in a fixed order, each resumable by itself.

A part is one function `measure(settings, comparison) -> Evidence` and one light function `inputs(settings)` that
returns the identities of the files it reads; it may have `check(settings)` and `asks(settings, recipe)`, see `Part`. A
new part is these, its section in `recipe_evaluate.py`, and one line in `PARTS`.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.atomic import hash_of, write_text, writing
from realigner.errors import RecipeError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import FOLDER, INDEX, SCHEMA, Evidence, stored_part, write_evidence
from realigner.manifest import Inputs, key_of
from realigner.policy import Policy
from realigner.progress import Progress
from realigner.recipe import EvaluateSettings, ModelSettings, Recipe, Section
from realigner.recipe_parts import place_paths
from realigner.records import Judgement, Prompt, Verdict
from realigner.runs import Run
from realigner.spent import Spent

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the evaluation."""

    name: str
    """Of its section under `evaluate`, of its file, and the first word of its figures."""
    version: int
    """Raise it when the same inputs give other figures: what is stored is then measured again."""
    home: str
    """The module that has `measure` and, unless `inputs_home` names another, `inputs`."""
    inputs_home: str = ""
    """A light module for `inputs`, where the part's own is not."""
    reads: tuple[str, ...] = ()
    """Files of the run directory that it reads, where they are there."""
    unkeyed: tuple[str, ...] = ()
    """Settings that change no figure (limits, stores), or whose identity is among its inputs (judges)."""
    judges: bool = False
    """Whether it asks the oracle of the evaluation: policy and oracle then decide it too."""

    def measure(self, settings: Any, comparison: Comparison) -> Evidence:
        """Import the part, and measure."""
        work: Callable[[Any, Comparison], Evidence] = import_module(self.home).measure
        return work(settings, comparison)

    def inputs(self, settings: Any) -> dict[str, Any]:
        """Return the identities of the files that the settings name."""
        read: Callable[[Any], dict[str, Any]] = import_module(self.inputs_home or self.home).inputs
        return read(settings)

    def check(self, settings: Any) -> list[str]:
        """Return what the part says of itself before anything is computed, if it says anything: one line each.

        Raises:
            RealignerError: it cannot be measured as asked, e.g. a server cannot be reached.
        """
        own: Callable[[Any], list[str]] | None = getattr(import_module(self.home), "check", None)
        return [] if own is None else own(settings)

    def asks(self, settings: Any, recipe: Recipe) -> list[str]:
        """Return what the part would ask of judges, one line each; empty where it asks nobody."""
        own: Callable[[Any, Recipe], list[str]] | None = getattr(import_module(self.home), "asks", None)
        return [] if own is None else own(settings, recipe)


PARTS: tuple[Part, ...] = (
    Part(
        "win_rate",
        1,
        "realigner.evaluate.win_rate",
        reads=("responses.parquet", "judgements.parquet"),
        unkeyed=("judge", "store", "prices", "max_calls", "max_cost"),
        judges=True,
    ),
    Part("stress", 1, "realigner.evaluate.stress.run", reads=("triage.parquet",), judges=True),
    Part("utility", 1, "realigner.evaluate.utility"),
    Part("values", 1, "realigner.evaluate.values"),
    Part("inside", 1, "realigner.evaluate.inside", reads=("triage.parquet",)),
)
"""In the order in which they are measured and shown."""


@dataclass(frozen=True)
class Comparison:
    """Two models that are measured side by side, and how a part gets at them."""

    recipe: Recipe
    models: Mapping[str, ModelSettings]
    """`before` and `after`."""
    policy: Policy
    """The new policy."""
    directory: Path
    """The run directory; `responses.parquet`, `judgements.parquet` and (of a run) `triage.parquet` lie here."""
    scratch: Path
    """A directory that survives an interruption and is removed when the stage is done."""
    progress: Progress
    spent: Spent
    """What the command has spent on judges."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn or resampled."""
        return self.recipe.seed

    @property
    def folder(self) -> Path:
        """Where the evidence is written."""
        return self.directory / FOLDER

    def load(self, side: str) -> tuple[Any, Any]:
        """Return (model, encoder) of a side. Let go of one before the other is loaded."""
        from realigner.model.load import load_model

        gc.collect()  # what holds itself in a cycle (lm_eval's wrapper) would keep the other model beside this one
        model = load_model(self.models[side])
        return model, self.encoder(side)

    def encoder(self, side: str) -> Any:
        """Return the encoder of a side, with the tokenizer that was saved beside its model."""
        from realigner.model.load import load_model_config
        from realigner.model.stage import recipe_encoder

        settings = self.models[side]
        return recipe_encoder(self.recipe.model_copy(update={"model": settings}), load_model_config(settings))

    def answers(self, prompts: Sequence[Prompt], label: str, **changes: Any) -> Mapping[str, Sequence[Any]]:
        """Let both models answer, one in memory at a time; what was answered before an interruption is kept.

        Args:
            prompts: any.
            label: for progress, and part of the name under which answers are kept.
            changes: of `generate`, e.g. `max_new_tokens=64`; there is one response to a prompt.

        Returns:
            By side a `realigner.model.generate.Response` for each prompt, in order; None on both sides where the
            prompt holds a control token of either tokenizer, which would be read as structure.
        """
        from realigner.evaluate.side_answers import both_answers

        return both_answers(self, prompts, label, self.recipe.generate.model_copy(update={"samples": 1} | changes))

    def kept(self, name: str, make: Callable[[], pa.Table]) -> pa.Table:
        """Return what `make` does, kept under a name, so that it outlives an interruption."""
        import pyarrow.parquet as pq

        file = self.scratch / f"{name}.parquet"
        if not file.is_file():
            table = make()
            with writing(file) as path:
                pq.write_table(table, path)
        return pq.read_table(file)

    def cut_prompts(self, prompts: Sequence[Prompt], **changes: Any) -> Mapping[str, int]:
        """Return by side how many prompts do not fit before an answer: they lose their oldest turns or their beginning.

        Args:
            prompts: any.
            changes: of `generate`, as for `answers`.
        """
        room = self.recipe.generate.model_copy(update=changes).max_new_tokens
        cut = {}
        for side in SIDES:
            encoder = self.encoder(side)
            for prompt in prompts:
                encoder.prompt_ids(prompt, room)
            cut[side] = int(encoder.tally["cut_generation_prompts"])
        return cut

    def judge(self, questions: Sequence[Judgement]) -> tuple[list[Verdict], str, dict[str, Any]]:
        """Return the verdicts of the evaluation's oracle, its identity, and what asking took.

        It is asked with its store and under its limits, and says before how much it will ask.
        """
        from realigner.evaluate.judging import judge_questions

        return judge_questions(self.recipe, self.policy, questions, self.progress, self.spent)

    def old_policy(self) -> Policy | None:
        """Return the OLD policy, where the recipe names one or follows a run; None where it is not known."""
        settings = self.recipe.old_policy
        if settings is not None:
            return Policy.load(settings.path, allow_code=settings.allow_code)
        if self.recipe.previous is not None:
            from realigner.chain.previous import load_previous

            run = load_previous(self.recipe)
            assert run is not None
            previous = run.recipe.policy
            return Policy.load(previous.path, allow_code=previous.allow_code)
        return None


def configured(settings: EvaluateSettings) -> list[tuple[Part, Any]]:
    """Return the parts that a recipe asks for, each with its section."""
    found = [(part, getattr(settings, part.name)) for part in PARTS]
    return [(part, section) for part, section in found if section is not None]


def parts_inputs(settings: EvaluateSettings) -> Inputs:
    """Return what decides the parts, beyond what decided the stages before: settings and the files they name.

    Raises:
        RecipeError: a file is not there.
    """
    return {
        part.name: {**_settings(part, section), "files": part.inputs(section)} for part, section in configured(settings)
    }


def run_measure(run: Run) -> dict[str, Any]:
    """Measure a run: the model that it started from, and the one that it trained."""
    from realigner.model.export import trained_settings

    recipe = run.recipe
    return measure_parts(run, {"before": recipe.model, "after": trained_settings(recipe.model, run.path("model"))})


def measure_parts(run: Run, models: Mapping[str, ModelSettings]) -> dict[str, Any]:
    """Write `evidence/PART.json` for each part that is asked for, unless it is there with the same key.

    Returns the stage's facts: the parts and their warnings.
    """
    asked = configured(run.recipe.evaluate)
    if not asked:
        return {"parts": []}
    recipe = run.recipe
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    comparison = Comparison(recipe, models, policy, run.directory, run.scratch(), run.progress, run.spent)
    comparison.folder.mkdir(exist_ok=True)
    index, warnings = [], []
    for part, section in asked:
        key = key_of(_key_parts(part, section, comparison))
        stored = stored_part(comparison.folder, part.name)
        if stored is not None and stored["key"] == key:
            run.progress.say(f"measure: {part.name} already done, kept")
        else:
            run.progress.say(f"measure: {part.name} ...")
            begin = time.perf_counter()
            found = part.measure(section, comparison)
            write_evidence(
                comparison.folder,
                part.name,
                found,
                key=key,
                seconds=time.perf_counter() - begin,
                settings=section.model_dump(mode="json"),
            )
            stored = stored_part(comparison.folder, part.name)
            assert stored is not None
        warnings += [f"{part.name}: {text}" for text in stored["warnings"]]
        index.append({"part": part.name, "key": key, "hash": hash_of(comparison.folder / f"{part.name}.json")})
    # The parts are no outputs of the stage: a part whose key still holds outlives a change of another.
    with run.writing(INDEX) as path:
        write_text(path, json.dumps({"schema": SCHEMA, "parts": index}, indent=1) + "\n")
    return {"parts": [part.name for part, _ in asked], "warnings": warnings}


def file_identity(path: str, name: str) -> str:
    """Return the identity of a file that the recipe names, for `inputs`.

    Raises:
        RecipeError: there is no such file.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{name} = {path}", "there is no such file", "Check the path; it is relative to the recipe")
    return hash_of(Path(path)).rpartition(":")[2][:16]


def _key_parts(part: Part, section: Section, comparison: Comparison) -> dict[str, Any]:
    """Return what a part is computed from."""
    from realigner.model.load import model_fingerprint

    recipe = comparison.recipe
    decided: dict[str, Any] = {
        "part": part.name,
        "version": part.version,
        "settings": _settings(part, section),
        "files": part.inputs(section),
        "seed": recipe.seed,
        "text": recipe.text.model_dump(mode="json"),
        "generate": recipe.generate.model_dump(mode="json", exclude={"prompts", "samples"}),
        "models": {side: model_fingerprint(comparison.models[side]) for side in SIDES},
        "dtype": {side: comparison.models[side].dtype for side in SIDES},
    }
    for name in part.reads:
        path = comparison.directory / name
        decided[name] = hash_of(path) if path.exists() else None
    if part.judges:
        from realigner.oracle import build_oracle

        old = comparison.old_policy()
        decided["policy"] = comparison.policy.hash
        decided["old_policy"] = None if old is None else old.hash
        decided["oracle"] = build_oracle(recipe.evaluation_oracle, comparison.policy).identity
    return decided


def _settings(part: Part, section: Section) -> dict[str, Any]:
    """Return the settings that decide figures, every path blanked: a file enters by its content."""
    return place_paths(section, lambda _text, _mark: "").model_dump(mode="json", exclude=set(part.unkeyed))
