"""The one schema of a run: the YAML file, the Python object and `--set` overrides are the same thing.

Paths in a recipe file are relative to the file. Every field states its unit and range in its description;
`realigner init` writes a commented example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from realigner.errors import RecipeError, did_you_mean
from realigner.recipe_corrections import CorrectionSettings
from realigner.recipe_evaluate import (
    InsideSettings,
    StressSettings,
    UtilitySettings,
    ValuesSettings,
    WinRateSettings,
)
from realigner.recipe_judges import JudgeSettings, NoiseSettings
from realigner.recipe_parts import (
    A_FILE,
    FileOrId,
    FilePath,
    NonNegativeFloat,
    OptionalFilePath,
    PathMark,
    PositiveFloat,
    PositiveInt,
    Section,
    place_paths,
)
from realigner.strict_yaml import load_yaml, yaml_fault

__all__ = ["Recipe", "Section"]


class LoraSettings(Section):
    """LoRA adapter (arXiv 2106.09685). The defaults are the TRACE paper's."""

    rank: PositiveInt = 32
    """r, the rank of the update."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "v_proj")
    """Names of the linear layers that get an adapter; `all-linear` is every one but the head."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that is zeroed in training; off while scoring."""


class ModelSettings(Section):
    """The aligned model to start from. It is also the frozen reference, unless `reference` names another."""

    called: ClassVar[str] = "model.path"
    """What errors call its path."""
    path: FileOrId
    """Local directory (safetensors; a PEFT adapter directory is merged into its base) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Precision of the weights. `auto`: bfloat16 on an accelerator that has it and with LoRA, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: the first there is of cuda, mps, cpu."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex"] = "auto"
    """The attention implementation of transformers. `auto`: its choice for the model; packed rows of training go to
    torch's FlexAttention on CUDA, where it is found equal to plain attention. `flex`: an error where it is not."""
    lora: LoraSettings | None = LoraSettings()
    """`null` trains all parameters."""
    quantize: Literal["nf4"] | None = None
    """`nf4`: the frozen weights in 4 bits under an adapter (QLoRA, arXiv 2305.14314), for reference, training and
    answers alike. Needs `pip install 'realigner[qlora]'`; see training.md."""
    shard: bool = False
    """Under torchrun, spread the weights over the processes (FSDP2), for models that one device cannot hold; see
    scaling.md. One process alone keeps them whole."""

    @model_validator(mode="after")
    def _only_adapters_train_on_quantised_weights(self) -> ModelSettings:
        if self.quantize is not None and self.lora is None:
            raise ValueError("model.quantize needs model.lora: quantised weights themselves cannot be trained")
        if self.quantize is not None and self.shard:
            raise ValueError("model.shard does not spread 4-bit weights: leave out model.shard or model.quantize")
        return self


class ReferenceSettings(Section):
    """A frozen reference that is not the model to start from: in a chain of runs, the first aligned model, so that
    drift does not add up from run to run (findings.md). It has the tokens of `model`, and is loaded as `model` says.
    """

    path: FileOrId
    """Local directory (safetensors; a PEFT adapter directory is merged into its base) or hub id."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""


class FieldMap(Section):
    """Which column (or dotted path, `meta.question`) holds what, for data in none of the known formats."""

    prompt: str | None = None
    """The prompt: text or messages. Without it, the beginning that both responses share."""
    chosen: str
    """The response that was preferred."""
    rejected: str
    """The other response."""
    id: str | None = None
    """The pair's own id, unique in the data. Default: a hash of its content."""


class DataSettings(Section):
    """The OLD preference data."""

    path: FileOrId
    """JSONL (also .gz), Parquet, a directory written by `datasets`, or a hub id."""
    format: Literal["auto", "trl", "pku-saferlhf", "hh-rlhf"] = "auto"
    """How a row is read, see data.md. `auto`: told from the first row that shows it."""
    config: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub or `save_to_disk` data set, and of a directory whose file names say their split."""
    fields: FieldMap | None = None
    """Columns of other names. `null`: the format's own."""
    topic: str | None = None
    """Column (or dotted path) that says what a prompt is about; agreement is then also given by topic."""
    limit: PositiveInt | None = None
    """Read at most this many valid pairs."""
    on_invalid: Literal["error", "skip"] = "error"
    """An unusable pair (empty, identical, no single last answer) stops the run, or is skipped and counted."""
    duplicates: Literal["drop", "error"] = "drop"
    """A pair that occurred before is left out and counted, or stops the run."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of PROMPTS held out; all pairs of a prompt go to the same side."""


