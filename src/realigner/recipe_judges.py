"""The judges of single rules, as a recipe names them: one class a kind, told apart by `kind`.

A kind enters the union `JudgeSettings` together with the function that builds it (`oracle/build.py: JUDGES`), so that
a recipe can name only what there is.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from realigner.endpoint import check_extra, check_key_name, check_url
from realigner.recipe_parts import (
    FileOrId,
    FilePath,
    NonNegativeFloat,
    OptionalFileOrId,
    OptionalFilePath,
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


class Connection(Section):
    """A model behind an OpenAI-compatible server, and how hard the server may be pressed."""

    url: str
    """Base URL of the API, e.g. `http://localhost:8000/v1`; requests go to `URL/chat/completions`."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model, as the server knows it."""
    key_env: str | None = None
    """NAME of the environment variable that holds the API key. The key itself is never written anywhere."""
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")] = "Authorization"
    """The header that carries the key; `Authorization` carries it as a bearer token."""
    plain_http_key: bool = False
    """Allow the key to travel unencrypted to a host that is not this machine."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More keys of every request, e.g. `chat_template_kwargs: {enable_thinking: false}`. Never a secret."""
    concurrency: PositiveInt = 32
    """The most requests at a time; fewer while the server says that it is overloaded."""
    requests_per_minute: PositiveInt | None = None
    """The most requests in any minute. `null`: no limit."""
    tokens_per_minute: PositiveInt | None = None
    """The most tokens in any minute, prompts and answers together. `null`: no limit."""
    timeout: PositiveFloat = 120.0
    """Seconds that one request may take, from its start to the last byte."""
    connect_timeout: PositiveFloat = 10.0
    """Seconds until a connection must stand."""
    budget: PositiveFloat = 900.0
    """Seconds that one question or candidate may be tried again, pauses included. If none is answered for as long, the
    run stops; it can be resumed."""
    idempotency_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")] | None = None
    """Header in which this server takes idempotency keys, e.g. `Idempotency-Key`: what it answered to a process that
    was killed is then not paid for again. `null`: none is sent, as few servers know them."""

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        taken = ("authorization", "content-type", "content-length", "host", self.key_header.lower())
        if (self.idempotency_header or "").lower() in taken:
            raise ValueError(f"idempotency_header is {self.idempotency_header!r}, which carries something else")
        # OracleErrors, unlike ValueErrors, leave here as they are: their messages do not repeat what may be a key.
        check_url(self.url)
        check_extra(self.extra)
        if self.key_env is not None:
            check_key_name(self.key_env)
        return self


class HttpJudgeSettings(Connection):
    """A language model behind an OpenAI-compatible server: a vendor, vLLM, llama.cpp, Ollama, `transformers serve`."""

    kind: Literal["http"]
    """An HTTP server."""
    deployment: Annotated[str, Field(min_length=1)] | None = None
    """A name for what serves the model. It replaces host and port in the judge's identity, so that verdicts stay known
    when the same deployment moves; change it when the deployment changes."""
    output: Literal["auto", "json_schema", "json_object", "plain"] = "auto"
    """How the form of answers is enforced; part of the judge's identity. `auto`: the strongest that the server is found
    to support, by a trivial question before the first."""
    max_tokens: PositiveInt = 1024
    """The most tokens of an answer, reasoning included; an answer that is cut is `invalid`."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls this limit."""
    temperature: NonNegativeFloat | None = 0.0
    """0 is greedy. `null`: not sent, for models that refuse it."""


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
    template: Literal["chat", "plain"] = "chat"
    """`chat`: the tokenizer's template. `plain`: for base models that have none."""
    template_arguments: dict[str, bool | int | str] = Field(default_factory=dict)
    """Passed to the chat template; `enable_thinking: false` for models that would think before they answer."""
    unsure: tuple[Rate, Rate] = (0.4, 0.6)
    """A probability of compliance between these two is `unsure`; from the upper one on it is `compliant`."""
    least_mass: Rate = 0.1
    """Probability of yes and no together below which there is no answer: `invalid`."""
    calibration: OptionalFilePath = None
    """A file of `realigner calibrate`, fitted for this model. `null`: the model's own probabilities."""
    batch_size: PositiveInt = 16
    """Questions in one forward pass. It changes no verdict."""

    @model_validator(mode="after")
    def _ordered(self) -> LocalJudgeSettings:
        if self.unsure[0] > self.unsure[1]:
            raise ValueError(f"unsure is {list(self.unsure)}: the lower bound comes first")
        return self


