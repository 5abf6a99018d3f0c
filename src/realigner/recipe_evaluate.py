"""What the stage `measure` measures: one section a part; a part whose section is `null` is not measured.

A section enters `EvaluateSettings` (as `NAME: XSettings | None = None`) together with the part that reads it
(`evaluate/parts.py: PARTS`), so that a recipe can name only what there is.
"""

from __future__ import annotations

from typing import Annotated, Literal

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


class UtilitySettings(Section):
    """What the model can still do: benchmark tasks before and after."""

    tasks: tuple[str, ...] = ("mmlu", "hellaswag", "gsm8k")
    """Names of tasks."""
    limit: PositiveInt | None = None
    """Documents of a task. `null`: all."""


class ValuesSettings(Section):
    """Which values moved: statements scored by log-likelihood, before and after."""

    items: tuple[FilePath, ...]
    """Files of statements."""


class InsideSettings(Section):
    """The direction between compliant and non-compliant responses in hidden states, before and after."""

    pairs: PositiveInt = 100
    """Responses of each kind."""
