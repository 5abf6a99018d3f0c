"""The judges of single rules, as a recipe names them: one class a kind, told apart by `kind`.

A kind enters the union `JudgeSettings` together with the function that builds it (`oracle/build.py: JUDGES`), so that
a recipe can name only what there is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from realigner.recipe_parts import (
    FileOrId,
    FilePath,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)

Rate = Annotated[float, Field(ge=0, le=1)]


class RuleNoise(Section):
    """Rates of one rule."""

    rule: str
    """Its id."""
    false_positive: Rate = 0.0
    """As in `oracle.noise`, of this rule's verdicts."""
    false_negative: Rate = 0.0
    """As in `oracle.noise`, of this rule's verdicts."""


class NoiseSettings(Section):
    """Seeded mistakes on top of the oracle of triage, for studies of robustness. Evaluation is judged without them,
    unless `evaluate.oracle` has noise of its own.
    """

    false_positive: Rate = 0.0
    """Share of compliant verdicts that become `non_compliant`."""
    false_negative: Rate = 0.0
    """Share of non_compliant verdicts that become `compliant`."""
    of: Literal["decision", "rules"] = "decision"
    """What is flipped: the decision on a response, or the verdict of each rule, from which the policy decides anew."""
    rules: tuple[RuleNoise, ...] = ()
    """With `of: rules`: rules that have other rates than the two above."""
    correlation: Rate = 0.0
    """Correlation of the flips of two responses to one prompt, under one rule."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the flips; the seed of the run does not change them."""

    @model_validator(mode="after")
    def _rates_of_rules(self) -> NoiseSettings:
        names = [named.rule for named in self.rules]
        if names and self.of != "rules":
            raise ValueError("noise.rules belongs to `of: rules`")
        if len(set(names)) < len(names):
            raise ValueError(f"noise.rules names {max(names, key=names.count)!r} twice; a rule has one pair of rates")
        return self


class RulesJudgeSettings(Section):
    """A rule's own checks (its deterministic fallback): free, and the first step of a cascade."""

    kind: Literal["rules"]
    """The policy's checks. A rule that has none is `unsure`."""


class ScriptedJudgeSettings(Section):
    """Verdicts of single rules that were made elsewhere, from a file."""

    kind: Literal["scripted"]
    """What the file does not hold is an error."""
    path: FilePath
    """JSONL of `{rule, prompt, response, label, reason?}`."""


class HttpJudgeSettings(Section):
    """A language model behind an OpenAI-compatible server: a vendor, vLLM, llama.cpp, Ollama, `transformers serve`."""

    kind: Literal["http"]
    """An HTTP server."""
    url: str
    """Base URL of the API, e.g. `http://localhost:8000/v1`."""
    model: str
    """Name of the model, as the server knows it."""
    key_env: str | None = None
    """Environment variable that holds the API key. The key itself is never written anywhere."""
    concurrency: PositiveInt = 64
    """The most requests in flight."""
    requests_per_minute: PositiveInt | None = None
    """The server's limit. `null`: none."""
    tokens_per_minute: PositiveInt | None = None
    """The server's limit on tokens, prompt and answer together. `null`: none."""
    max_tokens: PositiveInt = 512
    """The most tokens of an answer."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    timeout: PositiveFloat = 120.0
    """Seconds that one request may take."""
    budget: PositiveFloat = 900.0
    """Seconds that one question may take, its retries and pauses included."""


class LocalJudgeSettings(Section):
    """A language model on this machine: the probability of yes and no at the first token of its answer."""

    kind: Literal["local"]
    """A model that transformers loads."""
    path: FileOrId
    """Local directory (safetensors) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights. `auto`: bfloat16 on an accelerator that has it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: the first there is of cuda, mps, cpu."""
    batch_size: PositiveInt = 16
    """Questions in one forward pass."""


class GuardJudgeSettings(Section):
    """A guard model: its own template and categories, mapped to the rules of the policy."""

    kind: Literal["guard"]
    """A guard model."""
    family: Literal["llama-guard-3", "llama-guard-4", "shieldgemma", "qwen3guard", "wildguard", "gpt-oss-safeguard"]
    """Whose template, parser and categories."""
    path: FileOrId
    """Local directory (safetensors) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    batch_size: PositiveInt = 16
    """Questions in one forward pass."""


class VotesSettings(Section):
    """Several judges, each with one vote; without a clear majority the answer is `unsure`."""

    kind: Literal["votes"]
    """A vote."""
    judges: Annotated[tuple[JudgeSettings, ...], Field(min_length=2)]
    """Who votes."""
    margin: PositiveInt = 1
    """Votes that the majority must be ahead by."""


class CascadeSettings(Section):
    """Judges in order, cheap ones first; the next is asked only where the one before is unsure."""

    kind: Literal["cascade"]
    """A cascade."""
    judges: Annotated[tuple[JudgeSettings, ...], Field(min_length=2)]
    """Who is asked, in this order."""


JudgeSettings = Annotated[RulesJudgeSettings | ScriptedJudgeSettings, Field(discriminator="kind")]
"""Every judge that can be named in `oracle.llm` and `oracle.classifier`, told apart by `kind`."""

for _ensemble in (VotesSettings, CascadeSettings):
    _ensemble.model_rebuild()