class ServerSettings(Connection):
    """A server that runs the model: vLLM, `transformers serve`, a vendor."""

    deployment: Annotated[str, Field(min_length=1)] | None = None
    """A name for what serves the model; it replaces host and port in the judge's identity."""


class GuardJudgeSettings(Section):
    """A guard model, on this machine (`path`) or behind a server (`server`); oracles.md has each family's limits."""

    kind: Literal["guard"]
    """A guard model."""
    family: Literal["llama-guard-3", "llama-guard-4", "shieldgemma", "qwen3guard", "wildguard", "gpt-oss-safeguard"]
    """Whose prompt, parser and categories."""
    path: OptionalFileOrId = None
    """Local directory (safetensors) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights. `auto`: bfloat16 on an accelerator that has it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: the first there is of cuda, mps, cpu."""
    batch_size: PositiveInt = 8
    """Answers generated at a time on this machine. It changes no verdict."""
    server: ServerSettings | None = None
    """Where the model runs, if not on this machine."""
    categories: Literal["auto", "own", "policy"] = "auto"
    """`own`: by the guard's own taxonomy. `policy`: by the wording of the rules. `auto`: `policy` for shieldgemma and
    gpt-oss-safeguard, which were made for it; `own` for the others."""
    map: dict[str, str] = Field(default_factory=dict)
    """For `own`: rule id to category (code or name). Default: the rule's `category`. A rule without one is `unsure`."""
    prompt: OptionalFilePath = None
    """For wildguard: a file with the prompt of its model card, `{prompt}` and `{response}` in it. `null`: our words."""
    template_arguments: dict[str, bool | int | str] = Field(default_factory=dict)
    """Passed to the model's chat template, e.g. `reasoning_effort: low` for gpt-oss-safeguard."""
    max_tokens: PositiveInt | None = None
    """The most tokens of an answer; one that is cut is `invalid`. Default: the family's, 8 to 2048."""

    @model_validator(mode="after")
    def _one_place(self) -> GuardJudgeSettings:
        if (self.path is None) == (self.server is None):
            raise ValueError("a guard model needs either path (this machine) or server")
        if self.prompt is not None and self.family != "wildguard":
            raise ValueError(
                "prompt belongs to family wildguard; the others have a chat template, or are told the policy"
            )
        return self


class VotesSettings(Section):
    """Several judges, each with one vote; without a clear majority the answer is `unsure`."""

    kind: Literal["votes"]
    """A vote."""
    judges: Annotated[tuple[JudgeSettings, ...], Field(min_length=2)]
    """Who votes."""
    margin: PositiveInt = 1
    """Votes that the majority must be ahead by."""

    @model_validator(mode="after")
    def _can_decide(self) -> VotesSettings:
        if self.margin > len(self.judges):
            raise ValueError(
                f"margin is {self.margin} and {len(self.judges)} judges vote: no majority could be so clear"
            )
        return self


class CascadeStep(Section):
    """One judge of a cascade."""

    judge: JudgeSettings
    """Who is asked."""
    settles: Literal["both", "compliant", "non_compliant"] = "both"
    """Which of its verdicts are final. A word list that finds something may settle `non_compliant`; that it finds
    nothing says little, and the next judge is asked."""


class CascadeSettings(Section):
    """Judges in order, cheap ones first; the next is asked only about what the ones before did not settle."""

    kind: Literal["cascade"]
    """A cascade."""
    steps: Annotated[tuple[CascadeStep, ...], Field(min_length=2)]
    """Who is asked, in this order. What the last one says stands, also `unsure`."""


JudgeSettings = Annotated[
    RulesJudgeSettings
    | ScriptedJudgeSettings
    | HttpJudgeSettings
    | LocalJudgeSettings
    | GuardJudgeSettings
    | VotesSettings
    | CascadeSettings,
    Field(discriminator="kind"),
]
"""Every judge that can be named in `oracle.llm` and `oracle.classifier`, told apart by `kind`."""

for _ensemble in (CascadeStep, VotesSettings, CascadeSettings):
    _ensemble.model_rebuild()
