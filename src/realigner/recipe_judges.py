"""The judges of single rules, as a recipe names them: one class a kind, told apart by `kind`.

A kind enters the union `JudgeSettings` together with the function that builds it (`oracle/build.py: JUDGES`), so that
a recipe can name only what there is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from realigner.recipe_parts import (
    FileOrId,
    FilePath,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)


class RulesJudgeSettings(Section):
    """A rule's own checks (its deterministic fallback): free, and the first step of a cascade."""

    kind: Literal["rules"]
    """A rule that has no checks is refused."""


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
