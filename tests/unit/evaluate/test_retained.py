"""KL and perplexity on retained responses, against loops over single rows and single tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny import FAMILIES, Float64Throughout, tiny_model

from realigner.evaluate import retained
from realigner.evaluate.retained import Retained, compare_on_rows
from realigner.model.rows import Row

families = pytest.mark.parametrize("family", FAMILIES)


def rows(count: int = 7) -> list[Row]:
    """Rows of many lengths, some beyond the sliding window, with one to twelve response tokens."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prompt, response = int(random.integers(1, 40)), int(random.integers(1, 13))
        made.append(Row(tuple(random.integers(0, 300, prompt + response).tolist()), prompt))
    return made


@torch.no_grad()
def naive(before: Any, after: Any, row: Row) -> tuple[float, float, float]:
    """KL, log p before and log p after of one row: full logits, no padding, one token at a time, in float64."""
    ids = torch.tensor([row.ids])
    old, new = (model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1) for model in (before, after))
    kl, logp_old, logp_new = 0.0, 0.0, 0.0
    for t in range(row.start, len(row.ids)):
        kl += sum(float(old[t - 1, v].exp() * (old[t - 1, v] - new[t - 1, v])) for v in range(old.shape[-1]))
        logp_old += float(old[t - 1, row.ids[t]])
        logp_new += float(new[t - 1, row.ids[t]])
    return kl, logp_old, logp_new


@families
def test_sums_are_those_of_a_loop_over_tokens_and_the_full_vocabulary(family: str) -> None:
    before, after = tiny_model(family, seed=0), tiny_model(family, seed=1)
    found = compare_on_rows(before, after, rows())
    expected = np.array([naive(before, after, row) for row in rows()])
    np.testing.assert_allclose(found.kl, expected[:, 0], rtol=2e-4)
    np.testing.assert_allclose(found.before, expected[:, 1], rtol=2e-5)
    np.testing.assert_allclose(found.after, expected[:, 2], rtol=2e-5)
    assert found.tokens.tolist() == [row.response_tokens for row in rows()]


@families
def test_a_model_has_no_distance_from_itself(family: str) -> None:
    model = tiny_model(family)
    found = compare_on_rows(model, model, rows())
    assert np.all(found.kl == 0.0)
    assert np.array_equal(found.before, found.after)
    kl, before, after = found.kl_per_token(0), found.perplexity("before", 0), found.perplexity("after", 0)
    assert kl is not None
    assert (kl["value"], kl["low"], kl["high"]) == (0.0, 0.0, 0.0)
    assert before == after


@families
def test_sums_do_not_depend_on_the_batches_or_the_order_of_the_rows(family: str) -> None:
    before, after = tiny_model(family, seed=0), tiny_model(family, seed=1)
    whole = compare_on_rows(before, after, rows())
    for size in (1, 60, 120):
        parts = compare_on_rows(before, after, rows(), max_tokens=size)
        np.testing.assert_allclose(parts.kl, whole.kl, rtol=1e-4)
        np.testing.assert_allclose(parts.after, whole.after, rtol=1e-5)
    back = compare_on_rows(before, after, rows()[::-1])
    np.testing.assert_allclose(back.kl[::-1], whole.kl, rtol=1e-4)


def test_the_distance_is_from_before_to_after_which_is_not_the_way_back() -> None:
    before, after = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    there, back = compare_on_rows(before, after, rows()), compare_on_rows(after, before, rows())
    assert not np.allclose(there.kl, back.kl, rtol=0.01)
    np.testing.assert_array_equal(there.before, back.after)


def test_the_models_are_left_in_the_modes_they_were_in_and_dropout_is_off() -> None:
    before, after = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    plain = compare_on_rows(before, after, rows())
    for layer in after.model.layers:
        layer.self_attn.attention_dropout = 0.5
    found = compare_on_rows(before, after.train(), rows())
    assert np.array_equal(found.kl, plain.kl)
    assert after.training
    assert not before.training
    assert all(p.grad is None for p in after.parameters())


def test_kl_is_a_mean_over_tokens_and_perplexity_the_exponential_of_one() -> None:
    found = Retained(
        kl=np.array([1.0, 3.0]),
        before=np.array([-2.0, -6.0]),
        after=np.array([-4.0, -12.0]),
        tokens=np.array([1.0, 7.0]),
    )
    kl, before, after = found.kl_per_token(0), found.perplexity("before", 0), found.perplexity("after", 0)
    assert kl is not None
    assert before is not None
    assert after is not None
    assert kl["value"] == pytest.approx(0.5)  # 4 nats over 8 tokens, not the mean of 1 and 3/7
    assert before["value"] == pytest.approx(math.e)
    assert after["value"] == pytest.approx(math.e**2)
    assert kl["n"] == before["n"] == 2
    assert kl["low"] == pytest.approx(3 / 7)
    assert kl["high"] == pytest.approx(1.0)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    model = tiny_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    found = compare_on_rows(model, model, rows()).perplexity("after", 0)
    assert found is not None
    assert found["value"] == pytest.approx(400, rel=1e-5)
    assert found["low"] == pytest.approx(400, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_and_whole_logits_measure_alike(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tiny_model(family, dtype=torch.float64), tiny_model(family, dtype=torch.float64, seed=1)
    with Float64Throughout():
        tiled = compare_on_rows(before, after, rows())
        monkeypatch.setattr(retained, "head_agrees", lambda model: False)
        whole = compare_on_rows(before, after, rows())
    for name in ("kl", "before", "after"):
        np.testing.assert_allclose(getattr(tiled, name), getattr(whole, name), rtol=1e-11)
