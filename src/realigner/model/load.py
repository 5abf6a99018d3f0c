"""Loading models and tokenizers: safetensors only, no remote code, adapters merged or attached on purpose."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner import ranks
from realigner.errors import ModelError
from realigner.recipe import LoraSettings, ModelSettings

if TYPE_CHECKING:
    import torch


def load_tokenizer(settings: ModelSettings) -> Any:
    """Load the tokenizer that lies with the model.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with _loading("tokenizer", settings):
        return AutoTokenizer.from_pretrained(settings.path, revision=settings.revision, trust_remote_code=False)


def load_model_config(settings: ModelSettings) -> Any:
    """Load the model's configuration only (of the base model, where the path is an adapter)."""
    from transformers import AutoConfig

    path, revision = base_of(settings)
    with _loading("model", settings):
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)


def context_length(settings: ModelSettings) -> int:
    """Return the model's context length in tokens."""
    return context_of(load_model_config(settings))


def context_of(config: Any) -> int:
    """Return the context length in tokens that a model configuration states."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(getattr(text, name, None), int):
            return int(getattr(text, name))
    raise ModelError(
        f"the configuration of a {text.model_type} model",
        "it does not state a context length",
        "Set max_position_embeddings in its config.json",
    )


def resolve_device(settings: ModelSettings) -> str:
    """Return the device to run on: the one asked for, or the best there is.

    Raises:
        ModelError: the one asked for is not there.
    """
    import torch

    if settings.device != "auto":
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there[settings.device]:
            raise ModelError(
                f"model.device = {settings.device}", "torch finds no such device here", "Set model.device: auto or cpu"
            )
        return settings.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_dtype(settings: ModelSettings, device: str) -> torch.dtype:
    """Return the weights' precision. CPUs compute bfloat16 slowly, so `auto` means float32 there."""
    import torch

    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    # Full fine-tuning keeps float32 weights: updates of 1e-6 vanish when they are added to bfloat16.
    if settings.lora is None or device == "cpu" or (device == "cuda" and not torch.cuda.is_bf16_supported()):
        return torch.float32
    return torch.bfloat16


def load_model(settings: ModelSettings, *, trainable: bool = False, seed: int = 0) -> Any:
    """Load the aligned model; with `trainable`, attach the recipe's LoRA adapter or free all parameters.

    A LoRA adapter's A matrices are drawn from `seed`: at B = 0 they fix the subspace in which impact is measured. Under
    torchrun, `model.shard` spreads the parameters over the processes.

    Raises:
        ModelError: weights are missing (some or all), damaged or not safetensors, or the adapter does not fit.
    """
    if settings.shard and ranks.shares() > 1:
        from realigner.model.sharded import load_sharded

        return load_sharded(settings, trainable=trainable, seed=seed)
    if settings.shard and ranks.leads():
        from realigner.model.led import load_led

        return load_led(settings)
    from transformers import AutoModelForCausalLM

    path, revision = base_of(settings)
    device = resolve_device(settings)
    arguments: dict[str, Any] = {"dtype": resolve_dtype(settings, device)}
    if settings.quantize is not None:
        if trainable:
            refuse_quantised_adapter(settings)
        arguments |= _quantised(settings, device)
    arguments |= attention_arguments(settings)
    with _loading("model", settings):
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
        if path != settings.path:
            model = _with_adapter(model, settings)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{settings.called} = {settings.path!r}",
            f"{len(missing)} of its parameters have no weights ({', '.join(missing[:3])}, ...)",
            "They would be random: give a complete model of the class that its config.json names",
        )
    if settings.quantize is None:
        model = model.to(device)
    else:  # quantised weights were made in their place
        _keep_gradients(model)
    return prepared(model, settings, trainable=trainable, seed=seed)


def attention_arguments(settings: ModelSettings) -> dict[str, str]:
    """Return what transformers is told of the attention: nothing where that is its own choice."""
    own = settings.attention in ("auto", "flex")  # the second is about packed rows alone
    return {} if own else {"attn_implementation": settings.attention}


def on_one_cpu(settings: ModelSettings, dtype: torch.dtype) -> ModelSettings:
    """Return the settings of the same model, whole and in the host's memory: no device may hold a sharded one."""
    return settings.model_copy(update={"shard": False, "device": "cpu", "dtype": str(dtype).removeprefix("torch.")})


def prepared(model: Any, settings: ModelSettings, *, trainable: bool, seed: int) -> Any:
    """Return a model in evaluation mode, with the parameters that will be trained requiring gradients, or none."""
    model = forget_padding_index(model.eval())
    model.requires_grad_(False)
    if trainable and settings.lora is None:
        model.requires_grad_(True)
    elif trainable and settings.lora is not None:
        model = attach_lora(model, settings.lora, seed)
    return model


def forget_padding_index(model: Any) -> Any:
    """Let the pad token's embedding have a gradient like any other, and return the model.

    torch drops that row's gradient in reverse mode, though not in forward mode. Where the pad token also stands in
    text (as the end-of-turn often does), that would be wrong: padding needs no such help, it is masked.
    """
    model.get_input_embeddings().padding_idx = None
    return model


