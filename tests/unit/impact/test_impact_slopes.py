"""Ways to compute a slope: equal to a gradient per response, chosen by measurement, never a silent fallback."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference.naive_impact import inner, naive_gradient, naive_logp
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_pairs import random_conflicts, random_rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from realigner.errors import ModelError
from realigner.impact import slopes as slopes_module
from realigner.impact.score import weigh
from realigner.impact.slopes import TOLERANCE, Slopes, choose, slopes_along, with_step
from realigner.impact.stage import refuse_impossible
from realigner.impact.vectors import Vector, trainable
from realigner.model import head
from realigner.model.load import attach_lora, forget_padding_index
from realigner.model.rows import Row
from realigner.recipe import ImpactSettings, LoraSettings, LossSettings, Recipe

families = pytest.mark.parametrize("family", FAMILIES)
PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)


def model_of(family: str = "llama", dtype: torch.dtype = torch.float64, mode: str = "full", **sizes: Any) -> Any:
    model = forget_padding_index(tiny_model(family, dtype=dtype, **sizes))
    if mode == "full":
        return model.requires_grad_(True)
    lora = LoraSettings(rank=3, alpha=6, targets=("q_proj", "v_proj"))
    return attach_lora(model.requires_grad_(False), lora, 7).to(dtype).eval()


def some_direction(model: Any, size: float = 1.0) -> Vector:
    generator = torch.Generator().manual_seed(5)
    draws = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in trainable(model).items()}
    return {n: (size * d).to(torch.promote_types(trainable(model)[n].dtype, torch.float32)) for n, d in draws.items()}


def rows_of() -> list[Row]:
    """Return rows of which three share a prompt and two are equal."""
    shared = [Row((*PROMPT, *range(30, 30 + n)), len(PROMPT)) for n in (1, 4, 7)]
    return [*shared, *random_rows(4, seed=2, longest=25), shared[1]]


def naive(model: Any, rows: list[Row], direction: Vector) -> Tensor:
    vector = list(direction.values())
    found = [inner(naive_gradient(naive_logp(model, row), model), vector) for row in rows]
    return torch.tensor(found, dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# -- the three ways ------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_way_gives_the_slopes_of_a_gradient_per_response(family: str, mode: str, packed: bool) -> None:
    model, rows = model_of(family, mode=mode), rows_of()
    direction = some_direction(model)
    with Float64Throughout():
        expected = naive(model, rows, direction)
        base = slopes_along(model, direction, packed=packed)
        assert relative(base(rows), expected) < 1e-11
        assert relative(replace(base, method="backward")(rows), expected) < 1e-12
        stepped, halving = with_step(replace(base, method="difference"), rows, float(expected.norm()) / base.scale)
        error = relative(stepped(rows), expected)
    assert error < 1e-7
    assert error < 3 * halving + 1e-10


@families
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_float32_difference_is_within_its_reported_error(family: str, mode: str) -> None:
    model, rows = model_of(family, torch.float32, mode), rows_of()
    direction = some_direction(model)
    exact = slopes_along(model, direction)
    truth = exact(rows)
    stepped, halving = with_step(
        replace(exact, method="difference"), rows, float(truth.square().mean().sqrt()) / exact.scale
    )
    assert relative(stepped(rows), truth) < 3 * halving + 1e-6
    assert halving < 2e-3
    far = replace(stepped, step=100 * stepped.step)
    assert relative(far(rows), truth) > 30 * halving


@pytest.mark.parametrize("method", ["exact", "difference"])
@pytest.mark.parametrize("packed", [True, False])
def test_slopes_do_not_depend_on_batches_order_or_company(method: Any, packed: bool) -> None:
    model, rows = model_of("qwen3"), rows_of()
    with Float64Throughout():
        slopes = slopes_along(model, some_direction(model), method=method, packed=packed, step=1e-3)
        together = slopes(rows)
        alone = torch.cat([slopes([row]) for row in rows])
        small = slopes(rows, max_tokens=30)
        backwards = slopes(rows[::-1], max_tokens=100).flip(0)
    for found in (together, small, backwards):
        assert relative(found, alone) < (1e-12 if method == "exact" else 1e-9)
    assert together[1] == together[-1]


@pytest.mark.parametrize("method", ["exact", "difference", "backward"])
def test_slopes_scale_with_their_direction_from_tiny_to_huge(method: Any) -> None:
    model, rows = model_of(), rows_of()
    base = slopes_along(model, some_direction(model), method=method, step=1e-4)(rows)
    for size in (1e-20, 1e15):
        found = slopes_along(model, some_direction(model, size), method=method, step=1e-4)(rows)
        assert relative(found / size, base) < 1e-6
    nothing = slopes_along(model, some_direction(model, 0.0), method=method, step=1e-4)(rows)
    assert nothing.tolist() == [0.0] * len(rows)


def test_the_model_is_left_as_it_was_found() -> None:
    model = model_of(dtype=torch.float32).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for method in ("exact", "difference", "backward"):
        slopes_along(model, some_direction(model), method=method, step=1e-3)(rows_of())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_equal_rows_and_shared_prompts_are_computed_once() -> None:
    model, rows = model_of(), [Row((*PROMPT, 30, 31, 32), 8), Row((*PROMPT, 40, 41), 8)]
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    slopes = slopes_along(model, some_direction(model), tiled=True)
    seen.clear()
    found = slopes([*rows, *rows, rows[0]])
    hook.remove()
    assert seen == [8 + 2 + 1]
    assert found[0] == found[2] == found[4]
    assert found[1] == found[3]


# -- the head in tiles ---------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("method", ["exact", "difference"])
def test_a_head_in_tiles_gives_the_same_as_whole_logits(
    family: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "SMALLEST_TILE", 3)
    monkeypatch.setattr(head, "TILE_BYTES", {"cpu": 1})
    model, rows = model_of(family), rows_of()
    with Float64Throughout():
        slopes = slopes_along(model, some_direction(model), method=method, step=1e-3)
        assert slopes.tiled
        assert relative(slopes(rows), replace(slopes, tiled=False)(rows)) < (1e-12 if method == "exact" else 1e-9)


class LargestLogits(TorchDispatchMode):
    """Notes the largest tensor over the vocabulary that any operation makes."""

    def __init__(self, vocabulary: int, parameters: int) -> None:
        super().__init__()
        self.vocabulary, self.parameters, self.largest = vocabulary, parameters, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            is_logits = isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[-1] == self.vocabulary
            if is_logits and tensor.shape[-2:] != (self.parameters, self.vocabulary):  # the transposed head itself
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("method", ["exact", "difference"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_logits_beyond_a_tile_exist_whatever_the_vocabulary(
    method: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = 1 << 18
    monkeypatch.setattr(head, "TILE_BYTES", {"cpu": budget})
    rows = [Row(tuple(range(1, 300)), 3)]
    largest = {}
    for vocabulary in (600, 2400):
        model = model_of(family, torch.float32, vocab_size=vocabulary, max_position_embeddings=512)
        slopes = slopes_along(model, some_direction(model), method=method, step=1e-3)
        with LargestLogits(vocabulary, 32) as seen:
            slopes(rows)
        largest[vocabulary] = 4 * seen.largest
        with LargestLogits(vocabulary, 32) as whole:
            replace(slopes, tiled=False)(rows)
        assert 4 * whole.largest >= 4 * 296 * vocabulary  # it would be noticed
    assert 0 < largest[600] <= budget
    assert 0 < largest[2400] <= budget


def test_precision_is_that_of_float32_under_bfloat16_weights() -> None:
    model = model_of(dtype=torch.float32)
    rows, rough = rows_of(), model_of(dtype=torch.float32).bfloat16()
    exact = slopes_along(model, some_direction(model))(rows)
    found = slopes_along(rough, some_direction(model))
    assert found(rows).dtype == torch.float64
    assert relative(found(rows), exact) < 0.15


# -- which way -----------------------------------------------------------------------------------------------------


class NoForwardMode(torch.autograd.Function):
    """What kernels for quantised weights look like to autograd: a backward, and no forward-mode rule."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return hidden @ weight.T

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream @ ctx.saved_tensors[0], None