class PolicySettings(Section):
    """The NEW policy."""

    path: FilePath
    """The policy file, see policy.md, or a shipped policy by name: `realigner:house-style`."""
    allow_code: bool = False
    """Permit `python:` checks, which import and call code named in the policy file."""


class OracleSettings(Section):
    """Who judges, see oracles.md."""

    kind: Literal["rules", "scripted", "judges"] = "rules"
    """`rules`: the policy's own checks. `scripted`: verdicts from a file. `judges`: checks for rules `by: rules`, and
    the judges below for rules `by: llm` and `by: classifier`."""
    path: OptionalFilePath = None
    """For `scripted`: JSONL of `{prompt, response, label, reason?, rules?}`."""
    fallbacks: bool = False
    """For `rules`: let the checks of rules that need a judge stand in for it; the oracle's identity names them."""
    batch_size: PositiveInt | None = None
    """The most questions in one call of the oracle. Default: 256; with `judges` 8192, so that a server never waits."""
    llm: JudgeSettings | None = None
    """For `judges`: who judges the rules `by: llm`."""
    classifier: JudgeSettings | None = None
    """For `judges`: who judges the rules `by: classifier`."""
    rules_per_call: PositiveInt = 1
    """For `judges`: rules judged together in one call. More is cheaper and less exact; verdicts made in one mode are
    not used in another."""
    store: OptionalFilePath = None
    """For `judges`: the file that remembers verdicts. Default: `verdicts.sqlite` beside the run directory."""
    prices: OptionalFilePath = None
    """For `judges`: YAML of what each model costs, see oracles.md."""
    max_cost: NonNegativeFloat | None = None
    """For `judges`: the most that one command may spend, in the currency of `prices`."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """For `judges`: the most calls that one command may make."""
    noise: NoiseSettings | None = None
    """Mistakes put in on purpose, for studies of robustness. `null`: none."""
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The floor: a run stops after triage until an audit shows that the judge is right this often (the lower end of
    the 95 % interval), see audit.md. `null`: no audit is asked for."""

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> OracleSettings:
        if (self.kind == "scripted") != (self.path is not None):
            raise ValueError("oracle.path belongs to kind 'scripted', which needs it")
        if self.fallbacks and self.kind != "rules":
            raise ValueError("oracle.fallbacks belongs to kind 'rules'")
        given = [name for name in _OF_JUDGES if getattr(self, name) != type(self).model_fields[name].default]
        if self.kind != "judges" and given:
            raise ValueError(f"oracle.{given[0]} belongs to kind 'judges'")
        if self.kind == "judges" and self.llm is None and self.classifier is None:
            raise ValueError("kind 'judges' needs oracle.llm or oracle.classifier")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("oracle.max_cost needs oracle.prices, the file that says what each model costs")
        return self

    @property
    def questions_at_a_time(self) -> int:
        """`batch_size`, or its default for the kind."""
        return self.batch_size or (8192 if self.kind == "judges" else 256)


_OF_JUDGES = ("llm", "classifier", "rules_per_call", "store", "prices", "max_cost", "max_calls")


class HumanSettings(Section):
    """Verdicts of people on single responses; they stand in the place of the oracle's."""

    path: FilePath
    """JSONL of `{id, side, label}`, as `realigner review export STUDY FILE --as verdicts` writes it."""


class OldPolicySettings(Section):
    """The OLD policy, documented or recovered by `realigner discover`, see discover.md. It changes no outcome."""

    path: FilePath
    """The policy file. Rules by wording count only with the JSON file of their discovery beside it."""
    allow_code: bool = False
    """Permit `python:` checks in it."""
    anchors: PositiveInt | None = None
    """The most retained training pairs for each old rule that survives; those that no surviving rule supports all
    anchor. `null`: all retained pairs do."""
    unrelated: Literal["keep", "leave_out"] = "keep"
    """INVERT pairs whose old preference no old rule supports are flagged; `leave_out`: and not trained on."""


