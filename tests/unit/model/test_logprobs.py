"""Log-probabilities of rows: equal to a naive loop, whatever stands beside them in the batch."""

from __future__ import annotations

import pytest
import torch
from reference.naive_impact import naive_logp
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_pairs import random_rows

from realigner.model.head import evaluating
from realigner.model.logprobs import packs_agree, row_logps, score_rows, scored_logits, sum_by_row, token_logps
from realigner.model.rows import Row, collate

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_row_log_probs_equal_a_naive_loop_over_full_logits(family: str) -> None:
    model, rows = tiny_model(family, dtype=torch.float64), random_rows(8)
    with Float64Throughout(), torch.no_grad():
        expected = torch.stack([naive_logp(model, row) for row in rows])
        torch.testing.assert_close(score_rows(model, rows), expected, rtol=1e-12, atol=1e-12)


@families
def test_float32_row_log_probs_equal_the_loop_to_float32(family: str) -> None:
    model, rows = tiny_model(family), random_rows(8)
    with torch.no_grad():
        expected = torch.stack([naive_logp(model, row) for row in rows]).double()
    found = score_rows(model, rows)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-5)


@families
def test_a_log_prob_does_not_depend_on_batch_order_padding_or_the_pad_token(family: str) -> None:
    model, rows = tiny_model(family, dtype=torch.float64), random_rows(6)
    close = {"rtol": 1e-12, "atol": 1e-12}
    with Float64Throughout(), torch.no_grad():
        alone = torch.cat([score_rows(model, [row]) for row in rows])
        torch.testing.assert_close(score_rows(model, rows, max_tokens=10**9), alone, **close)
        torch.testing.assert_close(score_rows(model, rows, max_tokens=1), alone, **close)
        torch.testing.assert_close(score_rows(model, rows[::-1], max_tokens=100).flip(0), alone, **close)
        for pad in (0, 3, 399):
            torch.testing.assert_close(row_logps(model, collate(rows, pad_id=pad)), alone, **close)


@families
def test_log_probs_carry_the_gradient_of_the_naive_loop(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    model.get_input_embeddings().padding_idx = None
    rows = random_rows(3)
    weight = model.get_parameter("model.layers.0.self_attn.k_proj.weight")
    with Float64Throughout():
        (found,) = torch.autograd.grad(row_logps(model, collate(rows)).sum(), weight)
        (expected,) = torch.autograd.grad(torch.stack([naive_logp(model, row) for row in rows]).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@families
def test_logits_exist_for_scored_tokens_only(family: str) -> None:
    model, rows = tiny_model(family), random_rows(5)
    seen: list[torch.Size] = []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        logits = scored_logits(model, collate(rows))
    hook.remove()
    tokens = sum(row.response_tokens for row in rows)
    assert logits.shape == (tokens, model.config.vocab_size)
    assert seen == [logits.shape]


def test_log_probs_of_all_tokens_of_a_vocabulary_add_up_to_one() -> None:
    model, prefix = tiny_model("llama"), (7, 8, 9)
    rows = [Row((*prefix, token), 3) for token in range(model.config.vocab_size)]
    assert score_rows(model, rows).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_half_precision_logits_are_accumulated_in_float32() -> None:
    batch = collate([Row((1, 2, 3, 4), 1)])
    logits = 20 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16):
        found = token_logps(logits.to(dtype), batch)
        expected = logits.to(dtype).double().log_softmax(-1)[range(3), [2, 3, 4]]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_token_values_are_added_up_into_their_own_row() -> None:
    batch = collate([Row((1, 2, 3), 1), Row((4, 5), 1), Row((6, 7, 8, 9), 2)])
    assert sum_by_row(torch.tensor([1.0, 2.0, 10.0, 100.0, 200.0]), batch).tolist() == [3.0, 10.0, 300.0]


def test_scoring_no_rows_gives_no_numbers() -> None:
    assert score_rows(tiny_model("llama"), []).shape == (0,)


def test_evaluating_restores_each_module_mode_even_after_an_exception() -> None:
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert any(modes)
    assert not all(modes)


def test_scoring_is_without_dropout_and_leaves_training_mode_on() -> None:
    model, rows = tiny_model("llama"), random_rows(4)
    quiet = score_rows(model, rows)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    with torch.no_grad():
        assert not torch.allclose(row_logps(model, collate(rows)).double(), quiet)  # it would be noticed
    assert torch.equal(score_rows(model, rows), quiet)
    assert model.training


@families
def test_every_family_keeps_packed_rows_apart(family: str) -> None:
    assert packs_agree(tiny_model(family))
    assert packs_agree(tiny_model(family, dtype=torch.bfloat16))


def test_a_model_that_mixes_tokens_outside_of_attention_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a convolution or a recurrence over the sequence would."""
    model = tiny_model("llama")
    layer = model.model.layers[0].mlp
    before = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: before(x + x.roll(1, dims=1)), raising=True)
    assert not packs_agree(model)


def test_a_model_whose_attention_cannot_be_exchanged_is_left_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model, "set_attn_implementation", lambda name: None)
    assert not packs_agree(model)
