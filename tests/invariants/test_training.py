"""What must hold whatever the batch, the cut, the rank and the moment of interruption."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from reference.naive_training import gradient, logits_of, naive, reference_of
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_training import (
    CYCLE,
    config,
    largest_difference,
    lora,
    mixture,
    steps,
    trained,
    trainer,
    triaged,
    weights_of,
)
from transformers import TrainerCallback

from realigner.model.load import wrap_in_adapter
from realigner.model.rows import RowBatch
from realigner.records import Outcome
from realigner.train import TraceTrainer
from realigner.train.batch import count

LOG2 = math.log(2.0)
ADAPTERS = pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])


class Gradients(TrainerCallback):
    """Compares the gradient of each optimizer step with the one that the formulas give at the same weights."""

    def __init__(self) -> None:
        self.trainer: TraceTrainer | None = None
        self.errors: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        assert self.trainer is not None
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        pairs = self.trainer.train_dataset
        loss = args.loss
        terms = naive(
            logits_of(model),
            reference_of(self.trainer),
            [pairs[i] for i in range(len(pairs))],
            beta=loss.beta,
            imitate=loss.imitate,
            confirm=loss.confirm > 0,
        )
        expected = gradient(terms.objective(alpha_kl=loss.alpha_kl, confirm=loss.confirm), model)
        largest = max(float(g.abs().max()) for g in expected.values())
        self.errors.append(max(float((found[n] - g).abs().max()) for n, g in expected.items()) / largest)


def compared(directory: Path, pairs: Any, **settings: Any) -> Gradients:
    """Train in float64 by the losses that the formulas know, comparing every step."""
    compare = Gradients()
    with Float64Throughout():
        compare.trainer = trainer(
            directory,
            pairs,
            dtype=torch.float64,
            callbacks=[compare],
            loss={"beta": 0.3, "alpha_kl": 0.5, "confirm": 0.7},
            **settings,
        )
        compare.trainer.train()
    return compare


@pytest.mark.parametrize(("family", "adapter"), [("llama", None), ("qwen2", lora()), ("gemma2", lora())])
def test_gradients_equal_those_of_the_formulas(family: str, adapter: Any, tmp_path: Path) -> None:
    """At the reference and away from it, over accumulated micro-batches that hold a class or none of it."""
    pairs = mixture(8)
    compare = compared(
        tmp_path,
        pairs,
        family=family,
        adapter=adapter,
        weights=weights_of(pairs),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_train_epochs=2,
    )
    assert len(compare.errors) == 2
    assert max(compare.errors) < 1e-6  # the reference log-probabilities are stored in float32


@ADAPTERS
@pytest.mark.parametrize("own_adapter", [False, True])
def test_gradients_equal_those_of_the_formulas_with_another_model_as_the_reference(
    adapter: Any, own_adapter: bool, tmp_path: Path
) -> None:
    """As in a chain of runs. What the reference is made of, an adapter among it, belongs to it."""
    other = tiny_model("llama", dtype=torch.float64, hidden=16, seed=1)
    if own_adapter:
        other = wrap_in_adapter(other, lora(init_lora_weights=False), seed=2).double()
    compare = compared(tmp_path, mixture(8), adapter=adapter, ref_model=other)
    assert compare.trainer is not None and steps(compare.trainer)[0]["kl"] > 0.01
    assert max(compare.errors) < 1e-6


@ADAPTERS
def test_a_global_batch_of_16_trains_alike_however_it_is_cut(adapter: Any, tmp_path: Path) -> None:
    pairs = mixture(32)
    found = {}
    for size in (16, 8, 4):
        run = trainer(
            tmp_path,
            pairs,
            adapter=adapter,
            dtype=torch.float64,
            weights=weights_of(pairs),
            loss={"alpha_kl": 0.5, "kl_budget": 0.01},
            per_device_train_batch_size=size,
            gradient_accumulation_steps=16 // size,
            num_train_epochs=2,
        )
        run.train()
        assert run.state.global_step == 4
        # Adam would hide a gradient of another scale; its norm does not.
        found[size] = trained(run.model), [line[name] for line in steps(run) for name in ("loss", "grad_norm")]
    for size in (8, 4):
        assert largest_difference(found[16][0], found[size][0]) < 1e-5
        assert found[size][1] == pytest.approx(found[16][1], rel=1e-5)
    start = trained(trainer(tmp_path, pairs, adapter=adapter, dtype=torch.float64).model)
    assert largest_difference(start, found[16][0]) > 1e-3


def test_two_ranks_train_resume_and_evaluate_as_one_process(tmp_path: Path) -> None:
    """Full and LoRA; the resumed epoch is not the first, and the evaluated pairs do not divide by the ranks.

    With whole weights (DDP), and with weights that FSDP2 spreads over the ranks; a sharded checkpoint of two ranks goes
    on in two and in three as if nothing had stopped.
    """
    tests = str(Path(__file__).resolve().parents[1])
    (tmp_path / "2").mkdir()
    done = subprocess.run(
        [sys.executable, two_ranks.__file__, str(tmp_path / "2")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    alone = {case: two_ranks.train(case, tmp_path / "1", ranks=1) for case in two_ranks.CASES}
    for case in two_ranks.CASES:
        together = torch.load(tmp_path / "2" / f"{case}.pt", weights_only=True)
        assert largest_difference(alone[case]["weights"], together["weights"]) < 1e-12
        assert together["steps"] == pytest.approx(alone[case]["steps"], rel=1e-4, abs=1e-6)
        assert together["evaluation"] == pytest.approx(alone[case]["evaluation"], rel=1e-4, abs=1e-6)
    for case, ranks in two_ranks.SHARDED:
        uninterrupted = alone[case.removeprefix("resumed-")]
        sharded = torch.load(tmp_path / "2" / f"sharded-{case}-{ranks}.pt", weights_only=True)
        adapters = 0 if case == "resumed-full" else 8
        assert sharded["sharded"] == len(list(tiny_model("llama").parameters())) + adapters
        # The same micro-batches round alike; other ones do not, where the model computes its norms in float32.
        rounding = 1e-12 if ranks == 2 else 1e-6
        assert largest_difference(uninterrupted["weights"], sharded["weights"]) < rounding
        assert sharded["steps"] == pytest.approx(uninterrupted["steps"], rel=1e-6, abs=1e-6)
        assert sharded["evaluation"] == pytest.approx(uninterrupted["evaluation"], rel=1e-6, abs=1e-6)
    fewer = two_ranks.train("resumed", tmp_path / "3", ranks=1, checkpoint=tmp_path / "2" / "resumed" / "checkpoint-4")
    assert largest_difference(fewer["weights"], together["weights"]) < 2e-5  # of a checkpoint that two ranks made
    assert fewer["steps"] == pytest.approx(together["steps"], rel=1e-4, abs=1e-6)


@ADAPTERS
def test_the_first_step_starts_at_the_reference(adapter: Any, tmp_path: Path) -> None:
    """r = 0: INVERT and CONFIRM cost log 2, PUNISH twice that (log 2 where corrected), and there is no KL."""
    run = trainer(tmp_path, mixture(8), adapter=adapter, loss={"alpha_kl": 3.0}, max_steps=1)
    run.train()
    first = steps(run)[0]
    assert first["INVERT/loss"] == pytest.approx(LOG2, rel=1e-5)
    assert first["PUNISH/loss"] == pytest.approx((2 * LOG2 + LOG2) / 2, rel=1e-5)
    assert first["kl"] == pytest.approx(0.0, abs=1e-9)
    assert first["loss"] == pytest.approx((2 * LOG2 + 2 * LOG2 + LOG2) / 4 + LOG2, rel=1e-5)


def micro_batch(run: TraceTrainer, positions: list[int]) -> dict[str, Any]:
    return dict(run.data_collator([run.train_dataset[i] for i in positions]))


def loss_and_gradient(run: TraceTrainer, batch: dict[str, Any], counts: Any = None) -> tuple[float, dict[str, Any]]:
    loss = run.compute_loss(run.model, batch, num_items_in_batch=counts)
    return float(loss.detach()), gradient(loss, run.model)


def away_from_reference(directory: Path, pairs: Any, **settings: Any) -> TraceTrainer:
    """Return a trainer whose model has moved, so that no log-ratio is zero."""
    run = trainer(directory, pairs, dtype=torch.float64, **settings)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
    return run


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_order_and_padding_inside_a_micro_batch_do_not_matter(family: str, tmp_path: Path) -> None:
    run = away_from_reference(tmp_path, mixture(8), family=family, adapter=lora(), loss={"confirm": 0.5}, packed=False)
    loss, expected = loss_and_gradient(run, micro_batch(run, list(range(8))))
    permuted = micro_batch(run, [5, 2, 7, 0, 3, 6, 1, 4])
    padded = micro_batch(run, list(range(8)))
    rows = padded["rows"]
    longer = (torch.nn.functional.pad(t, (0, 9)) for t in (rows.input_ids, rows.attention_mask, rows.scored))
    padded["rows"] = RowBatch(*longer)
    for batch in (permuted, padded):
        other, found = loss_and_gradient(run, batch)
        assert other == pytest.approx(loss, rel=1e-6)
        assert largest_difference(expected, found) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@ADAPTERS
@pytest.mark.parametrize("settings", [{}, {"kl_reference": "hidden"}], ids=["forward", "hidden"])
def test_packed_rows_with_shared_prompts_train_as_padded_ones(
    family: str, adapter: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for packed in (True, False):
        with Float64Throughout():
            run = away_from_reference(
                tmp_path,
                mixture(8),
                family=family,
                adapter=adapter,
                loss={"confirm": 0.5, "alpha_kl": 2.0, **settings},
                packed=packed,
            )
            assert run.packed is packed
            found.append(loss_and_gradient(run, micro_batch(run, list(range(8)))))
            found.append(loss_and_gradient(run, micro_batch(run, [0, 2])))  # no retained pair
    for ours, plain in ((found[0], found[2]), (found[1], found[3])):
        assert ours[0] == pytest.approx(plain[0], rel=1e-12)
        assert largest_difference(plain[1], ours[1]) < 1e-10


def test_a_pair_of_weight_zero_is_absent_but_counts_in_the_denominator(tmp_path: Path) -> None:
    pairs = mixture(8)
    zero = next(w for w in weights_of(pairs) if w.weight == 0.0)
    run = away_from_reference(tmp_path, pairs, weights=weights_of(pairs))
    everything = micro_batch(run, list(range(8)))
    without = micro_batch(run, [i for i in range(8) if run.train_dataset[i]["id"] != zero.id])
    assert count(everything)[0] == 4
    assert count(without)[0] == 3
    loss, expected = loss_and_gradient(run, everything)
    other, found = loss_and_gradient(run, without, torch.tensor(count(everything)))
    assert other == pytest.approx(loss, rel=1e-6)
    assert largest_difference(expected, found) < 1e-5


def test_the_disabled_adapter_and_a_copy_of_the_model_are_the_same_reference(tmp_path: Path) -> None:
    runs = [
        trainer(tmp_path, mixture(16), adapter=lora(), ref_model=reference, loss={"alpha_kl": 0.5})
        for reference in (None, tiny_model("llama", hidden=16))
    ]
    for run in runs:
        run.train()
    assert runs[0].reference is None
    assert runs[1].reference is not None
    assert steps(runs[0]) == steps(runs[1])
    assert steps(runs[0])[-1]["kl"] > 0
    assert largest_difference(*(trained(run.model) for run in runs)) == 0


def test_metrics_and_evaluation_equal_the_formulas_at_any_batch_size(tmp_path: Path) -> None:
    held_out = [triaged(100 + i, CYCLE[i % 4], corrected=i == 6) for i in range(9)]
    settings = {"loss": {"alpha_kl": 0.5, "confirm": 0.5}, "adapter": lora(), "eval_dataset": held_out}
    found = []
    for size in (1, 4, 16):
        run = away_from_reference(tmp_path, mixture(8), per_device_eval_batch_size=size, **settings)
        found.append({name: value for name, value in run.evaluate().items() if name != "epoch"})
    pairs = run.eval_dataset
    terms = naive(
        logits_of(run.model.eval()),
        reference_of(run),
        [pairs[i] for i in range(len(pairs))],
        beta=run.args.loss.beta,
        imitate=run.args.loss.imitate,
        confirm=True,
        weighted=False,
    )
    expected = {f"eval_{name}": value for name, value in terms.means().items()}
    expected["eval_loss"] = float(terms.objective(alpha_kl=0.5, confirm=0.5).detach())
    assert {"eval_INVERT/margin", "eval_PUNISH/correction_logp_change", "eval_CONFIRM/loss", "eval_kl"} < set(expected)
    for result in found:
        assert result.keys() == expected.keys()
        assert result == pytest.approx(expected, rel=1e-5, abs=1e-5)  # log p_ref is float32


@pytest.mark.parametrize(
    ("cycle", "loss"),
    [
        (CYCLE, {"alpha_kl": 0.0}),
        ((Outcome.INVERT, Outcome.PUNISH), {"alpha_kl": 0.5}),
        ((Outcome.CONFIRM, Outcome.NEUTRAL), {"alpha_kl": 0.5, "confirm": 1.0}),
    ],
    ids=["no KL", "no retained pairs", "no conflicts"],
)
def test_a_term_that_is_absent_does_no_harm(cycle: Any, loss: dict[str, float], tmp_path: Path) -> None:
    run = trainer(tmp_path, mixture(12, cycle), loss=loss, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    before = trained(run.model)
    run.train()
    assert run.state.global_step == 2
    assert all(math.isfinite(line["loss"]) for line in steps(run))
    assert largest_difference(before, trained(run.model)) > 1e-4


def test_a_kl_budget_is_held(tmp_path: Path) -> None:
    """Without a budget the KL runs far over it; the controller brings it there within 40 steps and keeps it."""
    free, held = (
        trainer(
            tmp_path,
            mixture(64),
            loss={"alpha_kl": 0.1, "kl_budget": budget, "imitate": 0.0},  # whose pull never saturates
            learning_rate=5e-4,
            lr_scheduler_type="constant",
            per_device_train_batch_size=16,
            max_steps=64,
        )
        for budget in (None, 0.01)
    )
    free.train()
    held.train()
    without, with_it = ([line["kl"] for line in steps(run)] for run in (free, held))
    assert sum(without[40:]) / len(without[40:]) > 0.05
    assert sum(with_it[40:]) / len(with_it[40:]) == pytest.approx(0.01, rel=0.2)
    assert max(with_it) < 0.05
    alphas = [line["alpha_kl"] for line in steps(held)]
    assert alphas[0] < 0.1 < max(alphas)  # lowered while the KL was small, raised when it was not


@pytest.mark.parametrize("adapter", [None, lora(lora_dropout=0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_resumed_run_ends_in_the_same_bits(adapter: Any, log_every: int, tmp_path: Path) -> None:
    """From the middle of an epoch and from its end; dropout, schedule, KL budget and log go on as if nothing was."""

    def run(directory: str) -> TraceTrainer:
        return trainer(
            tmp_path / directory,
            mixture(24),
            family="qwen2",  # tied embeddings
            adapter=adapter,
            eval_dataset=mixture(5),
            loss={"alpha_kl": 0.2, "kl_budget": 0.01},
            logging_steps=log_every,
            save_strategy="steps",
            save_steps=1 if log_every == 1 else 2,
            eval_strategy="steps",
            eval_steps=2,
            num_train_epochs=2,
        )

    whole = run("whole")
    whole.train()
    assert whole.state.global_step == 6
    for step in (2, 3) if log_every == 1 else (2,):
        torch.manual_seed(step)  # a new process has another random state
        resumed = run(f"resumed-{step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert largest_difference(trained(whole.model), trained(resumed.model)) == 0
        assert resumed.kl_control.alpha == whole.kl_control.alpha
        assert logged(resumed) == logged(whole)


def logged(run: TraceTrainer) -> list[dict[str, float]]:
    return [line for line in run.state.log_history if "train_runtime" not in line]


def test_a_restored_controller_is_the_one_that_is_told(tmp_path: Path) -> None:
    """transformers can replace callbacks by stored ones; the trainer must follow."""
    settings: dict[str, Any] = {"loss": {"kl_budget": 0.01}, "save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", mixture(24), **settings)
    whole.train()
    resumed = trainer(tmp_path / "resumed", mixture(24), restore_callback_states_from_checkpoint=True, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert resumed.kl_control.alpha == whole.kl_control.alpha


def test_activation_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    for adapter in (None, lora()):
        runs = [
            trainer(tmp_path, mixture(8), adapter=adapter, dtype=torch.float64, activation_checkpointing=on)
            for on in (False, True)
        ]
        for run in runs:
            run.train()
        assert runs[1].model.is_activation_checkpointing
        assert largest_difference(*(trained(run.model) for run in runs)) < 1e-9


def test_under_autocast_the_kl_starts_at_zero(tmp_path: Path) -> None:
    """The policy computes in bfloat16, so its reference must; against a float32 reference the KL would be rounding."""
    run = trainer(tmp_path, mixture(8), bf16=True, max_steps=2)
    run.train()
    first, second = steps(run)
    assert first["kl"] == 0.0
    assert second["kl"] > 0.0
    assert first["INVERT/loss"] == pytest.approx(LOG2, rel=0.05)


def test_arguments_are_json(tmp_path: Path) -> None:
    written = json.loads(config(tmp_path, loss={"beta": 0.25}).to_json_string())
    assert written["loss"]["beta"] == 0.25
    assert written["text"]["format"] == "chat"
