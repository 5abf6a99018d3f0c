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
