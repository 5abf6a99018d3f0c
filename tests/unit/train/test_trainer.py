"""TraceTrainer as a user meets it: what it takes, refuses, logs and leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Float64Throughout, saved_tiny, tiny_model, tiny_tokenizer
from tiny_training import config, largest_difference, lora, mixture, steps, trained, trainer, triaged, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from realigner.errors import ModelError, StaleKeyError, TrainingDiverged
from realigner.model.load import wrap_in_adapter
from realigner.records import Outcome, Weight
from realigner.train import TraceTrainer

# -- the reference --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"target_modules": ["q_proj", "embed_tokens"]}, {"use_dora": True}],
    ids=["linear", "embedding", "dora"],
)
def test_a_trained_adapter_is_refused_and_a_fresh_one_is_not(settings: dict[str, Any], tmp_path: Path) -> None:
    model = wrap_in_adapter(tiny_model("llama", hidden=16), lora(**settings), seed=0)
    tokenizer = tiny_tokenizer("llama")
    run = TraceTrainer(model, config(tmp_path), mixture(8), processing_class=tokenizer)
    assert run.reference is None
    run.train()
    with pytest.raises(
        ModelError, match="adapter that has been trained already: training goes on from the model with a fresh "
    ):
        TraceTrainer(model, config(tmp_path), mixture(8), processing_class=tokenizer)


def test_an_adapter_that_from_pretrained_put_in_is_refused(tmp_path: Path) -> None:
    base = saved_tiny("llama", tmp_path / "base", hidden=16)
    adapted = wrap_in_adapter(AutoModelForCausalLM.from_pretrained(base), lora(init_lora_weights=False), seed=0)
    adapted.save_pretrained(tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="Merge the adapter first"):
        TraceTrainer(model, config(tmp_path / "out"), mixture(8), processing_class=tiny_tokenizer("llama"))


def test_the_model_that_trains_cannot_be_its_own_frozen_reference(tmp_path: Path) -> None:
    model = tiny_model("llama", hidden=16)
    with pytest.raises(ModelError, match="ref_model and model are one object"):
        TraceTrainer(model, config(tmp_path), mixture(8), processing_class=tiny_tokenizer("llama"), ref_model=model)


def test_a_given_reference_is_the_reference_of_log_ratios_too(tmp_path: Path) -> None:
    other = tiny_model("llama", hidden=16, seed=1)
    run = trainer(tmp_path, mixture(8), ref_model=other, max_steps=1)
    run.train()
    first = steps(run)[0]
    assert abs(first["INVERT/chosen_logp_change"]) > 0.1
    assert first["kl"] > 0.01
    assert all(not p.requires_grad for p in other.parameters())


def test_a_model_may_be_given_by_its_path(tmp_path: Path) -> None:
    base = saved_tiny("llama", tmp_path / "base", hidden=16)
    tokenizer = tiny_tokenizer("llama")
    expected = trainer(tmp_path, mixture(8), adapter=lora())
    run = TraceTrainer(str(base), config(tmp_path / "out"), mixture(8), processing_class=tokenizer, peft_config=lora())
    for each in (expected, run):
        each.train()
    assert largest_difference(trained(expected.model), trained(run.model)) == 0.0
    full = TraceTrainer(str(base), config(tmp_path / "out"), mixture(8), processing_class=tokenizer)
    assert all(p.requires_grad for p in full.model.parameters())


# -- the head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_tiled_and_whole_logits_train_alike_in_float64(family: str, adapter: Any, tmp_path: Path) -> None:
    """The reference path is the plain one: whole logits, `forward_kl` and autograd."""
    runs = []
    for tiled in (True, False):
        with Float64Throughout():
            run = trainer(
                tmp_path / str(tiled),
                mixture(16),
                family=family,
                dtype=torch.float64,
                adapter=adapter,
                loss={"confirm": 0.5},
                tiled_head=tiled,
                optim="sgd",  # Adam would blow gradients that are nothing but rounding up to full steps
            )
            run.train()
        assert run.tiled is tiled
        runs.append(run)
    assert largest_difference(trained(runs[0].model), trained(runs[1].model)) < 1e-9
    for ours, plain in zip(steps(runs[0]), steps(runs[1]), strict=True):
        for name in ("loss", "kl", "INVERT/margin", "CONFIRM/kl"):
            assert ours[name] == pytest.approx(plain[name], rel=1e-5, abs=1e-6)  # as logged, rounded


def test_a_model_whose_head_is_not_plain_trains_on_whole_logits_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trainer(tmp_path / "plain", mixture(8))
    model = tiny_model("llama", hidden=16)
    model.set_output_embeddings(WrappedHead(model.get_output_embeddings()))
    run = trainer(tmp_path / "odd", mixture(8), model=model)
    assert plain.tiled and not run.tiled
    assert "they are kept whole, so memory grows with scored tokens × vocabulary" in caplog.text
    for each in (plain, run):
        each.train()
    assert steps(run)[-1]["loss"] == pytest.approx(steps(plain)[-1]["loss"], rel=1e-4)


class WrappedHead(torch.nn.Module):
    """Does what the linear layer inside it does."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden)