def attach_lora(model: Any, lora: LoraSettings, seed: int) -> Any:
    """Return the model with a fresh LoRA adapter, drawn from `seed`.

    Raises:
        ModelError: a target names no layer of the model, or one that takes no adapter.
    """
    from peft import LoraConfig

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    names = [f".{name}" for name, _ in model.named_modules()]
    named = [] if isinstance(targets, str) else targets  # peft itself is content with one that matches
    if absent := [target for target in named if not any(name.endswith(f".{target}") for name in names)]:
        raise _bad_targets(model, lora, f"no such layers in this model ({', '.join(absent)})")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        lora_dropout=lora.dropout,
        task_type="CAUSAL_LM",
    )
    try:
        return wrap_in_adapter(model, config, seed)
    except ValueError as error:
        raise _bad_targets(model, lora, f"they take no adapter ({error})") from error


def _bad_targets(model: Any, lora: LoraSettings, rule: str) -> ModelError:
    linears = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if type(m).__name__ == "Linear"}
    return ModelError(
        f"model.lora.targets = {lora.targets if isinstance(lora.targets, str) else list(lora.targets)}",
        rule,
        f"Name some of: {', '.join(sorted(linears))}; or all-linear",
    )


def wrap_in_adapter(model: Any, config: Any, seed: int) -> Any:
    """Return the model in a PEFT adapter, drawn from `seed` without touching the global random state."""
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), _quiet_peft():
        torch.default_generator.manual_seed(seed)  # adapters are drawn on the CPU, whatever the model's device
        return get_peft_model(model, config)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence one warning that peft (0.21) causes in every PeftModel: it reads a name that transformers renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def model_fingerprint(settings: ModelSettings) -> str:
    """Return 16 hex digits that change when the weights do.

    For a local directory: names, sizes, and the first and last mebibyte of every file (a header change or a retrained
    weight shows; a whole hash of a 70 B model would take minutes). For a hub id: the id and its revision. An adapter's
    includes its base's.
    """
    digest = hashlib.sha256()
    base, revision = base_of(settings)
    if base != settings.path:
        digest.update(model_fingerprint(settings.model_copy(update={"path": base, "revision": revision})).encode())
    path = Path(settings.path)
    if not path.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(settings.path, "config.json", revision=settings.revision)
        # The snapshot's directory is named by its commit.
        commit = Path(cached).parent.name if isinstance(cached, str) else settings.revision
        digest.update(f"{settings.path}@{commit}".encode())
        return digest.hexdigest()[:16]
    for file in sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json", ".jinja")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            if size > 2 << 20:
                stream.seek(-(1 << 20), 2)
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def base_of(settings: ModelSettings) -> tuple[str, str | None]:
    """Return path and revision of the base model when the path is a PEFT adapter, else of the model itself.

    Raises:
        ModelError: there is no such directory, or the adapter does not say what its base is.
    """
    if Path(settings.path).is_absolute() and not Path(settings.path).is_dir():
        raise ModelError(
            f"{settings.called} = {settings.path!r}", "there is no such directory", "Correct it, or give a hub id"
        )
    adapter = Path(settings.path) / "adapter_config.json"
    if not adapter.is_file():
        return settings.path, settings.revision
    try:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not base:
        raise ModelError(f"adapter {settings.path}", "it does not name its base model", "Merge it into its base first")
    beside = Path(settings.path) / base
    return (str(beside) if beside.is_dir() else base), None


def refuse_quantised_adapter(settings: ModelSettings) -> None:
    """Refuse to train on an adapter over quantised weights.

    Raises:
        ModelError: the path is an adapter's and `model.quantize` is set.
    """
    if settings.quantize is not None and base_of(settings)[0] != settings.path:
        raise ModelError(
            f"{settings.called} = {settings.path!r}, an adapter, with model.quantize = {settings.quantize}",
            "an adapter cannot be folded into 4-bit weights without loss, and a new one needs a whole model below it",
            "Merge it first: realigner export RUN OUT --merge",
        )


def _quantised(settings: ModelSettings, device: str) -> dict[str, Any]:
    """Return the arguments that make 4-bit weights while loading (QLoRA: NF4, its constants quantised too)."""
    from realigner.model.extras import refuse_absent_quantiser

    refuse_absent_quantiser(settings)
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=resolve_dtype(settings, device),
    )
    return {"quantization_config": how, "device_map": {"": device}}


def _keep_gradients(model: Any) -> None:
    """Keep bitsandbytes from packing weights for inference on newer CPUs: that layout drops every gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _with_adapter(model: Any, settings: ModelSettings) -> Any:
    """Return the base with the adapter that lies at `path` merged into it, or over it where it is quantised."""
    from peft import PeftModel

    if not (Path(settings.path) / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"adapter {settings.path}",
            "it has no adapter_model.safetensors; other formats can run code when loaded",
            "Save it again with safe_serialization",
        )
    with _quiet_peft():
        adapted = PeftModel.from_pretrained(model, settings.path)
        return adapted if settings.quantize is not None else adapted.merge_and_unload()


@contextmanager
def _loading(what: str, settings: ModelSettings) -> Iterator[None]:
    """Turn what the libraries raise over files that they cannot use into one message."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    unusable = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)
    try:
        yield
    except unusable as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{settings.called} = {settings.path!r}",
            f"its {what} cannot be loaded ({reason})",
            "Give a directory in Hugging Face format with safetensors weights and tokenizer.json, or a reachable "
            "hub id",
        ) from error
