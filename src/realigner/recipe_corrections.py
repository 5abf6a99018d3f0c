"""The section `corrections` of a recipe: proposed answers from a file, and a writer that proposes more."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from realigner.recipe_judges import Connection, JudgeSettings
from realigner.recipe_parts import (
    FileOrId,
    NonNegativeFloat,
    OptionalFilePath,
    PositiveFloat,
    PositiveInt,
    Section,
)


class HttpWriterSettings(Connection):
    """A language model behind an OpenAI-compatible server."""

    kind: Literal["http"]
    """An HTTP server."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit on an answer's tokens."""


class LocalWriterSettings(Section):
    """A language model on this machine."""

    kind: Literal["local"]
    """A model that transformers loads."""
    path: FileOrId
    """Local directory (safetensors; a PEFT adapter directory is merged into its base) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights. `auto`: bfloat16 on an accelerator that has it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: the first there is of cuda, mps, cpu."""
    format: Literal["chat", "plain"] = "chat"
    """As `text.format`: the tokenizer's template, or plain text for base models."""
    template_arguments: dict[str, bool | int | str] = Field(default_factory=dict)
    """Passed to the chat template, e.g. `enable_thinking: false`."""
    batch_size: PositiveInt = 16
    """Candidates written at a time."""


WriterSettings = Annotated[HttpWriterSettings | LocalWriterSettings, Field(discriminator="kind")]


class SecondOpinion(Section):
    """Judges of the same policy who must accept a candidate as well; see `oracle` for what they are."""

    llm: JudgeSettings | None = None
    """Who judges the rules `by: llm`. `null`: the first judge's verdict counts for both."""
    classifier: JudgeSettings | None = None
    """Who judges the rules `by: classifier`. `null`: as above."""

    @model_validator(mode="after")
    def _somebody(self) -> SecondOpinion:
        if self.llm is None and self.classifier is None:
            raise ValueError("a second opinion needs llm or classifier")
        return self


class GenerateCorrections(Section):
    """A writer proposes answers under the new policy; judges decide. See corrections.md."""

    writer: WriterSettings
    """Who writes."""
    candidates: PositiveInt = 4
    """Answers written for each pair; the best accepted one is used."""
    temperature: NonNegativeFloat | None = 0.8
    """Of the writer. `null`: not sent, for models that refuse it. At 0 all candidates of a pair may be the same."""
    max_tokens: PositiveInt = 512
    """The most tokens of a candidate; one that is cut is rejected."""
    most_similar: Annotated[float, Field(gt=0, le=1)] = 0.8
    """A candidate that shares this share of its word pairs with the old preferred answer is rejected as a copy."""
    longest: PositiveFloat = 3.0
    """A candidate that is this many times longer than the longer of the two old answers is rejected; up to 150 words
    are always allowed."""
    refusals: Literal["judged", "rejected"] = "judged"
    """`judged`: a flat refusal is rejected where a rule about refusals says so, whatever the policy's decision.
    `rejected`: always."""
    second: SecondOpinion | None = None
    """Other judges who must accept a candidate too. `null`: the oracle alone decides."""
    journal: OptionalFilePath = None
    """The file that remembers every candidate, so that none is paid for twice. Default: `candidates.jsonl` beside the
    run directory."""
    prices: OptionalFilePath = None
    """What the writer's model costs. Default: `oracle.prices`."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """The most calls that one command may make, judges' and writer's together."""
    max_cost: NonNegativeFloat | None = None
    """The most that one command may spend, on judges and writer together."""


class CorrectionSettings(Section):
    """Proposed answers y_c for PUNISH pairs: from a file, from a writer, or both (the file's come first)."""

    path: OptionalFilePath = None
    """JSONL of `{id, correction}`; `id` is the pair's id in triage.parquet or in the data."""
    generate: GenerateCorrections | None = None
    """A writer for pairs that have no accepted correction yet. `null`: such pairs fall back to dual NPO."""
    over: Literal["chosen", "both"] = "chosen"
    """What a correction is preferred to in training: the chosen response alone, or both old responses, neither of which
    complies. See losses.md."""

    @model_validator(mode="after")
    def _one_source(self) -> CorrectionSettings:
        if self.path is None and self.generate is None:
            raise ValueError("corrections needs path, generate or both")
        return self