class DropsTangent(NoForwardMode):
    """Worse: it has a rule, and it is wrong."""

    @staticmethod
    def jvp(ctx: Any, hidden: Tensor, weight: Tensor | None) -> Tensor:
        return torch.zeros(*hidden.shape[:-1], ctx.saved_tensors[0].shape[0], dtype=hidden.dtype)

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_forward(weight)
        ctx.save_for_backward(weight)
        return hidden @ weight.T


class Quantised(torch.nn.Module):
    """A linear layer that keeps its weights in 8 bits and multiplies by a kernel of its own."""

    def __init__(self, layer: torch.nn.Linear, kernel: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.scale = float(layer.weight.abs().max()) / 127
        self.codes = torch.nn.Parameter((layer.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.kernel, self.dtype = kernel, layer.weight.dtype

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.codes.to(hidden.dtype) * self.scale
        return self.kernel.apply(hidden, weight)  # type: ignore[no-untyped-call, no-any-return]


def quantised_model(kernel: type[torch.autograd.Function], dtype: torch.dtype = torch.float32) -> Any:
    model = model_of(dtype=dtype, mode="lora")
    for layer in model.get_base_model().model.layers:
        layer.mlp.down_proj = Quantised(layer.mlp.down_proj, kernel)
    return model


def test_a_plain_model_is_scored_exactly_on_packed_rows_and_says_its_error() -> None:
    model = model_of(dtype=torch.float32)
    chosen = choose(model, some_direction(model), rows_of(), "auto")
    facts = chosen.facts()
    assert facts.pop("relative_error") < 1e-5
    assert facts == {"method": "exact", "layout": "packed", "rows": 8, "refused": []}
    assert chosen.warnings == []


@pytest.mark.parametrize("kernel", [NoForwardMode, DropsTangent])
def test_quantised_weights_fall_back_to_a_difference_loudly(
    kernel: type[torch.autograd.Function], caplog: pytest.LogCaptureFixture
) -> None:
    model, rows = quantised_model(kernel), rows_of()
    direction = some_direction(model)
    with caplog.at_level(logging.WARNING):
        chosen = choose(model, direction, rows[:4], "auto")
    facts = chosen.facts()
    assert (facts["method"], facts["layout"]) == ("difference", "packed")
    assert facts["step"] > 0
    assert facts["relative_error"] < TOLERANCE
    (warning,) = chosen.warnings
    assert warning in caplog.text
    assert "fallback difference (packed), relative error" in warning
    assert "exact on packed rows: " in warning
    assert ("jvp" if kernel is NoForwardMode else "relative error") in warning.partition("exact on packed rows: ")[2]
    truth = replace(chosen.slopes, method="backward")(rows)
    assert relative(chosen.slopes(rows), truth) < TOLERANCE


def test_half_precision_without_forward_mode_falls_back_to_a_gradient_per_response() -> None:
    model, rows = quantised_model(NoForwardMode, torch.bfloat16), rows_of()
    chosen = choose(model, some_direction(model), rows, "auto")
    assert chosen.facts()["method"] == "backward"
    assert "difference: the model is in half precision" in chosen.warnings[0]
    assert torch.isfinite(chosen.slopes(rows)).all()


def test_a_model_that_cannot_pack_is_scored_on_padded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", lambda *_: False)
    model.config._attn_implementation = "eager"
    chosen = choose(model, some_direction(model), rows_of(), "auto")
    assert chosen.facts()["layout"] == "padded"
    assert chosen.facts()["method"] == "exact"
    assert "exact on packed rows: attention that cannot be exchanged" in chosen.warnings[0]
    assert chosen.relative_error < 1e-6


def test_a_model_that_mixes_packed_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever looks at neighbours without being told the layout: a convolution, a recurrence."""
    model = model_of(dtype=torch.float32)
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: plain(x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]))
    chosen = choose(model, some_direction(model), rows_of(), "auto")
    assert chosen.facts()["layout"] == "padded"
    assert "exact on packed rows: relative error" in chosen.warnings[0]


def test_a_way_that_is_asked_for_is_refused_where_it_fails() -> None:
    model = quantised_model(NoForwardMode)
    with pytest.raises(ModelError, match=r"impact.method = exact for a llama model .*jvp.*gradient per response") as e:
        choose(model, some_direction(model), rows_of(), "exact")
    assert "impact.method: auto" in e.value.remedy
    assert choose(model, some_direction(model), rows_of(), "difference").slopes.method == "difference"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_difference_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    model = model_of(dtype=torch.float32).to(dtype)
    with pytest.raises(ModelError, match=r"= difference for a model in .*float16: a difference .* is lost"):
        choose(model, some_direction(model), rows_of(), "difference")


class Inference(DropsTangent):
    """Worst: made for inference, it computes, and has no gradient in either mode."""

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return torch.zeros(*upstream.shape[:-1], ctx.saved_tensors[0].shape[1], dtype=upstream.dtype), None


@pytest.mark.parametrize("method", ["auto", "exact", "difference"])
def test_a_gradient_that_is_not_that_of_the_log_probabilities_is_refused(method: Any) -> None:
    """Forward and reverse mode agree with each other here, and both are wrong."""
    model = quantised_model(Inference)
    with pytest.raises(
        ModelError, match=r"a llama model whose log-probabilities move otherwise than its gradient"
    ) as e:
        choose(model, some_direction(model), rows_of(), method)
    assert "an operation drops its gradient" in str(e.value)


def test_a_step_that_leaves_the_tangent_is_not_taken_for_a_dropped_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(dtype=torch.float32)
    steps: list[float] = []
    plain = slopes_module.Slopes._difference

    def noting(self: Any, *given: Any) -> Tensor:
        steps.append(self.step)
        return plain(self, *given)

    monkeypatch.setattr(slopes_module, "LARGEST_CHANGE", 200.0)
    monkeypatch.setattr(slopes_module.Slopes, "_difference", noting)
    chosen = choose(model, some_direction(model), rows_of(), "exact")
    assert chosen.relative_error < TOLERANCE
    assert len(steps) > 1
    assert steps == sorted(steps, reverse=True)


def recipe_of(**changes: Any) -> Recipe:
    content = {"model": {"path": "m", **changes.pop("model", {})}, "data": {"path": "d"}, "policy": {"path": "p"}}
    return Recipe.model_validate({**content, "oracle": {"kind": "rules"}, "output": "o", **changes})


def test_a_difference_in_half_precision_is_refused_before_a_run_begins() -> None:
    half = {"dtype": "bfloat16", "device": "cpu"}
    with pytest.raises(ModelError, match=r"impact\.method = difference for a model in bfloat16"):
        refuse_impossible(recipe_of(model=half, impact={"method": "difference"}))
    for fine in (
        recipe_of(model=half, impact={"method": "exact"}),
        recipe_of(model=half, impact={"method": "difference", "weighting": "uniform"}),
        recipe_of(model={"dtype": "float32"}, impact={"method": "difference"}),
    ):
        refuse_impossible(fine)


def test_running_out_of_memory_is_not_taken_for_a_missing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Slopes, "_exact", full)
    model = model_of()
    with pytest.raises(torch.OutOfMemoryError):
        choose(model, some_direction(model), rows_of(), "auto")


def weighed(model: Any, method: Any) -> tuple[Any, dict[str, Any]]:
    gold = list(zip(random_rows(4, seed=1), random_rows(4, seed=2), strict=True))
    settings = ImpactSettings(method=method)
    return weigh(model, gold, random_conflicts(9), [], settings, LossSettings(), seed=0)


def test_weights_by_difference_are_those_of_the_exact_path() -> None:
    model = model_of(dtype=torch.float32)
    (exact, found), (other, stepped) = weighed(model, "auto"), weighed(model, "difference")
    assert other.values == pytest.approx(exact.values, rel=1e-2, abs=2e-3)
    assert (found["scoring"]["method"], stepped["scoring"]["method"]) == ("exact", "difference")
    assert not exact.warnings + other.warnings


def test_a_fallback_is_among_the_warnings_and_facts_of_the_weights() -> None:
    weights, found = weighed(quantised_model(NoForwardMode), "auto")
    assert found["scoring"]["method"] == "difference"
    assert len(found["scoring"]["refused"]) == 2
    (told,) = [text for text in weights.facts()["warnings"] if text.startswith("impact scores come from the fallback")]
    assert "fallback difference (packed), relative error" in told
