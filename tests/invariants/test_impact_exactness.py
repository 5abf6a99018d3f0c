"""Impact weights by directional derivative are exact: against a gradient per sample, on every family.

The float64 comparisons run twice. As the models are, transformers computes norms (and its eager softmax) in float32
whatever the model's precision, so two exact methods agree to about 1e-7; with `Float64Throughout` that limit goes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from reference.naive_impact import inner, naive_gold_gradient, naive_gradient, naive_logp, naive_pair_gradient
from reference.naive_losses import naive_loss
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_pairs import random_conflicts, random_rows

from realigner.impact.direction import target_gradient
from realigner.impact.slopes import slopes_along
from realigner.impact.vectors import trainable
from realigner.impact.weights import coefficients, score_conflicts
from realigner.model.encoded import responses_read, row_of
from realigner.model.load import attach_lora, forget_padding_index
from realigner.model.rows import Row
from realigner.recipe import ImpactSettings, LoraSettings, LossSettings
from realigner.records import Direction, Outcome

families = pytest.mark.parametrize("family", FAMILIES)
parameters = pytest.mark.parametrize("mode", ["full", "lora"])
LOSS = LossSettings(beta=0.3)


def model_of(family: str, mode: str = "full", dropout: float = 0.0) -> Any:
    """Return a float64 model with the parameters that training would change."""
    model = forget_padding_index(tiny_model(family, dtype=torch.float64))
    if mode == "full":
        return model.requires_grad_(True)
    lora = LoraSettings(rank=3, alpha=6, targets=("q_proj", "v_proj", "down_proj"), dropout=dropout)
    return attach_lora(model.requires_grad_(False), lora, 7).double().eval()


def gold_pairs(count: int = 3) -> list[tuple[Row, Row]]:
    rows = random_rows(2 * count, seed=99, shortest=20, longest=33)
    return list(zip(rows[::2], rows[1::2], strict=True))


def rows_read(example: dict[str, Any]) -> dict[str, Row]:
    names = responses_read(Direction(example["direction"]), Outcome(example["outcome"]), confirm=False)
    return {name: row_of(example, name) for name in names}


def naive_scores(model: Any, examples: list[dict[str, Any]], loss: LossSettings = LOSS) -> np.ndarray:
    gold = naive_gold_gradient(model, gold_pairs(), loss.beta)
    found = [naive_pair_gradient(model, rows_read(e), Direction(e["direction"]), loss) for e in examples]
    return np.array([inner(gold, gradient) for gradient in found])


def scores(
    model: Any, examples: list[dict[str, Any]], loss: LossSettings = LOSS, impact: ImpactSettings | None = None
) -> np.ndarray:
    direction = target_gradient(model, gold_pairs(), beta=loss.beta)
    return score_conflicts(slopes_along(model, direction), examples, impact or ImpactSettings(), loss).values


def relative(found: Any, expected: Any) -> float:
    """Return the norm of the difference of two vectors, relative to the expected one's."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected)))


@families
@parameters
@pytest.mark.parametrize(("context", "bound"), [(nullcontext, 1e-6), (Float64Throughout, 1e-12)])
def test_weights_equal_a_gradient_per_sample(family: str, mode: str, context: Callable[[], Any], bound: float) -> None:
    model, examples = model_of(family, mode), random_conflicts(9)
    with context():
        expected = naive_scores(model, examples)
        found = scores(model, examples)
    assert np.abs(expected).min() > 0
    assert relative(found, expected) < bound


@parameters
@pytest.mark.parametrize(
    "loss",
    [LossSettings(invert="ipo", ipo_tau=0.2), LossSettings(invert="robust", epsilon=0.3), LossSettings(beta=0.05)],
    ids=["ipo", "robust", "small beta"],
)
def test_every_form_of_the_loss_is_weighed_by_its_own_gradient(mode: str, loss: LossSettings) -> None:
    model, examples = model_of("llama", mode), random_conflicts(6)
    with Float64Throughout():
        assert relative(scores(model, examples, loss), naive_scores(model, examples, loss)) < 1e-11


