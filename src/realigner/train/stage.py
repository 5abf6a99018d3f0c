"""The stage `train`: the hybrid objective on the weighed pairs; resumes inside itself, writes the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from realigner import atomic, ranks
from realigner.audit.gate import audited_loss
from realigner.errors import DataError
from realigner.model.chat import Encoder
from realigner.model.encoded import load_encoded, write_encoded
from realigner.model.export import save_model
from realigner.model.generate import generate
from realigner.model.load import load_model, resolve_device
from realigner.model.sharded import is_sharded
from realigner.model.stage import encoded_pairs, recipe_encoder
from realigner.progress import Advance
from realigner.recipe import Recipe
from realigner.records import Direction, Outcome, Prompt, Weight, prompt_key
from realigner.runs import Run
from realigner.train.checkpoint import refuse_other_layout
from realigner.train.config import config_from_recipe, total_steps
from realigner.train.dataset import WeightedPairs
from realigner.train.sampler import StratifiedSampler
from realigner.train.trainer import TraceTrainer
from realigner.triaging import read_triage

EVAL_PAIRS = 256
"""Held-out pairs on which the loss is evaluated during training: the first ones in the data's order."""
COMPLETIONS = 3
"""Held-out prompts that are answered at every evaluation during training."""


def run_train(run: Run) -> dict[str, Any]:
    """Write `model/`, `metrics.jsonl` and `completions.jsonl`; return what training came to."""
    recipe = run.recipe
    dataset = WeightedPairs(
        encoded_pairs(run),
        read_weights(run.path("weights.parquet")),
        held_out=frozenset(run.facts("weigh")["gold"]["ids_held_out"]),
    )
    sampler = StratifiedSampler(dataset.outcomes, recipe.train.batch_size, recipe.seed)
    scratch = run.scratch()
    device = resolve_device(recipe.model)
    settled = recipe.model_copy(update={"loss": audited_loss(recipe)})
    args = config_from_recipe(settled, str(scratch), steps_per_epoch=sampler.steps, device=device)
    model = load_model(recipe.model, trainable=True, seed=recipe.seed)
    checkpoint = last_checkpoint(scratch)
    refuse_other_layout(checkpoint, sharded=is_sharded(model))
    encoder = recipe_encoder(recipe, model.config)
    reference = load_model(recipe.reference_model)
    held_out = _held_out(run, encoder, reference, scratch)
    trainer = TraceTrainer(
        model,
        args,
        dataset,
        eval_dataset=held_out,
        processing_class=encoder.tokenizer,
        ref_model=reference if _wants_reference(recipe, model) else None,
        callbacks=[
            MetricsFile(run.path("metrics.jsonl")),
            Completions(run.path("completions.jsonl"), encoder, recipe, _prompts(run, encoder)),
        ],
    )
    del reference  # the trainer keeps it where it needs it
    _place_trackers(trainer, run.path("tensorboard"), keep=checkpoint is not None)
    with run.progress.task("training", total_steps(recipe.train, sampler.steps)) as advance:
        trainer.add_callback(ShowSteps(advance))
        trainer.train(resume_from_checkpoint=checkpoint)
    with run.writing_directory("model") as path:
        save_model(trainer.accelerator.unwrap_model(trainer.model), encoder.tokenizer, recipe.model, path)
    # The live files become outputs of the stage, as they stand.
    for name in ("metrics.jsonl", "completions.jsonl"):
        text = run.path(name).read_text(encoding="utf-8") if run.path(name).exists() else ""
        with run.writing(name) as path:
            path.write_text(text, encoding="utf-8")
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    by_outcome = Counter(dataset.outcomes)
    return {
        "steps": trainer.state.global_step,
        "pairs": len(dataset),
        "pairs_by_outcome": {str(o): by_outcome[o] for o in Outcome if o in by_outcome},
        "repeated_in_an_epoch": sampler.repeats,
        "left_out_of_an_epoch": sampler.left_out,
        "mean_loss": mean_loss(trainer.state.log_history),
        "alpha_kl": trainer.kl_control.alpha,
        "trainable_parameters": sum(p.numel() for p in parameters),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": str(trainer.args.device),
        "dtype": str(next(trainer.model.parameters()).dtype).removeprefix("torch."),
        "attention": f"{trainer.kernel.name}: {trainer.kernel.because}",
    }


def _wants_reference(recipe: Recipe, model: Any) -> bool:
    """Say whether the trainer needs the reference given: another model, or a sharded one, which cannot be copied."""
    uncopied = is_sharded(model) and recipe.model.lora is None and recipe.loss.kl_reference == "forward"
    return recipe.reference is not None or uncopied


