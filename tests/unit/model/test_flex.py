"""Attention of a whole pack in one call: equal to its segments, forward and backward, and used only where it is.

FlexAttention refuses gradients on a CPU, where its kernels have none; what it does there without kernels has them. The
tests lift that refusal and compare this in float64: the rule of the mask and the arguments are those of a GPU. The list
of blocks, which only kernels read, is compared by itself, and by the CPU's compiled kernel without gradients.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_pairs import random_rows
from tiny_training import mixture, steps, trained, trainer
from torch.nn.attention import flex_attention as torchs

from realigner.errors import ModelError
from realigner.model import flex
from realigner.model.attention import NAME, packed_attention, packing
from realigner.model.flex import attend_whole, block_mask, choose, disagreement, seen_blocks
from realigner.model.logprobs import row_logps
from realigner.model.packing import Layout, Segment, pack, visible
from realigner.model.rows import Row, collate

MODULE = torch.nn.Module()
LAYOUT = (Segment(14), Segment(9, 14, 0), Segment(1), Segment(20), Segment(3, 14, 0), Segment(5), Segment(6, 5, 5))
"""Prompts of 14 and 5 tokens with responses behind them, not all at once, and rows of 1 and 20."""
LONGEST = 23


@pytest.fixture(autouse=True)
def with_gradients_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torchs, "_WARNINGS_SHOWN", {"flex_attention_performance"})  # that nothing is compiled here
    monkeypatch.setattr(flex, "BLOCK", 16)
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def positions(layout: Layout) -> torch.Tensor:
    return torch.cat([torch.arange(s.first, s.stop) for s in layout])[None]


def window(size: int | None) -> torch.Tensor | None:
    near = torch.arange(LONGEST) > torch.arange(LONGEST)[:, None] - (size or 0)
    return None if size is None else (torch.ones(LONGEST, LONGEST, dtype=torch.bool).tril() & near)[None, None]


def draws(layout: Layout = LAYOUT, dtype: torch.dtype = torch.float64, key_heads: int = 2) -> list[torch.Tensor]:
    total, generator = sum(s.tokens for s in layout), torch.Generator().manual_seed(0)
    shapes = ((1, 4, total, 8), (1, key_heads, total, 8), (1, key_heads, total, 8))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("seen", [None, 5])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_one_call_equals_the_segments_with_every_gradient(
    softcap: float | None, seen: int | None, key_heads: int
) -> None:
    inputs, how = draws(key_heads=key_heads), {"scaling": 0.37, "softcap": softcap, "packed": LAYOUT}
    results = []
    for attend in (packed_attention, attend_whole):
        output = attend(MODULE, *inputs, window(seen), **how)[0]
        slope = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        results.append([output, *torch.autograd.grad(output, inputs, slope)])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_what_its_rows_give_alone(family: str) -> None:
    """Sliding windows, soft-capping and shared key heads as each family's own layers ask for them."""
    model, rows = tiny_model(family, dtype=torch.float64), random_rows(5)
    rows += [Row((*rows[-1].ids[: rows[-1].start], *range(n, 2 * n)), rows[-1].start) for n in (3, 9)]
    with Float64Throughout():
        alone = row_logps(model, collate(rows))
        with packing(model, attend_whole):
            assert model.config._attn_implementation == f"{NAME}_attend_whole"
            found = row_logps(model, pack(rows))
    factors = torch.linspace(-1, 1, len(rows), dtype=torch.float64)
    slopes = [torch.autograd.grad((factors * x).sum(), list(model.parameters())) for x in (alone, found)]
    torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-10)
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def some_layout(draw: random.Random) -> Layout:
    layout: list[Segment] = []
    for _ in range(draw.randint(1, 12)):
        prompts = [i for i, s in enumerate(layout) if s.prompt is None]
        prompt = draw.choice(prompts) if prompts and draw.random() < 0.5 else None
        layout.append(Segment(draw.randint(1, 40), 0 if prompt is None else layout[prompt].tokens, prompt))
    return tuple(layout)


def test_blocks_are_those_in_which_anything_is_seen_and_no_others() -> None:
    """Against the mask of the pack's square, for layouts of all kinds."""
    draw = random.Random(0)
    for _ in range(30):
        layout = some_layout(draw)
        dense = visible(layout, positions(layout))[0, 0]
        room = -len(dense) % 16
        tiles = torch.nn.functional.pad(dense, (0, room, 0, room)).unflatten(1, (-1, 16)).unflatten(0, (-1, 16))
        assert torch.equal(seen_blocks(layout, 16), tiles.any(dim=3).any(dim=1))


