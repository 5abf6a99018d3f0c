"""TraceConfig: transformers' TrainingArguments plus what TRACE adds."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from realigner.errors import RecipeError
from realigner.model.flex import Wish
from realigner.recipe import LossSettings, ModelSettings, Recipe, TextSettings, TrainSettings


@dataclass
class TraceConfig(TrainingArguments):
    """Arguments of `TraceTrainer`; batch sizes count pairs.

    Args:
        loss: β, α_KL, the INVERT loss and the rest of the objective (`realigner.recipe.LossSettings`).
        text: how prompts and responses become tokens (`realigner.recipe.TextSettings`).
        tiled_head: form logits one tile of tokens at a time, so that memory does not grow with the vocabulary.
        packed: lay rows out without padding, the responses of a pair behind one copy of its prompt.
        packed_attention: how such rows attend, `flex` in one call of torch's FlexAttention, `segments` one after the
            other. `auto`: the first on CUDA, where it has been found equal to the second, which is used elsewhere.

    Every other argument is a `TrainingArguments`. Columns are kept, checkpoints are safetensors, and several GPUs are
    used through `torchrun` or `accelerate launch`, never by splitting one process over them.
    """

    loss: LossSettings = field(default_factory=LossSettings)
    text: TextSettings = field(default_factory=TextSettings)
    tiled_head: bool = True
    packed: bool = True
    packed_attention: Wish = "auto"
    learning_rate: float = 1e-4
    report_to: str | list[str] = "none"
    logging_nan_inf_filter: bool = False  # a loss that is not finite stops training; it is not averaged away
    use_cache: bool = True  # as published models have it: it is saved with the model, and no forward here caches

    def __post_init__(self) -> None:
        self.remove_unused_columns = False  # its rule is the model's signature, which no column of pairs is in
        super().__post_init__()
        self._n_gpu = min(self.n_gpu, 1)

    @property
    def place_model_on_device(self) -> bool:
        """Whether Trainer moves the model: `TraceTrainer` has done so, but for one that is sharded already."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments as JSON values."""
        ours = {"loss": self.loss.model_dump(mode="json"), "text": self.text.model_dump(mode="json")}
        return {**super().to_dict(), **ours}


def config_from_recipe(recipe: Recipe, output_dir: str, *, steps_per_epoch: int, device: str) -> TraceConfig:
    """Return the arguments that a recipe asks for.

    Args:
        recipe: what to run.
        output_dir: where checkpoints go.
        steps_per_epoch: optimizer steps in one pass over the conflicts; the defaults of the intervals follow from it.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        RecipeError: as `refuse_impossible`.
    """
    train = recipe.train
    refuse_impossible(train)
    steps = total_steps(train, steps_per_epoch)
    return TraceConfig(
        output_dir=output_dir,
        loss=recipe.loss,
        text=recipe.text,
        packed_attention=_packed_attention(recipe.model),
        seed=recipe.seed,
        data_seed=recipe.seed,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.micro_batch,
        per_device_eval_batch_size=train.micro_batch,
        gradient_accumulation_steps=train.batch_size // (train.micro_batch * _world_size()),
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        logging_strategy="steps",
        logging_steps=train.log_every,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=train.evaluate_every or max(steps // 4, 1),
        save_strategy="steps",
        save_steps=train.save_every or max(steps // 10, 10),
        save_total_limit=2,
        report_to=list(train.report_to) or "none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        # Full fine-tuning keeps float32 weights and computes in bfloat16 where the device has it.
        bf16=device == "cuda" and recipe.model.lora is None and recipe.model.dtype == "auto" and _has_bf16(),
        dataloader_pin_memory=device == "cuda",
        activation_checkpointing=train.activation_checkpointing,
        use_liger_kernel=train.liger,
        # Its fused cross entropy replaces the model's forward; log-probabilities are made in tiles here.
        liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False} if train.liger else None,
    )


def _packed_attention(model: ModelSettings) -> Wish:
    """Return how packed rows attend: whoever names an attention of transformers wants no other kernel."""
    match model.attention:
        case "auto" | "flex":
            return model.attention
        case _:
            return "segments"


def total_steps(train: TrainSettings, steps_per_epoch: int) -> int:
    """Return how many optimizer steps training takes, by transformers' rule: a part of a step counts as one."""
    return train.max_steps or math.ceil(steps_per_epoch * train.epochs)


def refuse_impossible(train: TrainSettings) -> None:
    """Refuse settings that cannot train here; known before anything is computed.

    Raises:
        RecipeError: `micro_batch` times the number of devices does not divide `batch_size`, or `report_to` names a
            tracker that transformers does not know or that is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations

    world = _world_size()
    if train.batch_size % (train.micro_batch * world):
        raise RecipeError(
            f"train.micro_batch = {train.micro_batch} does not divide batch_size = {train.batch_size}"
            + (f" on {world} devices" if world > 1 else ""),
            "a batch is a whole number of micro-batches on every device",
            "Set train.micro_batch to a divisor of batch_size / devices",
        )
    there = [*get_available_reporting_integrations(), "all", "none"]
    missing = [name for name in train.report_to if name not in there]
    if missing:
        raise RecipeError(
            f"train.report_to = {list(train.report_to)}",
            f"{', '.join(missing)} is no tracker of transformers or is not installed (there are: {', '.join(there)})",
            "Install the tracker's package, e.g. pip install 'realigner[tensorboard]', or leave it out",
        )


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _has_bf16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported())