class RoleFormat(Section):
    """What stands before and after a turn of one role in the plain format."""

    before: str = ""
    """Text before the turn."""
    after: str = ""
    """Text after the turn."""


class JudgeModelSettings(ModelSettings):
    """The model of a judge on this machine."""

    called = "path of the judge"


class WriterModelSettings(ModelSettings):
    """The model of a writer of corrections on this machine."""

    called = "path of the writer"


class ReferenceModelSettings(ModelSettings):
    """The frozen reference, where it is not the model to start from."""

    called = "reference.path"


class TextSettings(Section):
    """How prompts and responses become tokens."""

    format: Literal["chat", "plain"] = "chat"
    """`chat`: the tokenizer's template. `plain`: the roles below, for base models."""
    template_arguments: dict[str, bool | int | str] = Field(default_factory=dict)
    """Passed to the chat template, e.g. `enable_thinking: false`."""
    system: RoleFormat = RoleFormat(after="\n\n")
    """Used by `plain`."""
    user: RoleFormat = RoleFormat()
    """Used by `plain`."""
    assistant: RoleFormat = RoleFormat()
    """Used by `plain`. A response follows `before`, and ends in the tokenizer's end-of-text token."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens of prompt and response together. Default: the smaller of 2048 and the model's context."""
    max_response: PositiveInt | None = None
    """Tokens of a response including its end-of-turn. Default: three quarters of `max_length`."""
    overflow: Literal["error", "cut", "drop"] = "error"
    """What happens to a pair that is too long. `cut` drops the oldest turns, then the start of the prompt, and
    cuts the end of a response over `max_response`; every cut is counted."""


class GoldSettings(Section):
    """The gold batch D_J that defines the target gradient (Algorithm 2 of the paper)."""

    kind: Literal["paper", "corrected", "file"] = "paper"
    """Where the compliant answers of PUNISH pairs come from. `paper`: another prompt's, at random. `corrected`: the
    accepted correction. `file`: the whole batch comes from `path`."""
    size: Annotated[int, Field(ge=1)] = 24
    """Pairs in the gold batch: a third each retained, INVERT and PUNISH. `file` takes all its pairs instead."""
    path: OptionalFilePath = None
    """For `file`: preference pairs whose `chosen` is right under the NEW policy."""

    @model_validator(mode="after")
    def _needs_path(self) -> GoldSettings:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("impact.gold.path belongs to kind 'file', which needs it")
        return self


class ImpactSettings(Section):
    """Alignment-impact weights w_i = <P g_J, g_i>."""

    weighting: Literal["impact", "uniform"] = "uniform"
    """`uniform`: weight 1 for every conflict. `impact`: by w_i, also meant where another setting of this section
    is given and this one is not."""
    gold: GoldSettings = GoldSettings()
    score: Literal["dot", "cosine", "per_token"] = "dot"
    """`cosine` divides by the norms (one backward pass per pair, slower); `per_token` divides each response's
    derivative by its length."""
    method: Literal["auto", "exact", "difference"] = "auto"
    """`exact`: forward-mode derivatives. `difference`: a central difference, faster, for float32 only; its error is
    measured and reported. `auto`: exact, and what works where a model has no such derivative."""
    preconditioner: Literal["identity", "diagonal", "cg"] = "identity"
    """P. `identity`: the paper's. `diagonal`, `cg`: the inverse of the damped Fisher matrix of retained responses, by
    its diagonal or by conjugate gradients."""
    damping: PositiveFloat = 0.1
    """λ as a multiple of a mean curvature: along the gold gradient for `cg`, of the diagonal for `diagonal`."""
    fisher_rows: PositiveInt = 64
    """Retained responses from which the curvature is estimated."""
    cg_steps: PositiveInt = 10
    """Iterations of `cg`, each a Fisher-vector product."""
    normalize: Literal["mean", "sum", "none"] = "mean"
    """After clamping at 0. `mean`: mean 1 over the conflicts. `sum`: sum 1, the paper's, kept for reproduction.
    `none`: the scores as they are."""
    per_class: bool = False
    """Normalise INVERT and PUNISH each by itself."""

    @model_validator(mode="before")
    @classmethod
    def _who_says_how_to_weigh_wants_weights(cls, given: Any) -> Any:
        """Take `weighting: impact` as said where something else of this section is: no setting does nothing."""
        if isinstance(given, dict) and given and "weighting" not in given:
            return {**given, "weighting": "impact"}
        return given


