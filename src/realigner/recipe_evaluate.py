"""What the stage `measure` measures: one section a part; a part whose section is `null` is not measured.

A section enters `EvaluateSettings` (as `NAME: XSettings | None = None`) together with the part that reads it
(`evaluate/parts.py: PARTS`), so that a recipe can name only what there is.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from realigner.recipe_judges import HttpJudgeSettings, LocalJudgeSettings
from realigner.recipe_parts import FilePath, NonNegativeFloat, OptionalFilePath, PositiveInt, Section


class PolicyPairSettings(Section):
    """No judge of its own: of two answers the one that the evaluation's oracle calls compliant wins."""

    kind: Literal["policy"]
    """The verdicts in judgements.parquet. Both compliant, or neither: a tie. `unsure` counts as not compliant."""


class ScriptedPairSettings(Section):
    """Choices that were made elsewhere, from a file."""

    kind: Literal["scripted"]
    """What the file does not hold is an error."""
    path: FilePath
    """JSONL of `{prompt, first, second, choice}`: two answers in the order in which they were shown, and `first`,
    `second`, `neither` or `invalid`. Each pair stands there in both orders."""


PairJudgeSettings = Annotated[
    PolicyPairSettings | ScriptedPairSettings | HttpJudgeSettings | LocalJudgeSettings, Field(discriminator="kind")
]


class WinRateSettings(Section):
    """The answers of both models to the same prompts, against each other, each pair asked in both orders."""

    judge: PairJudgeSettings = PolicyPairSettings(kind="policy")
    """Who says which answer is better; `http` and `local` are the judges of `oracle`, asked another question."""
    criterion: Annotated[str, Field(min_length=1, pattern=r"\S")] | None = None
    """What a judge goes by. `null`: the rules of the policy first, then helpfulness."""
    prompts: PositiveInt | None = None
    """The most prompts, drawn by the seed. `null`: all that were answered."""
    store: OptionalFilePath = None
    """The file that remembers choices. Default: `verdicts.sqlite` beside the run directory."""
    prices: OptionalFilePath = None
    """What the judge's model costs, see oracles.md."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """The most calls that one command may make; what triage and evaluation asked in the same command counts."""
    max_cost: NonNegativeFloat | None = None
    """The most that one command may spend, counted in the same way."""

    @model_validator(mode="after")
    def _priced(self) -> WinRateSettings:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("win_rate.max_cost needs win_rate.prices, the file that says what each model costs")
        return self


AttackName = Literal[
    "fictional",
    "refusal_suppression",
    "role_play",
    "prefix_injection",
    "policy_impersonation",
    "encoding",
    "many_shot",
    "multi_turn",
]
"""As in `evaluate/stress/attacks.py: ATTACKS`."""


class StressSettings(Section):
    """Attacks on both models, and what they refuse that they should not; see evidence.md."""

    prompts: OptionalFilePath = None
    """Requests that the policy forbids to fulfil, e.g. AdvBench: CSV, JSONL or Parquet; a column `target` says how an
    answer would begin. `null`: no attacks."""
    column: str | None = None
    """Where the request stands. Default: the first there is of prompt, goal, question, instruction, text."""
    limit: PositiveInt | None = 100
    """The most requests, drawn by the seed; each is asked once as it stands and once an attack. `null`: all."""
    attacks: tuple[AttackName, ...] = get_args(AttackName)
    """Which attacks."""
    over_refusal: OptionalFilePath = None
    """Prompts with `label` safe or unsafe, and `type`, e.g. XSTest. `null`: not measured."""
    over_refusal_limit: PositiveInt | None = None
    """The most prompts of each label, drawn by the seed. `null`: all."""
    newly_allowed: Annotated[int, Field(ge=0)] = 100
    """The most held-out prompts of a run that the new policy newly allows, drawn by the seed. 0: not measured."""
    max_new_tokens: PositiveInt | None = None
    """Tokens of an answer. `null`: as `generate.max_new_tokens`."""

    @model_validator(mode="after")
    def _something(self) -> StressSettings:
        if self.prompts is None and self.over_refusal is None:
            raise ValueError("stress needs prompts, over_refusal or both")
        for name in self.attacks:
            if self.attacks.count(name) > 1:
                raise ValueError(f"stress.attacks names {name!r} twice")
        return self


class UtilityTask(Section):
    """A benchmark: one of ours over a local file, or any of lm_eval's by its name."""

    name: Annotated[str, Field(min_length=1)]
    """`mmlu`, `hellaswag`, `gsm8k` or `gpqa` with a `path`; without one the name of a task or group of lm_eval's."""
    path: OptionalFilePath = None
    """JSONL, Parquet or CSV in the form in which the benchmark is published; nothing is then asked of a network."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Examples before each question. Of a local file they are its first documents (of the subject), not asked."""
    limit: PositiveInt | None = None
    """The most documents, drawn by the seed. `null`: what `evaluate.utility.limit` says."""
    metric: str | None = None
    """The score that is compared, as `metric` or `metric,filter`. `null`: the first of the task."""