def test_the_rule_inside_blocks_is_the_layout_and_the_models_pattern() -> None:
    layout = LAYOUT
    place = torch.arange(sum(s.tokens for s in layout))
    dense = visible(layout, positions(layout))[0, 0]
    for size in (None, 5):
        mask = block_mask(layout, window(size), torch.device("cpu"), 16)
        seen = dense if size is None else dense & (positions(layout) > positions(layout).T - size)
        assert torch.equal(mask.to_dense()[0, 0].bool(), seen_blocks(layout, 16))
        zero = torch.zeros((), dtype=torch.long)
        assert torch.equal(mask.mask_mod(zero, zero, place[:, None], place), seen)
        assert mask.shape[-2:] == dense.shape


def test_a_description_is_made_once_for_all_layers_of_a_kind() -> None:
    pattern, cpu = window(5), torch.device("cpu")
    assert block_mask(LAYOUT, pattern, cpu, 16) is block_mask(LAYOUT, pattern, cpu, 16)
    assert block_mask(LAYOUT, None, cpu, 16) is not block_mask(LAYOUT, pattern, cpu, 16)


def test_lengths_that_differ_from_step_to_step_are_compiled_at_most_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's tracing, without its kernels: once for the first length, once for all others."""
    torch.compiler.reset()
    compiled = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    kernel = torch.compile(torchs.flex_attention, fullgraph=True, backend=compiled)
    monkeypatch.setattr(flex, "_kernel", lambda _: kernel)
    for extra in (0, 30, 7, 64):  # the second differs in its number of blocks too, as in the probe
        layout = (*LAYOUT, Segment(11 + extra))
        inputs, results = draws(layout), []
        for attend in (packed_attention, attend_whole):
            output = attend(MODULE, *inputs, None, scaling=0.37, softcap=1.5, packed=layout)[0]
            results.append([output, *torch.autograd.grad(output.sum(), inputs)])
        for ours, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)
    assert compiled.frame_count <= 2


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # by torch, of itself, when the compiler is loaded
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler (g++)")
def test_a_compiled_kernel_that_skips_blocks_gives_what_the_segments_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's own, without gradients and in float32: it reads the list of blocks as those of a GPU do."""
    monkeypatch.setattr(flex, "BLOCK", 128)
    torch.compiler.reset()
    kernel = torch.compile(torchs.flex_attention, fullgraph=True)
    monkeypatch.setattr(flex, "_kernel", lambda _: kernel)
    layout = (Segment(140), Segment(90, 140, 0), Segment(20), Segment(130), Segment(30, 140, 0), Segment(150))
    assert not seen_blocks(layout, 128).tril().equal(torch.ones(5, 5, dtype=torch.bool).tril())
    inputs = [x.detach() for x in draws(layout, torch.float32)]
    expected = packed_attention(MODULE, *inputs, None, packed=layout)[0]
    torch.testing.assert_close(attend_whole(MODULE, *inputs, None, packed=layout)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_pack_of_one_block_goes_segment_by_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_kernel", lambda _: pytest.fail("a kernel was called"))
    layout = (Segment(10), Segment(6))
    inputs = draws(layout)
    expected = packed_attention(MODULE, *inputs, None, packed=layout)[0]
    assert torch.equal(attend_whole(MODULE, *inputs, None, packed=layout)[0], expected)


def test_under_autocast_inputs_of_two_precisions_meet_in_its_own() -> None:
    query, key, value = draws(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_whole(MODULE, query, key, value.bfloat16(), None, packed=LAYOUT)[0]
    exact = packed_attention(MODULE, query, key, value, None, packed=LAYOUT)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.05)


def test_what_one_call_cannot_do_is_refused() -> None:
    inputs = draws()
    with pytest.raises(NotImplementedError, match="FlexAttention with attention sinks"):
        attend_whole(MODULE, *inputs, None, s_aux=torch.zeros(4), packed=LAYOUT)
    with pytest.raises(NotImplementedError, match="FlexAttention with dropout"):
        attend_whole(torch.nn.Module().train(), *inputs, None, dropout=0.1, packed=LAYOUT)
    with pytest.raises(NotImplementedError, match="attention with position_bias"):
        attend_whole(MODULE, *inputs, None, packed=LAYOUT, position_bias=torch.zeros(1))
    with pytest.raises(NotImplementedError, match="over another pack"):
        attend_whole(MODULE, *inputs, None, packed=LAYOUT[:-1])


# -- the choice -----------------------------------------------------------------------------------------------------


def test_without_cuda_rows_go_segment_by_segment_and_the_reason_is_told() -> None:
    found = choose([tiny_model("llama", layers=1)], "auto")
    assert (found.name, found.attend) == ("segments", None)
    assert found.because == "FlexAttention has kernels for training on CUDA only"
    assert choose([tiny_model("llama", layers=1)], "segments").because == "asked for"
    assert choose([tiny_model("llama", layers=1)], "auto", packed=False).name == "padded"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_agrees_is_given_one_call_and_left_as_it_was(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "_on_cuda", lambda _: True)
    model = tiny_model(family, dtype=dtype)
    model.model.layers[0].train()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    found = choose([model], "auto")
    assert (found.name, found.attend) == ("flex", attend_whole)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.config._attn_implementation.startswith(NAME)


def broken(where: str) -> Callable[..., Any]:
    """Return a kernel with one mistake."""

    def kernel(query: Any, key: Any, value: Any, *, block_mask: Any, **how: Any) -> Any:
        right = block_mask.mask_mod
        if where == "one token too many":
            block_mask.mask_mod = lambda b, h, q, k: right(b, h, q, k) | (k == q - 1)
        if where == "soft-cap":
            how["score_mod"] = None
        if where == "gradient":
            key = key.detach() * 0.5 + key * 0.5
        try:
            return torchs.flex_attention(query, key, value, block_mask=block_mask, **how)
        finally:
            block_mask.mask_mod = right

    return kernel


@pytest.mark.parametrize("where", ["one token too many", "soft-cap", "gradient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_is_wrong_is_found_out_and_not_used(
    where: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flex, "_on_cuda", lambda _: True)
    monkeypatch.setattr(flex, "_kernel", lambda _: broken(where))
    model = tiny_model("gemma2", dtype=dtype)
    found = choose([model], "auto")
    assert (found.name, found.attend) == ("segments", None)
    said = "gradient by keys" if where == "gradient" else "output"
    assert f"FlexAttention's {said} is" in found.because
    assert "packed rows attend segment by segment, which is slow on a GPU: FlexAttention's" in caplog.text
    with pytest.raises(ModelError, match=r"model\.attention = flex with Gemma2ForCausalLM"):
        choose([model], "flex")


def test_a_compiler_that_fails_is_told_and_segments_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise AssertionError("no triton\nat line 3")

    monkeypatch.setattr(flex, "_on_cuda", lambda _: True)
    monkeypatch.setattr(flex, "_kernel", lambda _: fails)
    found = choose([tiny_model("llama", layers=1)], "auto")
    assert (found.name, found.because) == ("segments", "it does not work here (AssertionError: no triton)")


def test_dropout_in_attention_is_noticed_before_training() -> None:
    model = tiny_model("llama", layers=1)
    model.model.layers[0].self_attn.attention_dropout = 0.1
    assert "FlexAttention with dropout" in str(disagreement(model))


def test_rows_that_are_not_packed_cannot_be_attended_in_one_call() -> None:
    with pytest.raises(ModelError, match="its rows are not packed"):
        choose([tiny_model("llama", layers=1)], "flex", packed=False)


def test_training_in_one_call_equals_training_by_segments(tmp_path: Path) -> None:
    runs = []
    for wish in ("flex", "segments"):
        with Float64Throughout():
            run = trainer(
                tmp_path / wish,
                mixture(8),
                family="gemma2",
                dtype=torch.float64,
                packed_attention=wish,
                optim="sgd",
            )
            run.train()
        assert run.kernel.name == wish
        runs.append(run)
    for name, weight in trained(runs[0].model).items():
        torch.testing.assert_close(weight, trained(runs[1].model)[name], rtol=1e-8, atol=1e-10)
    assert steps(runs[0])[-1]["loss"] == pytest.approx(steps(runs[1])[-1]["loss"], rel=1e-9)