class LossSettings(Section):
    """The hybrid objective of TRACE; β as in the paper."""

    beta: PositiveFloat = 0.3
    """β, per nat of log-ratio."""
    invert: Literal["dpo", "ipo", "robust"] = "dpo"
    """The loss of INVERT pairs, see losses.md."""
    ipo_tau: PositiveFloat = 0.3
    """τ of `ipo`: the target margin is 1/(2τ) nats."""
    epsilon: Annotated[float, Field(ge=0, lt=0.5)] | Literal["audit"] = 0.1
    """Label-flip rate of `robust`. `audit`: what people found it to be on INVERT pairs, see audit.md."""
    alpha_kl: NonNegativeFloat = 10.0
    """α_KL: weight of the mean KL per retained token. 0.1: the paper's, with which retained behaviour slipped more
    (findings.md); 0: nothing holds it."""
    kl_budget: PositiveFloat | None = None
    """Target mean KL in nats per retained token; α_KL is then adapted to hold it."""
    kl_reference: Literal["forward", "hidden", "top_k"] = "forward"
    """Where p_ref of retained tokens comes from. `forward`: the reference runs in every step. `hidden`: its last
    hidden states are kept on disk (exact; no reference forward, and no second model without an adapter). `top_k`: its
    likeliest tokens are kept (approximate: a lower bound of the KL; little disk)."""
    kl_top_k: PositiveInt = 32
    """Tokens kept by `top_k`."""
    imitate: NonNegativeFloat = 0.1
    """Weight of a supervised term on what conflicts prefer (a correction, or the reversed pair's rejected response),
    summed over its tokens: without it the good response need not become likely (findings.md). 0: the paper's, none."""
    confirm: NonNegativeFloat = 1.0
    """Weight of the old preference loss on CONFIRM pairs, without which attacks get easier (findings.md). 0: the
    paper's, the KL anchor alone."""

    @model_validator(mode="after")
    def _epsilon_is_used(self) -> LossSettings:
        if self.epsilon == "audit" and self.invert != "robust":
            raise ValueError("loss.epsilon: audit belongs to `loss.invert: robust`, the only loss that reads ε")
        return self

    @property
    def flip_rate(self) -> float:
        """ε as a number; `realigner.audit.gate.audited_loss` makes one of `audit`."""
        if isinstance(self.epsilon, str):
            raise ValueError("loss.epsilon: audit has not been read from an audit")
        return self.epsilon


class TrainSettings(Section):
    """Optimisation. Batch sizes count pairs."""

    epochs: PositiveFloat = 1.0
    """Passes over the training pairs."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; overrides `epochs`."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Pairs per optimizer step, over all devices."""
    micro_batch: PositiveInt = 8
    """Pairs per forward pass on one device; must divide `batch_size` by the number of devices."""
    learning_rate: PositiveFloat = 1e-4
    """Peak rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of linear warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """Of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients of a larger 2-norm are scaled down to it."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter to a half more time."""
    liger: bool = False
    """Liger's fused kernels for norms, MLPs and rotary embeddings, on CUDA. Needs `pip install 'realigner[liger]'`."""
    save_every: PositiveInt | None = None
    """Optimizer steps between checkpoints. Default: a tenth of training, at least 10 steps."""
    log_every: PositiveInt = 1
    """Optimizer steps between lines of metrics.jsonl."""
    evaluate_every: PositiveInt | None = None
    """Optimizer steps between evaluations of the loss and sample completions. Default: four times a run."""
    report_to: tuple[str, ...] = ()
    """Trackers that transformers knows, e.g. `tensorboard`."""


class GenerateSettings(Section):
    """Responses to held-out prompts, before and after."""

    prompts: PositiveInt = 200
    """Held-out prompts, drawn by the seed."""
    max_new_tokens: PositiveInt = 256
    """Tokens of a response, its end included; prompts get what `text.max_length` leaves."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of sampling; 1 samples from the full vocabulary."""
    samples: PositiveInt = 1
    """Responses to each prompt; more than one needs a `temperature` above 0."""
    batch_size: PositiveInt = 16
    """Responses generated at a time. Sampled responses depend on it."""

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerateSettings:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("generate.samples > 1 needs generate.temperature > 0: greedy responses are all the same")
        return self