def test_float32_weights_agree_to_float32() -> None:
    examples = random_conflicts(9)
    with Float64Throughout():
        exact = naive_scores(model_of("llama"), examples)
    assert relative(scores(model_of("llama").float(), examples), exact) < 1e-5


def test_bfloat16_weights_rank_the_pairs_as_exact_ones_do() -> None:
    examples = random_conflicts(24)
    with Float64Throughout():
        exact = scores(model_of("llama"), examples)
    rough = scores(model_of("llama").bfloat16(), examples)
    assert np.corrcoef(exact.argsort().argsort(), rough.argsort().argsort())[0, 1] > 0.98


@families
def test_the_target_gradient_is_that_of_the_mean_preference_loss(family: str) -> None:
    model = model_of(family)
    with Float64Throughout():
        expected = naive_gold_gradient(model, gold_pairs(), LOSS.beta)
        found = list(target_gradient(model, gold_pairs(), beta=LOSS.beta).values())
    difference = [a - b for a, b in zip(found, expected, strict=True)]
    assert inner(difference, difference) < 1e-22 * inner(expected, expected)


@families
@parameters
def test_scores_do_not_depend_on_batch_size_order_or_padding(family: str, mode: str) -> None:
    model, rows = model_of(family, mode), random_rows(7)
    order = np.random.default_rng(0).permutation(len(rows))
    with Float64Throughout():
        direction = target_gradient(model, gold_pairs(), beta=1.0)
        alone = [float(slopes_along(model, direction)([row])[0]) for row in rows]
        together = slopes_along(model, direction)(rows, max_tokens=10**9)
        small = slopes_along(model, direction)(rows, max_tokens=80)
        shuffled = slopes_along(model, direction)([rows[i] for i in order], max_tokens=130)
    for found in (together, small, shuffled[np.argsort(order).tolist()]):
        assert relative(found, alone) < 1e-12


def test_the_score_of_a_pair_does_not_depend_on_the_other_pairs() -> None:
    model, examples = model_of("mistral"), random_conflicts(8)
    with Float64Throughout():
        together = scores(model, examples)
        backwards = scores(model, examples[::-1])[::-1]
        alone = [scores(model, [example])[0] for example in examples]
    assert relative(together, alone) < 1e-12
    assert relative(backwards, alone) < 1e-12


def test_a_derivative_is_linear_in_its_direction_whatever_the_scale() -> None:
    model, rows = model_of("llama"), random_rows(4)
    direction = target_gradient(model, gold_pairs(), beta=1.0)
    base = slopes_along(model, direction)(rows)
    for scale in (1e-30, -2.0, 1e20):
        scaled = slopes_along(model, {n: v * scale for n, v in direction.items()})(rows)
        assert relative(scaled, base * scale) < 1e-6
    nothing = slopes_along(model, {n: torch.zeros_like(v) for n, v in direction.items()})(rows)
    assert nothing.tolist() == [0.0] * len(rows)


@families
def test_a_derivative_is_the_slope_of_the_log_probability(family: str) -> None:
    """Against a central difference of log p itself, which shares nothing with automatic differentiation."""
    model, rows = model_of(family), random_rows(4)
    generator = torch.Generator().manual_seed(5)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in trainable(model).items()}
    step = 1e-6

    def shifted(sign: int) -> np.ndarray:
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter += sign * step * direction[name]
            found = np.array([float(naive_logp(model, row)) for row in rows])
            for name, parameter in trainable(model).items():
                parameter -= sign * step * direction[name]
        return found

    with Float64Throughout():
        slope = (shifted(1) - shifted(-1)) / (2 * step)
        assert relative(slopes_along(model, direction)(rows), slope) < 1e-6