def _place_trackers(trainer: TraceTrainer, directory: Path, *, keep: bool) -> None:
    """Stop printing, and let TensorBoard write beside the run's files: its own choice is scratch, which does not stay.

    Curves of an earlier training go unless this one resumes it.
    """
    trainer.remove_callback(PrinterCallback)
    if not keep:
        atomic.remove(directory)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(directory)


def read_weights(path: Path) -> Iterator[Weight]:
    """Stream `weights.parquet`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000, columns=["id", "outcome", "score", "weight", "clamped"]):
            for r in batch.to_pylist():
                yield Weight(r["id"], Outcome(r["outcome"]), r["score"], r["weight"], r["clamped"])


def mean_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean loss over all optimizer steps; each line of the log holds the mean since the line before it."""
    total, last = 0.0, 0
    for line in history:
        if "loss" in line:
            total += line["loss"] * (line["step"] - last)
            last = line["step"]
    return total / max(last, 1)


def last_checkpoint(directory: Path) -> str | None:
    """Return the newest checkpoint that was written to its end."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda p: -int(p.name.rpartition("-")[2]))
    return next((str(path) for path in found if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Say whether a checkpoint was finished (its state file is written last) and no file of it has lost its end."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass
        return all(is_zipfile(path) for path in checkpoint.glob("*.pt*"))
    except (OSError, ValueError, SafetensorError):
        return False


def _held_out(run: Run, encoder: Encoder, reference: Any, scratch: Path) -> Any:
    """Return the first held-out pairs that are decided, encoded and scored under the reference."""
    path = scratch / f"eval-{ranks.rank()}.arrow"
    decided = (i for i in read_triage(run.path("triage.parquet"), split="eval") if i.direction != Direction.NONE)
    write_encoded(
        islice(decided, EVAL_PAIRS),
        encoder,
        reference,
        path,
        key="eval",
        loss=run.recipe.loss,
    )
    pairs = load_encoded(path, key="eval")
    if not len(pairs):
        raise DataError(
            "the held-out side",
            "none of its pairs is decided and fits the text limits",
            "Raise data.eval_fraction or text.max_length",
        )
    return WeightedPairs(pairs)


def _prompts(run: Run, encoder: Encoder) -> list[Prompt]:
    """Return the first held-out prompts, each once, and none that holds a control token."""
    found: dict[str, Prompt] = {}
    for item in read_triage(run.path("triage.parquet"), split="eval"):
        prompt = item.pair.prompt
        if encoder.control_token(message["content"] for message in prompt) is None:
            found[prompt_key(prompt)] = prompt
        if len(found) == COMPLETIONS:
            break
    return list(found.values())


class MetricsFile(TrainerCallback):
    """Writes one JSON line for every log line, as it comes; after a resume, the file starts from the checkpoint's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the file from what the checkpoint has logged."""
        if not state.is_world_process_zero:
            return
        self.path.write_text("".join(_line(entry) for entry in state.log_history), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Append the newest line."""
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(state.log_history[-1]))


def _line(entry: dict[str, Any]) -> str:
    wanted = "loss" in entry or "eval_loss" in entry
    return json.dumps(entry, allow_nan=False) + "\n" if wanted else ""


class Completions(TrainerCallback):
    """Answers a few held-out prompts greedily at every evaluation, so that drift is seen while it happens."""

    def __init__(self, path: Path, encoder: Encoder, recipe: Recipe, prompts: list[Prompt]) -> None:
        self.path, self.encoder, self.prompts, self.seed = path, encoder, prompts, recipe.seed
        short = {"temperature": 0.0, "max_new_tokens": min(recipe.generate.max_new_tokens, 64)}
        self.settings = recipe.generate.model_copy(update=short)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Drop lines of steps after the checkpoint."""
        if not state.is_world_process_zero:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = text.split("\n")[:-1]  # a killed run tears its last line
        kept = [line for line in whole if 0 < json.loads(line)["step"] <= state.global_step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write one line with the completions."""
        if not state.is_world_process_zero and not is_sharded(model):
            return
        responses = generate(model, self.encoder, self.prompts, self.settings, seed=self.seed)
        if not state.is_world_process_zero:  # it was needed for the forwards
            return
        line = {
            "step": state.global_step,
            "completions": [
                {"prompt": list(prompt), "response": r.text} for prompt, r in zip(self.prompts, responses, strict=True)
            ],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


class ShowSteps(TrainerCallback):
    """Moves the progress bar, from where a checkpoint left it."""

    def __init__(self, advance: Advance) -> None:
        self.advance: Callable[[int], None] = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Skip the steps that are done."""
        if state.global_step:
            self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """One more."""
        self.advance(1)