class EvaluateSettings(Section):
    """What is measured on the held-out side."""

    oracle: OracleSettings | None = None
    """A judge of its own. Default: the one that triaged, and the report says so."""
    retained: PositiveInt = 200
    """Held-out retained pairs for KL and perplexity: one a prompt, drawn by the seed."""
    win_rate: WinRateSettings | None = None
    """The answers against each other. `null`: not measured."""
    stress: StressSettings | None = None
    """Attacks and over-refusal. `null`: not measured."""
    utility: UtilitySettings | None = None
    """What the model can still do. `null`: not measured."""
    values: ValuesSettings | None = None
    """Which values moved. `null`: not measured."""
    inside: InsideSettings | None = None
    """What moved in hidden states. `null`: not measured."""

    @model_validator(mode="after")
    def _no_floor(self) -> EvaluateSettings:
        if self.oracle is not None and self.oracle.min_accuracy is not None:
            raise ValueError("min_accuracy holds training back, so it belongs to `oracle`, not to `evaluate.oracle`")
        return self


class ReportSettings(Section):
    """The report."""

    samples: PositiveInt = 12
    """Prompts shown with the responses before and after, at most 200."""
    title: str | None = None
    """Heading of the page. Default: made from the policy's title."""
    gate: OptionalFilePath = None
    """A file of conditions on figures, see evidence.md: the report says which hold, and the run ends with exit code 3
    unless all do."""