# -- what is kept of the reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_kept_hidden_states_train_as_a_reference_forward_does(family: str, adapter: Any, tmp_path: Path) -> None:
    runs = []
    for kind in ("forward", "hidden"):
        with Float64Throughout():
            run = trainer(
                tmp_path / kind,
                mixture(16),
                family=family,
                dtype=torch.float64,
                adapter=adapter,
                loss={"kl_reference": kind, "alpha_kl": 2.0, "confirm": 0.5},
                optim="sgd",
                eval_dataset=mixture(8),
            )
            run.train()
            run.evaluate()
        runs.append(run)
    assert runs[1].reference is None
    assert largest_difference(trained(runs[0].model), trained(runs[1].model)) < 1e-12
    assert runs[0].state.log_history[-1]["eval_kl"] == pytest.approx(runs[1].state.log_history[-1]["eval_kl"], rel=1e-9)
    assert runs[0].state.log_history[-1]["eval_kl"] > 1e-6


def test_kept_hidden_states_keep_their_precision(tmp_path: Path) -> None:
    """bfloat16 weights: what is kept is bfloat16, and the KL begins at zero."""
    model = tiny_model("llama", hidden=16, dtype=torch.bfloat16)
    run = trainer(tmp_path, mixture(16), model=model, adapter=lora(), loss={"kl_reference": "hidden"})
    assert {example["chosen_hidden_dtype"] for example in run.train_dataset.pairs} == {"bfloat16", None}
    run.train()
    assert abs(steps(run)[0]["kl"]) < 1e-3


def test_the_likeliest_tokens_kept_in_place_of_all_train_nearly_alike(tmp_path: Path) -> None:
    ends = {}
    for kind, k in (("forward", 1), ("top_k", 399), ("top_k", 8)):
        run = trainer(
            tmp_path / f"{kind}{k}",
            mixture(16),
            adapter=lora(),
            loss={"kl_reference": kind, "kl_top_k": k, "alpha_kl": 2.0},
            optim="sgd",
            learning_rate=0.1,
        )
        run.train()
        ends[kind, k] = trained(run.model)
    assert largest_difference(ends["forward", 1], ends["top_k", 399]) < 1e-4
    assert largest_difference(ends["forward", 1], ends["top_k", 8]) > 1e-4


def test_pairs_encoded_for_another_kind_of_reference_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path / "a", mixture(8), loss={"kl_reference": "hidden"})
    data = run.train_dataset
    other = trainer(tmp_path / "b", data, loss={"kl_reference": "top_k"})
    with pytest.raises(
        StaleKeyError, match=r"has no chosen_top_ids: it was encoded for another loss.kl_reference than"
    ):
        other.train()


def test_a_kept_reference_needs_a_plain_head(tmp_path: Path) -> None:
    model = tiny_model("llama", hidden=16)
    model.set_output_embeddings(WrappedHead(model.get_output_embeddings()))
    with pytest.raises(ModelError, match=r"loss.kl_reference = hidden: what is kept .*Set loss.kl_reference: forward"):
        trainer(tmp_path, mixture(8), model=model, loss={"kl_reference": "hidden"})


# -- divergence -----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_exactly_its_pairs(tmp_path: Path) -> None:
    pairs = mixture(8)
    weights = [Weight(w.id, w.outcome, 1.0, 1e39 if w.id == "punish-2" else 1.0, False) for w in weights_of(pairs)]
    run = trainer(tmp_path, pairs, weights=weights)
    with pytest.raises(TrainingDiverged, match=r"^optimizer step 1, pairs punish-2: their loss is not finite. Lower"):
        run.train()