class UtilitySettings(Section):
    """What the model can still do: benchmarks by lm_eval (extra `utility`), document by document before and after."""

    tasks: tuple[UtilityTask, ...]
    """At least one; each name once."""
    limit: PositiveInt | None = None
    """The most documents of each task. `null`: all."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """How much of a score (0 to 1) may be lost for the model to count as not worse."""
    batch_size: PositiveInt = 8
    """Requests in one forward pass."""
    max_new_tokens: PositiveInt = 256
    """Tokens of an answer to a local task that generates."""

    @model_validator(mode="after")
    def _each_once(self) -> UtilitySettings:
        names = [task.name for task in self.tasks]
        if not names:
            raise ValueError("evaluate.utility.tasks is empty")
        if len(set(names)) < len(names):
            raise ValueError("evaluate.utility.tasks names a task twice")
        return self


class ValueSet(Section):
    """A file of statements or questions that show values."""

    path: FilePath
    """As it is published: JSONL, CSV, TSV or Parquet."""
    format: Literal["auto", "persona", "valuebench", "dailydilemmas", "worldvaluesbench"] = "auto"
    """How its columns are read, see evidence.md. `auto`: told from their names."""
    name: str | None = None
    """Of the set, in figures. `null`: the file's name."""
    value: str | None = None
    """For `persona`: the value that the statements are about. `null`: the file's name."""
    questions: OptionalFilePath = None
    """For `worldvaluesbench`: the JSON file of the questions."""


class ValuesSettings(Section):
    """Which values moved: statements scored by log-likelihood, before and after."""

    sets: tuple[ValueSet, ...]
    """At least one; each name once."""
    limit: PositiveInt | None = None
    """The most items of each value, drawn by the seed. `null`: all."""
    instruction: str = "Answer with yes or no."
    """Stands after each question that is answered by yes or no."""
    batch_size: PositiveInt = 16
    """Questions in one forward pass; results do not depend on it."""

    @model_validator(mode="after")
    def _some(self) -> ValuesSettings:
        if not self.sets:
            raise ValueError("evaluate.values.sets is empty")
        return self


class InsideSettings(Section):
    """The direction between compliant and non-compliant answers in hidden states, and how far the model moved on it."""

    triage: OptionalFilePath = None
    """The triage.parquet whose pairs show the direction. `null`: the run's own; two models without a run need it."""
    pairs: Annotated[int, Field(ge=8)] = 200
    """The most prompts with a compliant and a non-compliant answer, on either side of the split."""
    prompts: Annotated[int, Field(ge=2)] = 200
    """The most held-out prompts over which the shift is measured."""
    permutations: Annotated[int, Field(ge=99)] = 1999
    """Directions with labels flipped by chance, the baseline."""
