"""TraceTrainer: transformers' Trainer with the hybrid objective. Losses, rows and reduction live elsewhere."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl

from realigner.errors import ModelError, TrainingDiverged
from realigner.losses import Denominators, PairRatios, dpo_loss, forward_kl, objective, pair_losses
from realigner.model.attention import packing
from realigner.model.chat import Encoder
from realigner.model.flex import choose
from realigner.model.head import Head, bare_model, evaluating, head_agrees, head_of, through_head
from realigner.model.head_terms import HiddenReference, Reference, TopReference, head_terms
from realigner.model.load import context_of, forget_padding_index, load_model, wrap_in_adapter
from realigner.model.logprobs import packs_agree, scored_logits, sum_by_row, token_logps
from realigner.model.packing import PackedBatch
from realigner.model.rows import RowBatch
from realigner.model.sharded import gathered, is_sharded, let_go, whole
from realigner.recipe import LoraSettings, ModelSettings
from realigner.records import Direction, Outcome, Weight
from realigner.train.batch import Batch, PairCollator, count, log_ratios
from realigner.train.checkpoint import load_shards, save_shards
from realigner.train.config import TraceConfig
from realigner.train.dataset import WeightedPairs, weighted_pairs
from realigner.train.kl_control import KLController
from realigner.train.metrics import Metrics
from realigner.train.reference import has_adapter, reference_of, refuse_trained_adapter, without_adapter
from realigner.train.sampler import StratifiedSampler

logger = logging.getLogger(__name__)


Rows = RowBatch | PackedBatch
SCHEDULER = "scheduler.pt"
_KEPT = ("reference_hidden", "reference_ids", "reference_logps")


@dataclass(frozen=True)
class _Parts:
    """The unreduced terms of one micro-batch."""

    losses: Tensor
    """`(pairs,)`: L_i of conflicts, the old preference loss of CONFIRM pairs where it is asked for, else 0."""
    conflict: Tensor
    confirm: Tensor
    """Which pairs enter the sums of the objective."""
    kl: Tensor
    kl_row: Tensor
    """Of each retained response token, and the row it is in."""
    kl_sum: Tensor
    """Of them all; the one that carries a gradient."""
    ratios: PairRatios


class TraceTrainer(Trainer):
    """Trains a model on triaged pairs by the TRACE objective, in the manner of transformers' Trainer.

    Args:
        model: the aligned model, or its path. Its state now is the reference, unless `ref_model` is. A PEFT model must
            be fresh (B = 0). One whose parameters `fully_shard` has spread over the processes already stays as it is.
        args: a `TraceConfig`.
        train_dataset: `TriagedPair`s, pairs encoded by `realigner.model.encoded` (a `datasets.Dataset`), or a
            `WeightedPairs` view of them.
        eval_dataset: the same, held out.
        processing_class: the model's fast tokenizer; saved with the model.
        peft_config: wraps the model in a fresh adapter.
        weights: impact weights; conflicts without one are left out. Default: 1 for each.
        ref_model: the frozen reference. Default: the model without its adapter, or a copy of the model as it is now.
        callbacks: as in transformers.

    Raises:
        ModelError: a PEFT model whose adapter has been trained already: its reference would be the wrong one.
        DataError: the data are no triaged or encoded pairs, or none of them is left to train on.
    """

    loss_is_scaled_for_ga = True  # the objective divides by counts over the whole accumulated batch

    def __init__(
        self,
        model: PreTrainedModel | str | Path,
        args: TraceConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        weights: Iterable[Weight] | None = None,
        ref_model: PreTrainedModel | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        model = _model(model, args, peft_config)
        self._loss, self._kept = args.loss, args.loss.kl_reference != "forward"
        self.reference = ref_model if self._kept else reference_of(model, ref_model, args.device)
        self._scores = model if self.reference is None else self.reference
        self.tiled = args.tiled_head and self._head_is_plain(model)
        self.packed = args.packed and self._packs(model)
        self._frozen_head = self._head_of_reference(model)
        self._confirm = args.loss.confirm > 0
        self._encoder = None
        if processing_class is not None:
            self._encoder = Encoder(processing_class, args.text, context_of(model.config))
        self.metrics, self.step_kl = Metrics(), torch.zeros(2, dtype=torch.float64)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(confirm=self._confirm, kl_reference=args.loss.kl_reference, packed=self.packed),
            train_dataset=self._pairs(train_dataset, weights),
            eval_dataset=None if eval_dataset is None else self._pairs(eval_dataset),
            processing_class=processing_class,
            callbacks=[KLController(args.loss.alpha_kl, args.loss.kl_budget), _Upkeep(self), *callbacks],
        )
        if self._kept:
            self._let_go()
        # In an evaluation over several ranks, a pair repeated to even out their batches would be counted twice.
        self.accelerator.even_batches = False
        self._sharded = is_sharded(self.model)
        if self._sharded:  # transformers' word for: nothing is to be wrapped, parameters are where they belong
            self.is_distributed_loading_by_transformers = True
        models = [each for each in (self.model, self.reference) if each is not None]
        with self.accelerator.autocast():
            self.kernel = choose(models, args.packed_attention, packed=self.packed)

    def _let_go(self) -> None:
        """Forget the reference once everything that training needs of it has been kept."""
        sharded = self.reference is not None and is_sharded(self.reference)
        if self.reference is not None or not has_adapter(self.model):
            self._scores = None  # a model without its fresh adapter stays there to score with
        self.reference = None
        if sharded:  # its hooks refer to each other
            gc.collect()

    def _head_is_plain(self, model: Any) -> bool:
        """Say whether the head can be taken apart into tiles, and warn where it cannot."""
        plain = head_agrees(model) and (self.reference is None or head_agrees(self.reference))
        if not plain:
            logger.warning(
                "%s does more to its logits than a linear head, a factor and soft-capping: they are kept whole, so "
                "memory grows with scored tokens × vocabulary",
                type(model).__name__,
            )
        return plain

    def _packs(self, model: Any) -> bool:
        """Say whether the model computes packed rows as it does separate ones, and warn where it does not."""
        packs = packs_agree(model) and (self.reference is None or packs_agree(self.reference))
        if not packs:
            logger.warning(
                "%s does not keep packed rows apart (its attention cannot be exchanged): rows are padded",
                type(bare_model(model)).__name__,
            )
        return packs

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """Let both models attend by the layout of packs for a block, in which backward may run forwards again."""
        with ExitStack() as stack:
            for each in (self.model, self.reference) if self.packed else ():
                if each is not None:
                    stack.enter_context(packing(bare_model(each), self.kernel.attend))
            yield

    def _head_of_reference(self, model: Any) -> Head | None:
        """Return the frozen head; None where none is read, or the trained one serves, which an adapter leaves alone."""
        if self._kept and not self.tiled:
            raise ModelError(
                f"loss.kl_reference = {self._loss.kl_reference}",
                "what is kept of the reference is read in tiles of a plain head, which this model does not have",
                "Set loss.kl_reference: forward",
            )
        if self._loss.kl_reference == "top_k":
            return None  # ids and log-probs are kept, no head reads them
        head = head_of(self._scores)
        if head is None or (self.reference is None and has_adapter(model)):
            return None
        if is_sharded(self._scores):  # read outside of its model's forward, for whose time alone it is gathered
            bias = None if head.bias is None else whole(head.bias)
            head = replace(head, weight=whole(head.weight), bias=bias)
            return head.detached().copy()
        return head.detached().copy() if self._scores is model else head.detached()

    def _pairs(self, data: Any, weights: Iterable[Weight] | None = None) -> WeightedPairs:
        with self._unadapted(self._scores):
            return weighted_pairs(data, self._encoder, self._scores, loss=self._loss, weights=weights)

    @property
    def kl_control(self) -> KLController:
        """The holder of α_KL. Trainer may replace it by a stored one when it resumes."""
        return next(c for c in self.callback_handler.callbacks if isinstance(c, KLController))

    # -- the objective ------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return this micro-batch's share of L = (1/W) Σ w_i L_i + α_KL · mean KL (+ confirm term)."""
        parts = self._parts(model, inputs)
        conflicts, tokens, confirms = count(inputs) if num_items_in_batch is None else num_items_in_batch.tolist()
        loss = objective(
            conflict_losses=parts.losses[parts.conflict],
            weights=inputs["weights"][parts.conflict].to(parts.losses.dtype),
            retained_kl=parts.kl_sum.reshape(1),
            confirm_losses=parts.losses[parts.confirm],
            alpha_kl=self.kl_control.alpha,
            confirm=self.args.loss.confirm,
            denominators=Denominators(conflicts, tokens, confirms),
        )
        if not torch.isfinite(loss):
            raise self._diverged(_not_finite(parts, inputs) or inputs["ids"], "their loss is not finite")
        self._record(self.metrics, parts, inputs)
        self.step_kl += torch.tensor([float(parts.kl.detach().sum()), parts.kl.numel()], dtype=torch.float64)
        # Ranks average their gradients; the shares have to be added.
        loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _parts(self, model: Any, inputs: Batch) -> _Parts:
        rows: Rows = inputs["rows"]
        anchored = torch.isin(rows.row_of_token, inputs["anchors"])
        # Policy and reference at equal precision: else their KL would begin at the rounding of the coarser one.
        with self._attending(), self.accelerator.autocast():
            terms = self._tiled_terms if self.tiled else self._whole_terms
            logps, kl_sum, kl = terms(model, rows, anchored, inputs)
        ratios = log_ratios(inputs, sum_by_row(logps, rows))
        outcomes = [Outcome(o) for o in inputs["outcomes"]]
        confirm = logps.new_tensor([self._confirm and o == Outcome.CONFIRM for o in outcomes], dtype=torch.bool)
        losses = pair_losses(ratios, [Direction(d) for d in inputs["directions"]], self.args.loss)
        kept = dpo_loss(ratios.chosen - ratios.rejected, self.args.loss.beta)
        return _Parts(
            losses=torch.where(confirm, kept, losses),
            conflict=logps.new_tensor([o.is_conflict for o in outcomes], dtype=torch.bool),
            confirm=confirm,
            kl=kl,
            kl_row=rows.row_of_token[anchored],
            kl_sum=kl_sum,
            ratios=ratios,
        )

    def _tiled_terms(self, model: Any, rows: Rows, anchored: Tensor, inputs: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p of each scored token that a loss reads (else 0), Σ KL over the anchored ones, and each KL."""
        kept = self._kept_of_reference(model, inputs)
        read = torch.isin(rows.row_of_token, inputs["place"][inputs["read"]]).nonzero()[:, 0]
        each: list[Tensor] = []

        def work(head: Head, hidden: Tensor) -> Tensor:
            logps, kl_sum, kl = head_terms(
                head,
                hidden,
                read=read,
                targets=rows.targets[read],
                anchored=anchored.nonzero()[:, 0],
                reference=_reference(kept, self._frozen_head or head.detached(), hidden),
            )
            each.append(kl)
            placed = logps.new_zeros(len(hidden)).index_put((read,), logps)
            return torch.cat([placed.unsqueeze(1), kl_sum.reshape(1, 1)])  # no view: a sharded model warns of one

        values = through_head(model, rows, work).squeeze(1)
        return values[:-1], values[-1], each[0]

    def _whole_terms(self, model: Any, rows: Rows, anchored: Tensor, inputs: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same from whole logits: the plain way, and the only one for heads that are not plain."""
        logits = scored_logits(model, rows)
        with self._frozen(model) as reference:
            reference_logits = scored_logits(reference, inputs["anchor_rows"])
        kl = forward_kl(logits[anchored], reference_logits)
        return token_logps(logits, rows), kl.sum(), kl

    def _kept_of_reference(self, model: Any, inputs: Batch) -> tuple[Tensor, ...]:
        """Return what says p_ref at the retained tokens, in order: hidden states, or ids and log-probs."""
        if self._kept:
            return tuple(inputs[name] for name in _KEPT if name in inputs)
        with self._frozen(model) as reference:
            return (through_head(reference, inputs["anchor_rows"], lambda _, hidden: hidden),)

    @contextmanager
    def _frozen(self, model: Any) -> Iterator[Any]:
        """Yield the frozen reference for a block without gradient or dropout."""
        reference = self.accelerator.unwrap_model(model) if self.reference is None else self.reference
        with torch.no_grad(), evaluating(reference), self._unadapted(reference):
            yield reference

    def _unadapted(self, reference: Any) -> AbstractContextManager[None]:
        """Take the adapter off a model that is its own reference; one that was given is the reference as it is."""
        return nullcontext() if reference is self.reference else without_adapter(reference)

    def _diverged(self, ids: Sequence[str], what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"optimizer step {self.state.global_step + 1}, pairs {', '.join(ids)}",
            what,
            "Lower train.learning_rate or loss.beta, look at these pairs, or train in float32",
        )

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Defer nothing: until the last micro-batch, every device would hold the gradients of the whole model."""
        yield

    # -- batches ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Return an optimizer step's micro-batches and its denominators, added up over them and over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_ids = [id_ for batch in batches for id_ in batch["ids"]]
        counts = torch.tensor([count(b) for b in batches], dtype=torch.float64).sum(dim=0)
        return batches, self.accelerator.reduce(counts.to(torch.float32).to(device), "sum")

    def _get_train_sampler(self, train_dataset: Any = None) -> StratifiedSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        per_step = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = StratifiedSampler(
            dataset.outcomes, per_step, seed, lengths=dataset.lengths, micro_batch=self._train_batch_size
        )
        return self.sampler

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """As in transformers; after the last micro-batch of a step, tell the KL controller the step's KL."""
        with self._attending():
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            wide = torch.float32 if loss.device.type == "mps" else torch.float64
            total = self.accelerator.reduce(self.step_kl.to(loss.device, wide), "sum").cpu()
            self.kl_control.step_kl = float(total[0] / total[1].clamp(min=1))
            self.step_kl.zero_()
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As in transformers; stop before a gradient that is not finite reaches the weights and a checkpoint."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scales_itself = self.accelerator.scaler is not None  # fp16 meets such gradients and skips the step
        if not scales_itself and not math.isfinite(float(norm)):
            raise self._diverged(self._step_ids, "the gradient of their batch is not finite")
        return norm

    def create_optimizer(self, model: Any = None) -> Any:
        """As in transformers; of a sharded model it moves the parts that stay, not what a forward has gathered."""
        let_go(self.model)
        return super().create_optimizer(model)

    # -- checkpoints of a model that was sharded before: transformers has none of its own ------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; the first process gathers a sharded model, whose checkpoints hold their parts instead."""
        if not self._sharded:
            super().save_model(output_dir, _internal_call)
        elif not _internal_call:
            values = gathered(self.model, trained_only=has_adapter(self.model))
            if self.args.should_save:
                self._save(output_dir, state_dict=values)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self.optimizer, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._sharded:  # else with the optimizer, once there is one
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_shards(self.model, self.optimizer, checkpoint)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    # -- metrics ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add α_KL, the mean KL and the per-class metrics since the last line."""
        if "loss" in logs:
            logs = {**logs, **self._means(self.metrics), "alpha_kl": self.kl_control.alpha}
            self.metrics = Metrics()
        super().log(logs, start_time)

    def _record(self, metrics: Metrics, parts: _Parts, inputs: Batch) -> None:
        metrics.add_pairs(parts.ratios, inputs["read"], parts.losses, inputs["directions"], inputs["outcomes"])
        metrics.add_kl(parts.kl, parts.kl_row, inputs["place"][:, 0], inputs["outcomes"])

    def _means(self, metrics: Metrics) -> dict[str, float]:
        sums = metrics.sums.to(torch.float32).to(self.args.device)
        return metrics.means(self.accelerator.reduce(sums, "sum").cpu())

    def _eval_batches(self, pairs: WeightedPairs | None) -> Iterator[tuple[Batch, bool]]:
        """Yield this process's held-out batches, and whether they count: each pair counts in one process.

        Parameters that are spread over processes want the same number of forwards of all: where others have more
        batches, one stands in again, and is not counted.
        """
        loader = self.get_eval_dataloader(pairs)
        if not (self._sharded or self.is_fsdp_enabled or self.is_deepspeed_enabled):
            yield from ((batch, True) for batch in loader)
            return
        batches = list(loader)
        own = torch.tensor([len(batches)], device=self.args.device)
        stand_in = batches[0] if batches else self.data_collator([(pairs or self.eval_dataset)[0]])
        for i in range(int(self.accelerator.gather(own).max())):
            yield (batches[i], True) if i < len(batches) else (stand_in, False)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,  # noqa: ARG002 - part of Trainer's signature
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the objective and the per-class metrics on held-out pairs, with every weight 1.

        Args:
            eval_dataset: as in the constructor. Default: the one given there.
            ignore_keys: not used.
            metric_key_prefix: stands before each name.
        """
        pairs = None if eval_dataset is None else self._pairs(eval_dataset)
        metrics, found = Metrics(), torch.zeros(2, 3, dtype=torch.float64)
        with evaluating(self.model):
            for batch, counts_here in self._eval_batches(pairs):
                inputs = self._prepare_inputs(batch)
                parts = self._parts(self.model, inputs)
                if not counts_here:
                    continue
                self._record(metrics, parts, inputs)
                terms = (parts.losses[parts.conflict], parts.kl, parts.losses[parts.confirm])
                found += torch.tensor([[float(t.sum()) for t in terms], count(inputs)], dtype=torch.float64)
        sums, counts = self.accelerator.reduce(found.float().to(self.args.device), "sum").cpu()
        total = objective(
            conflict_losses=sums[:1],
            weights=torch.ones(1),
            retained_kl=sums[1:2],
            confirm_losses=sums[2:],
            alpha_kl=self.kl_control.alpha,
            confirm=self.args.loss.confirm,
            denominators=Denominators(*counts.tolist()),
        )
        result = {"loss": float(total), **self._means(metrics)}
        result = {f"{metric_key_prefix}_{name}": value for name, value in result.items()}
        self.log(result)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result


def _reference(kept: tuple[Tensor, ...], head: Head, like: Tensor) -> Reference:
    """Return what was kept as distributions; an empty tuple stands for no token."""
    if len(kept) == 2:
        return TopReference(*kept)
    return HiddenReference(head, kept[0] if kept else like.detach()[:0])


class _Upkeep(TrainerCallback):
    """What transformers and accelerate leave undone."""

    def __init__(self, trainer: TraceTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Choose the epoch's order: accelerate does not reach the sampler of a resumed epoch over several ranks."""
        self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Log before every checkpoint: sums that were not logged yet would be lost to a resumed run."""
        control.should_log = control.should_log or control.should_save


def _model(model: Any, args: TraceConfig, peft_config: Any) -> Any:
    """Return the model to train, on its device, in its fresh adapter if it has one."""
    if isinstance(model, str | Path):
        # The precision of the weights follows the recipe's rules, for which only the presence of an adapter matters.
        lora = None if peft_config is None else LoraSettings()
        settings = ModelSettings(path=str(model), lora=lora, device=args.device.type)
        model = load_model(settings).requires_grad_(True)
    if getattr(model, "hf_device_map", None) is None and not is_sharded(model):
        model.to(args.device)
    if peft_config is not None:
        model = wrap_in_adapter(model, peft_config, args.seed)
    refuse_trained_adapter(model)
    return forget_padding_index(model)


def _not_finite(parts: _Parts, inputs: Batch) -> list[str]:
    """Return the ids of the pairs whose share of the loss is not finite."""
    bad = ~torch.isfinite(parts.losses * inputs["weights"].to(parts.losses.dtype))
    bad |= torch.isin(inputs["place"][:, 0], parts.kl_row[~torch.isfinite(parts.kl)])
    return [id_ for id_, is_bad in zip(inputs["ids"], bad.tolist(), strict=True) if is_bad]