class Recipe(Section):
    """Everything that decides a run."""

    output: FilePath
    """The run directory."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the split, the gold batch, the adapter, the order of training, the prompts drawn and sampling."""
    model: ModelSettings
    reference: ReferenceSettings | None = None
    data: DataSettings
    policy: PolicySettings
    oracle: OracleSettings = OracleSettings()
    previous: OptionalFilePath = None
    """The run whose policy this one replaces: the report then says what the new policy moved, and whether rules of
    earlier policies that are still in force hold, see oracles.md."""
    corrections: CorrectionSettings | None = None
    human: HumanSettings | None = None
    old_policy: OldPolicySettings | None = None
    text: TextSettings = TextSettings()
    impact: ImpactSettings = ImpactSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _impact_is_measured_at_the_reference(self) -> Recipe:
        if self.reference is not None and self.impact.weighting == "impact":
            raise ValueError(
                "impact.weighting: impact belongs to a model that is its own reference, where all log-ratios are 0: "
                "leave out reference, or set impact.weighting: uniform"
            )
        return self

    @property
    def reference_model(self) -> ModelSettings:
        """The frozen reference: the model itself, or the one that `reference` names, loaded in the same way."""
        if self.reference is None:
            return self.model
        return ReferenceModelSettings(**{**self.model.model_dump(), **self.reference.model_dump()})

    @property
    def evaluation_oracle(self) -> OracleSettings:
        """Who judges the answers: `evaluate.oracle`, else the oracle of triage without the noise put on it."""
        return self.evaluate.oracle or self.oracle.model_copy(update={"noise": None})

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file, apply `a.b=value` overrides, resolve its paths.

        Raises:
            RecipeError: the file, a key or a value is wrong; all faults are listed at once.
        """
        path = Path(path)
        return cls.compose(_read_yaml(path), overrides, source=str(path), base=path.parent)

    @classmethod
    def compose(cls, content: dict[str, Any], overrides: Sequence[str], *, source: str, base: Path) -> Recipe:
        """Apply `a.b=value` overrides to a nested mapping, validate it, and take its paths relative to `base`.

        Raises:
            RecipeError: as `load`.
        """
        for override in overrides:
            _apply_override(content, override)
        return cls.parse(content, source=source, base=base)

    @classmethod
    def parse(cls, content: Mapping[str, Any], *, source: str = "recipe", base: Path | None = None) -> Recipe:
        """Validate a nested mapping; paths are taken relative to `base` where one is given."""
        try:
            recipe = cls.model_validate(content)
        except ValidationError as error:
            raise _explain(error, source) from None
        return recipe if base is None else _resolve_paths(recipe, base)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `load` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"recipe {path}", "no such file", "Check the path, or write one with `realigner init DIR`"
        ) from None
    except IsADirectoryError:
        raise RecipeError(f"recipe {path}", "it is a directory", "Name the recipe's YAML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}, byte {error.start}", "it is not UTF-8", "Save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error)
        raise RecipeError(f"recipe {path}{line}", fault, "Mend the line") from None
    except OSError as error:
        raise RecipeError(f"recipe {path}", f"it cannot be read ({error.strerror})", "Check its permissions") from None
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path}", "it must be a mapping of settings", "Start from `realigner init DIR`")
    return content


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"--set {override}", "an override reads a.b=value", "Write e.g. --set train.epochs=2")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}", "the value is not valid YAML", "Quote it") from None
    *parents, leaf = key.split(".")
    node = content
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override}", f"'{parent}' holds a value, not a section", "Set the value itself")
        node = child
    node[leaf] = value


def _guess(word: str, known: Iterable[str]) -> str:
    guess = did_you_mean(word, known)
    return f".{guess}" if guess else ""


def _explain(error: ValidationError, source: str) -> RecipeError:
    """Turn pydantic's list of faults into one message with the value, the rule and a remedy for each."""
    lines = []
    for fault in error.errors(include_url=False):
        names, section = _place(fault["loc"])
        name = ".".join(names) or "recipe"
        if fault["type"] == "extra_forbidden":
            _, around = _place(fault["loc"][:-1])
            known = getattr(around, "model_fields", {})
            lines.append(f"unknown key '{name}'{_guess(names[-1], known)}")
        elif fault["type"] == "missing":
            lines.append(f"missing key '{name}'")
        elif fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
            kinds = section if isinstance(section, dict) else {}
            found = fault["ctx"].get("tag")
            given = f"'{name}.kind' = {found!r}" if found is not None else f"missing key '{name}.kind'"
            lines.append(f"{given}: the kinds are {', '.join(kinds)}{_guess(found or '', kinds)}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            # A whole section is not repeated: it is long, and something private may stand in it by mistake.
            given = "" if isinstance(fault["input"], Mapping) else f" = {fault['input']!r}"
            if len(names) > 1 and _MEMBER.fullmatch(names[-1]):  # a value of several types has a fault for each
                name = ".".join(names[:-1])
            line = f"'{name}'{given}: "
            if lines and lines[-1].startswith(line):
                lines[-1] += f"; or: {message}"
            else:
                lines.append(line + message)
    return RecipeError(
        f"{source}: " + "; ".join(lines),
        "a recipe takes the keys listed in docs/recipe.md, each in its range",
        "Correct the named keys",
    )


_MEMBER = re.compile(r"literal\[.*\]|constrained-\w+|float|int|str|bool")
"""How pydantic calls the members of a union of plain types in the place of a fault."""


def _place(location: Sequence[str | int]) -> tuple[list[str], Any]:
    """Return the keys that lead to a fault as the file has them, and the section there.

    Where a section is one of several kinds, pydantic's location names the kind as well, which is no key of the file;
    the section is then a mapping of the kinds until one is chosen.
    """
    names: list[str] = []
    section: Any = Recipe
    for part in location:
        if isinstance(section, dict) and part in section:
            section = section[part]
            continue
        names.append(str(part))
        if isinstance(part, str):
            field = getattr(section, "model_fields", {}).get(part)
            found = [] if field is None else list(_sections(field.annotation))
            if len(found) > 1:
                section = {get_args(each.model_fields["kind"].annotation)[0]: each for each in found}
            else:
                section = found[0] if found else None
    return names, section


def _sections(annotation: Any) -> Iterator[Any]:
    """Yield the sections that a field may hold."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    """Make file paths absolute. A model or data name that is no file beside the recipe stays a hub id."""

    def place(text: str, mark: PathMark) -> str:
        if text.startswith("realigner:"):  # a policy that is shipped
            return text
        if mark == A_FILE or text.startswith((".", "~", "/")) or (base / text).exists():
            return str((base / Path(text).expanduser()).resolve())
        return text

    return cast(Recipe, place_paths(recipe, place))