@pytest.mark.parametrize("direction", [Direction.REJECTED_OVER_CHOSEN, Direction.SUPPRESS_BOTH])
@pytest.mark.parametrize("invert", ["dpo", "ipo", "robust"])
def test_the_coefficient_form_is_the_slope_of_the_pair_loss_itself(direction: Direction, invert: Any) -> None:
    loss = LossSettings(invert=invert)
    model = model_of("qwen3")
    example = next(e for e in random_conflicts(3) if e["direction"] == direction)
    rows = rows_read(example)
    with Float64Throughout():
        v = target_gradient(model, gold_pairs(), beta=loss.beta)
        slopes = slopes_along(model, v)(list(rows.values())).tolist()
        found = sum(coefficients(direction, loss)[name] * s for name, s in zip(rows, slopes, strict=True))
        logps = {name: naive_logp(model, row) for name, row in rows.items()}
        value = naive_loss({name: logp - logp.detach() for name, logp in logps.items()}, direction, loss)
        expected = inner(list(v.values()), naive_gradient(value, model))
    assert found == pytest.approx(expected, rel=1e-10)


@parameters
def test_cosine_divides_by_both_norms_of_a_gradient_per_sample(mode: str) -> None:
    model, examples = model_of("llama", mode), random_conflicts(6)
    with Float64Throughout():
        found = scores(model, examples, impact=ImpactSettings(score="cosine"))
        gold = naive_gold_gradient(model, gold_pairs(), LOSS.beta)
        gradients = [naive_pair_gradient(model, rows_read(e), Direction(e["direction"]), LOSS) for e in examples]
    expected = [inner(gold, g) / (inner(gold, gold) * inner(g, g)) ** 0.5 for g in gradients]
    assert relative(found, expected) < 1e-11
    assert np.abs(found).max() <= 1.0


def test_per_token_divides_each_response_by_its_own_scored_tokens() -> None:
    model, examples = model_of("gemma2"), random_conflicts(6)
    with Float64Throughout():
        found = scores(model, examples, impact=ImpactSettings(score="per_token"))
        gold = naive_gold_gradient(model, gold_pairs(), LOSS.beta)
        expected = []
        for example in examples:
            rows = rows_read(example)
            lengths = {name: len(row.ids) - row.start for name, row in rows.items()}
            gradient = naive_pair_gradient(model, rows, Direction(example["direction"]), LOSS, lengths)
            expected.append(inner(gold, gradient))
    assert relative(found, expected) < 1e-11


def test_dropout_is_off_while_scoring_and_the_model_stays_in_training_mode() -> None:
    examples = random_conflicts(6)
    plain = scores(model_of("llama", "lora"), examples)
    model = model_of("llama", "lora", dropout=0.5).train()
    modes = [module.training for module in model.modules()]
    assert np.array_equal(scores(model, examples), plain)
    assert np.array_equal(
        scores(model, examples, impact=ImpactSettings(score="cosine")),
        scores(model_of("llama", "lora"), examples, impact=ImpactSettings(score="cosine")),
    )
    assert [module.training for module in model.modules()] == modes
    assert all(modes)


def test_scoring_leaves_parameters_gradients_and_attention_as_they_were() -> None:
    model = model_of("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scores(model, random_conflicts(3))
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())
    assert model.config._attn_implementation == "sdpa"


def test_a_fresh_adapter_is_measured_in_its_b_matrices_only() -> None:
    gradient = target_gradient(model_of("qwen2", "lora"), gold_pairs(), beta=1.0)
    sizes = {name: float(value.norm()) for name, value in gradient.items()}
    assert {name for name, size in sizes.items() if size > 0} == {name for name in sizes if "lora_B" in name}


def test_the_pad_token_has_a_gradient_where_it_stands_in_text() -> None:
    """Of `nn.Embedding(padding_idx=…)`, reverse mode drops the gradient and forward mode does not."""
    row = Row((5, 6, 7), 1)
    tiny = tiny_model("qwen2", dtype=torch.float64)
    pad = tiny.config.pad_token_id
    model = forget_padding_index(tiny.requires_grad_(True))
    padded = Row((5, pad, 7, pad), 1)
    gradient = target_gradient(model, [(padded, row)], beta=1.0)
    assert gradient["model.embed_tokens.weight"][pad].norm() > 0
