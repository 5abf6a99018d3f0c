"""The attention that carries forward-mode derivatives: equal to each family's own, and put away after use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, VOCAB_SIZE, Float64Throughout, tiny_model
from tiny_pairs import random_rows
from torch.autograd import forward_ad
from transformers import GptOssConfig, GptOssForCausalLM

from realigner.model import attention
from realigner.model.attention import dual, packed_attention, packing, unpack
from realigner.model.logprobs import row_logps, scored_logits
from realigner.model.packing import Segment, pack, visible
from realigner.model.rows import collate

families = pytest.mark.parametrize("family", FAMILIES)
MODULE = torch.nn.Module()


@families
@pytest.mark.parametrize("tile", [5, 64])
def test_outputs_equal_the_family_s_own_attention(family: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that carries tangents, here of zero, against the family's eager attention on padded rows."""
    monkeypatch.setattr(attention, "TILE", tile)
    rows = random_rows(5)
    model = tiny_model(family, dtype=torch.float64, attention="eager")
    with torch.no_grad(), Float64Throughout():
        own = scored_logits(model, collate(rows))
        with forward_ad.dual_level(), packing(model):
            zero = {n: dual(p.detach(), torch.zeros_like(p)) for n, p in model.named_parameters()}
            found = scored_logits(lambda **x: torch.func.functional_call(model, zero, (), x), pack(rows))
            found, tangent = unpack(found)
    torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)
    assert tangent is not None
    assert not tangent.any()