@pytest.mark.parametrize("confirm", [0.0, 1.0])
def test_a_logit_that_is_not_finite_names_the_pairs_that_read_it(confirm: float, tmp_path: Path) -> None:
    """A token that only one answer has: every other pair of the batch is innocent."""
    marked = [triaged(20, Outcome.CONFIRM), triaged(21, Outcome.INVERT)]
    run = trainer(tmp_path, [*mixture(6), *marked], loss={"confirm": confirm}, num_train_epochs=2)
    batch = run.data_collator([run.train_dataset[i] for i in range(8)])
    examples = [run.train_dataset[i] for i in range(8)]
    read = {"confirm-20": "rejected_ids" if confirm else "chosen_ids", "invert-21": "rejected_ids"}
    rare = 7
    for example in examples:
        for name in ("chosen_ids", "rejected_ids", "correction_ids"):
            assert rare not in (example[name] or [])
        if example["id"] in read:
            example[read[example["id"]]][-2] = rare
    batch = run.data_collator(examples)
    with torch.no_grad():
        run.model.get_input_embeddings().weight[rare] = float("nan")
    with pytest.raises(
        TrainingDiverged, match=r"^optimizer step 1, pairs confirm-20, invert-21: their loss is not fin"
    ):
        run.compute_loss(run.model, batch)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    run = trainer(tmp_path, mixture(8))
    parameter = next(p for p in run.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = trained(run.model)
    with pytest.raises(TrainingDiverged, match=r"^optimizer step 1, pairs .*: the gradient of their batch is not fin"):
        run.train()
    assert largest_difference(before, trained(run.model)) == 0.0


# -- what is logged -------------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_scalars_of_each_class(tmp_path: Path) -> None:
    run = trainer(tmp_path, mixture(8), eval_dataset=mixture(4), report_to="tensorboard", eval_strategy="epoch")
    run.train()
    (events,) = (tmp_path / "runs").glob("*/events.*")
    found = EventAccumulator(str(events))
    found.Reload()
    scalars = set(found.Tags()["scalars"])
    for name in ("train/INVERT/margin", "train/PUNISH/loss", "train/NEUTRAL/kl", "train/alpha_kl", "eval/INVERT/loss"):
        assert name in scalars
    assert found.Scalars("train/INVERT/loss")[0].value == pytest.approx(math.log(2.0), rel=1e-5)


def test_a_line_of_several_steps_holds_their_means(tmp_path: Path) -> None:
    each, together = (trainer(tmp_path, mixture(32), logging_steps=n) for n in (1, 4))
    each.train()
    together.train()
    (line,) = steps(together)
    names = [n for n in line if n.endswith(("loss", "margin", "accuracy")) and not n.startswith("PUNISH")]
    assert len(names) >= 4
    for name in names:
        values = [step[name] for step in steps(each)]
        assert line[name] == pytest.approx(sum(values) / len(values), rel=1e-4), name


def test_an_evaluation_takes_other_pairs(tmp_path: Path) -> None:
    run = trainer(tmp_path, mixture(8), eval_dataset=mixture(4))
    run.train()
    others = run.evaluate([triaged(i, Outcome.INVERT) for i in range(30, 33)], metric_key_prefix="other")
    assert {name for name in others if name.startswith("other_")} == {
        "other_loss",
        *(
            f"other_INVERT/{kind}"
            for kind in ("loss", "margin", "accuracy", "chosen_logp_change", "rejected_logp_change")
        ),
    }
    assert others["other_loss"] == pytest.approx(others["other_INVERT/loss"])
    assert others["other_INVERT/chosen_logp_change"] != 0.0


@pytest.mark.parametrize("kept", ["forward", "hidden", "top_k"])
def test_other_pairs_are_scored_by_the_reference_or_not_at_all(kept: str, tmp_path: Path) -> None:
    """A reference of which everything has been kept is let go: the model in training must not take its place."""
    pairs, reference = mixture(4), tiny_model("llama", hidden=16, seed=1)
    settings = {"adapter": lora(), "loss": {"kl_reference": kept}, "eval_dataset": pairs}
    given = trainer(tmp_path, mixture(8), ref_model=reference, **settings)
    known = given.evaluate()
    if kept == "forward":
        assert given.evaluate(pairs) == known
    else:
        with pytest.raises(ModelError, match="after the reference was let go"):
            given.evaluate(pairs)
    own = trainer(tmp_path, mixture(8), **settings)
    own.train()
    first, again = (own.evaluate(each) for each in (None, pairs))
    assert {n: v for n, v in first.items() if "runtime" not in n} == pytest.approx(
        {n: v for n, v in again.items() if "runtime" not in n}
    )


# -- what is left behind --------------------------------------------------------------------------------------------


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_the_saved_model_loads_with_tokenizer_and_template(adapter: Any, tmp_path: Path) -> None:
    base = saved_tiny("gemma2", tmp_path / "base", hidden=16)
    tokenizer = AutoTokenizer.from_pretrained(base)
    run = TraceTrainer(str(base), config(tmp_path / "out"), mixture(8), processing_class=tokenizer, peft_config=adapter)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(run.model))
    assert not torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(base)))
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.chat_template == tokenizer.chat_template
    assert again.padding_side == tokenizer.padding_side == "left"
    assert (tmp_path / "saved" / "adapter_config.json").exists() == (adapter is not None)
    if adapter is None:
        assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_cache"] is True
    else:
        assert isinstance(run.model, PeftModel)