@families
def test_the_comparison_would_notice_a_family_s_own_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping the scale, the soft-cap or the mask changes the logits by far more than the tolerance above."""
    rows, model = random_rows(5), tiny_model(family)
    with torch.no_grad():
        own = scored_logits(model, collate(rows))
    changes: list[dict[str, Any]] = [{"scaling": 1.0}]
    changes += [{"softcap": None}] if family == "gemma2" else []
    changes += [{"attention_mask": None}] if family in ("gemma2", "mistral") else []
    for change in changes:

        def changed(module: Any, q: Any, k: Any, v: Any, mask: Any, change: Any = change, **kwargs: Any) -> Any:
            return packed_attention(module, q, k, v, **{"attention_mask": mask, **kwargs, **change})

        monkeypatch.setattr(attention, "packed_attention", changed)
        with torch.no_grad(), packing(model):
            assert not torch.allclose(scored_logits(model, pack(rows)), own, atol=1e-2)


LAYOUT = (Segment(4), Segment(2, 4, 0), Segment(3, 4, 0), Segment(5))
"""Two responses of 2 and 3 tokens to a prompt of 4, and a row of 5."""
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5, 6, 0, 1, 2, 3, 4]])
TOTAL = POSITIONS.shape[1]


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sink: torch.Tensor, cap: float | None, window: int | None
) -> torch.Tensor:
    """Attention over the whole pack in a few lines, for autograd."""
    groups = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(groups, 1).mT * 0.37
    scores = scores if cap is None else torch.tanh(scores / cap) * cap
    seen = visible(LAYOUT, POSITIONS)
    if window is not None:
        seen = seen & (POSITIONS[0] > POSITIONS[0][:, None] - window)
    scores = scores.masked_fill(~seen, float("-inf"))
    weights = torch.cat((scores, sink.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)), -1).softmax(-1)[..., :-1]
    return (weights @ v.repeat_interleave(groups, 1)).transpose(1, 2)


def draws(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q": (1, 6, TOTAL, 4), "k": (1, 3, TOTAL, 4), "v": (1, 3, TOTAL, 5), "s": (6,)}
    return {n: torch.randn(*shape, generator=generator, dtype=dtype) for n, shape in shapes.items()}


def row_pattern(window: int | None) -> torch.Tensor | None:
    near = torch.arange(7) > torch.arange(7)[:, None] - (window or 0)
    return None if window is None else (torch.ones(7, 7, dtype=torch.bool).tril() & near)[None, None]


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("with_tangent", ["q", "k", "v", "s", "qv", "qkvs"])
def test_the_tangent_is_the_exact_derivative_whichever_inputs_have_one(
    cap: float | None, window: int | None, with_tangent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "TILE", 2)
    inputs, tangents = draws(), draws(seed=1)
    tangents = {n: x if n in with_tangent else torch.zeros_like(x) for n, x in tangents.items()}
    output, expected = torch.autograd.functional.jvp(
        lambda *x: dense(*x, cap, window), tuple(inputs.values()), tuple(tangents.values())
    )
    with forward_ad.dual_level():
        q, k, v, s = (dual(x, tangents[n]) if n in with_tangent else x for n, x in inputs.items())
        mask = row_pattern(window)
        found = packed_attention(MODULE, q, k, v, mask, scaling=0.37, softcap=cap, s_aux=s, packed=LAYOUT)[0]
        primal, tangent = unpack(found)
    torch.testing.assert_close(primal, output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("sinks", [True, False])
def test_without_tangents_there_is_none_and_reverse_mode_works(
    cap: float | None, window: int | None, sinks: bool
) -> None:
    q, k, v, s = (x.requires_grad_(True) for x in draws().values())
    nothing = torch.full((6,), float("-inf"), dtype=torch.float64)

    def attend(*x: torch.Tensor) -> torch.Tensor:
        others = {"scaling": 0.37, "softcap": cap, "packed": LAYOUT, "s_aux": x[3] if sinks else None}
        return packed_attention(MODULE, *x[:3], row_pattern(window), **others)[0]

    with forward_ad.dual_level():
        assert unpack(attend(q, k, v, s))[1] is None
    inputs = (q, k, v, s) if sinks else (q, k, v)
    found, expected = attend(q, k, v, s), dense(q, k, v, s if sinks else nothing, cap, window)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    slopes, exact = (torch.autograd.grad((weights * x).sum(), inputs) for x in (found, expected))
    for a, b in zip(slopes, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    q, k, v, _ = draws(torch.float32).values()
    module = torch.nn.Module()
    quiet = packed_attention(module.eval(), q, k, v, None, dropout=0.5, packed=LAYOUT)[0]
    assert torch.equal(quiet, packed_attention(module, q, k, v, None, packed=LAYOUT)[0])
    for softcap in (None, 1e6):
        loud = packed_attention(module.train(), q, k, v, None, dropout=0.5, softcap=softcap, packed=LAYOUT)[0]
        assert not torch.allclose(loud, quiet, atol=1e-2)


@pytest.mark.parametrize("softcap", [None, 1e6])
def test_half_precision_takes_the_softmax_in_float32(softcap: float | None) -> None:
    inputs = draws(torch.bfloat16)
    q, k, v = (inputs[n] for n in "qkv")
    exact = packed_attention(MODULE, q.double(), k.double(), v.double(), None, packed=LAYOUT)[0]
    with forward_ad.dual_level():
        carried, _ = unpack(packed_attention(MODULE, dual(q, q), k, v, None, softcap=softcap, packed=LAYOUT)[0])
    plain = packed_attention(MODULE, q, k, v, None, softcap=softcap, packed=LAYOUT)[0]
    for found in (carried, plain):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("name", ["position_bias", "head_mask", "cu_seq_lens_q"])
def test_an_argument_that_would_be_ignored_is_refused(name: str) -> None:
    q = torch.randn(1, 1, TOTAL, 2)
    with pytest.raises(NotImplementedError, match=f"attention with {name}"):
        packed_attention(MODULE, q, q, q, None, packed=LAYOUT, **{name: torch.zeros(1)})
    packed_attention(MODULE, q, q, q, None, packed=LAYOUT, **{name: None})


def test_attention_without_a_layout_or_with_that_of_another_pack_is_refused() -> None:
    q = torch.randn(1, 1, TOTAL, 2)
    with pytest.raises(NotImplementedError, match="not told how rows are packed"):
        packed_attention(MODULE, q, q, q, None)
    for wrong in (LAYOUT[:-1], (*LAYOUT, Segment(1))):
        with pytest.raises(NotImplementedError, match="over another pack"):
            packed_attention(MODULE, q, q, q, None, packed=wrong)
    with pytest.raises(NotImplementedError, match="over another pack"):
        packed_attention(MODULE, q[:, :, :3], q, q, None, packed=LAYOUT)


@families
def test_the_model_s_own_attention_is_restored_even_after_an_exception(family: str) -> None:
    model = tiny_model(family)
    before = model.config._attn_implementation

    def fail() -> None:
        with packing(model):
            assert model.config._attn_implementation == attention.NAME
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert before in ("sdpa", "eager")
    assert model.config._attn_implementation == before
    assert model.model.config._attn_implementation == before


def sinks_model(dtype: torch.dtype = torch.float64) -> Any:
    """Return a tiny gpt-oss: attention sinks, a sliding window in every other layer, experts."""
    config = GptOssConfig(
        **{"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4},
        **{"num_experts_per_tok": 2, "sliding_window": 8, "max_position_embeddings": 256},
        **{"attn_implementation": "eager", "experts_implementation": "eager", "initializer_range": 0.2},
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    torch.manual_seed(0)
    return GptOssForCausalLM(config).to(dtype).eval()


def test_a_model_with_sinks_and_experts_gives_what_its_rows_give_alone() -> None:
    model, rows = sinks_model(), random_rows(6)
    with torch.no_grad(), Float64Throughout():
        own = torch.cat([row_logps(model, collate([row])) for row in rows])
        with packing(model):
            found = row_logps(model, pack(rows))
    torch.testing.assert_close(found, own, rtol=1e-10, atol=1e-10)


def test_a_class_that_does_not_let_its_attention_be_exchanged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", lambda *_: False)
    with pytest.raises(NotImplementedError, match="attention that cannot be exchanged"), packing(model):
        pass
