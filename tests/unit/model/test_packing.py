"""Packed rows give what the rows give one by one: values, gradients, whatever the layout."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from reference.naive_impact import naive_logp
from tiny import FAMILIES, VOCAB_SIZE, WINDOW, Float64Throughout, tiny_model
from tiny_pairs import random_rows

from realigner.model.attention import packing
from realigner.model.logprobs import row_logps, scored_logits, sum_by_row, token_logps
from realigner.model.packing import Segment, bins, pack, packed_tokens, visible
from realigner.model.rows import Row, collate

families = pytest.mark.parametrize("family", FAMILIES)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def shared_rows(seed: int = 0, prompts: int = 4, longest: int = 24) -> list[Row]:
    """Return rows of which several have the same prompt, mixed; one response is a single token."""
    draw = random.Random(seed)
    rows = []
    for number in range(prompts):
        prompt = tuple(draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(1, longest)))
        for length in [*(draw.randint(1, longest) for _ in range(number)), 1 + number]:
            rows.append(Row((*prompt, *(draw.randrange(VOCAB_SIZE) for _ in range(length))), len(prompt)))
    draw.shuffle(rows)
    return rows


def expected_logps(model: Any, rows: list[Row]) -> torch.Tensor:
    return torch.stack([naive_logp(model, row) for row in rows])


@families
@pytest.mark.parametrize("share", [True, False])
def test_a_pack_gives_the_log_probs_of_its_rows_one_by_one(family: str, share: bool) -> None:
    model = tiny_model(family, dtype=torch.float64)
    rows = shared_rows() + random_rows(5)
    assert max(len(row.ids) for row in rows) > 2 * WINDOW
    with Float64Throughout(), torch.no_grad():
        with packing(model):
            found = row_logps(model, pack(rows, share=share))
        torch.testing.assert_close(found, expected_logps(model, rows), **CLOSE)


@families
def test_a_pack_s_logits_are_those_of_padded_rows_in_float32(family: str) -> None:
    model, rows = tiny_model(family), random_rows(6)
    with torch.no_grad():
        padded = scored_logits(model, collate(rows))
        with packing(model):
            packed = scored_logits(model, pack(rows))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


@families
def test_gradients_through_shared_prompts_are_those_of_separate_rows(family: str) -> None:
    model, rows = tiny_model(family, dtype=torch.float64), shared_rows(1)
    model.get_input_embeddings().padding_idx = None
    weights = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    parameters = list(model.parameters())
    with Float64Throughout():
        with packing(model):
            found = torch.autograd.grad((weights * row_logps(model, pack(rows))).sum(), parameters)
        expected = torch.autograd.grad((weights * expected_logps(model, rows)).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_rows_of_one_prompt_do_not_see_each_other() -> None:
    prompt = (5, 6, 7, 8)
    first, second = Row((*prompt, 9, 10, 11), 4), Row((*prompt, 20, 21, 22, 23), 4)
    model = tiny_model("llama", dtype=torch.float64)
    with torch.no_grad(), packing(model):
        together = row_logps(model, pack([first, second]))
        changed = row_logps(model, pack([Row((*prompt, 30, 31), 4), second]))
    assert together[1] == pytest.approx(float(changed[1]), rel=1e-12)
    assert float(together[0]) != pytest.approx(float(changed[0]), rel=1e-3)


def test_a_prompt_is_laid_out_once_and_the_last_tokens_of_rows_not_at_all() -> None:
    rows = [Row((1, 2, 3, 4), 2), Row((8, 9), 1), Row((1, 2, 5, 6, 7), 2)]
    found = pack(rows)
    assert found.input_ids.tolist() == [[1, 2, 3, 5, 6, 8]]
    assert found.position_ids.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert found.layout == (Segment(2), Segment(1, 2, 0), Segment(2, 2, 0), Segment(1))
    assert found.segment_ids.tolist() == [0, 0, 1, 2, 2, 3]
    assert found.scored.tolist() == [1, 2, 5, 1, 3, 4]  # place 1, the prompt's end, predicts both first tokens
    assert found.targets.tolist() == [3, 4, 9, 5, 6, 7]
    assert found.row_of_token.tolist() == [0, 0, 1, 2, 2, 2]
    assert found.attention_mask.tolist() == [[1, 1, 1, 1]]
    assert found.rows == 3
    apart = pack(rows, share=False)
    assert apart.layout == (Segment(3), Segment(1), Segment(4))
    assert apart.input_ids.tolist() == [[1, 2, 3, 8, 1, 2, 5, 6]]


def test_a_response_of_one_token_needs_no_segment_and_equal_rows_are_kept_apart() -> None:
    rows = [Row((1, 2, 3), 2), Row((1, 2, 4), 2), Row((1, 2, 3), 2)]
    found = pack(rows)
    assert found.layout == (Segment(2),)
    assert found.scored.tolist() == [1, 1, 1]
    assert found.targets.tolist() == [3, 4, 3]
    assert found.row_of_token.tolist() == [0, 1, 2]


def test_the_layout_spelled_out_is_what_every_token_sees() -> None:
    batch = pack([Row((1, 2, 3, 4), 2), Row((8, 9, 9), 1), Row((1, 2, 5, 6), 2)])
    seen = visible(batch.layout, batch.position_ids)[0, 0]
    expected = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [4], [4, 5]]
    assert [row.nonzero()[:, 0].tolist() for row in seen] == expected


def test_stock_attention_under_the_spelled_out_mask_gives_the_same() -> None:
    model, batch = tiny_model("qwen3", dtype=torch.float64), pack(shared_rows(2))
    with torch.no_grad(), Float64Throughout():
        outputs = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=visible(batch.layout, batch.position_ids),
            logits_to_keep=batch.scored,
        )
        with packing(model):
            found = scored_logits(model, batch)
    torch.testing.assert_close(found, outputs.logits[0], **CLOSE)


def test_token_values_of_a_pack_are_added_up_into_their_own_row() -> None:
    batch = pack([Row((1, 2, 3), 1), Row((4, 5), 1), Row((1, 7, 8, 9), 1)])
    assert sum_by_row(torch.tensor([1.0, 2.0, 10.0, 100.0, 200.0, 300.0]), batch).tolist() == [3.0, 10.0, 600.0]
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(-1)[range(6), [2, 3, 5, 7, 8, 9]]
    torch.testing.assert_close(token_logps(logits, batch), expected)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 20, 60, 10**6])
def test_bins_hold_every_row_once_within_their_limit(share: bool, max_tokens: int) -> None:
    rows = shared_rows(3, prompts=6) + random_rows(20, seed=4)
    found = bins(rows, max_tokens, share=share)
    assert sorted(i for indices in found for i in indices) == list(range(len(rows)))
    for indices in found:
        tokens = packed_tokens([rows[i] for i in indices], share=share)
        assert tokens == pack([rows[i] for i in indices], share=share).input_ids.shape[1]
        assert tokens <= max_tokens or len(indices) == 1
    assert bins([], max_tokens) == []


def test_bins_are_of_about_equal_size_and_as_many_as_needed() -> None:
    rows = random_rows(200, seed=5)
    total = packed_tokens(rows)
    found = [packed_tokens([rows[i] for i in indices]) for indices in bins(rows, 500)]
    assert len(found) <= -(-total // 500) + 1
    assert max(found) - min(found) < 40  # the longest row


def test_rows_of_one_prompt_stay_together_where_they_fit() -> None:
    prompt = tuple(range(50))
    rows = [Row((*prompt, *range(n)), 50) for n in range(1, 9)] + random_rows(10, seed=6)
    (home,) = [indices for indices in bins(rows, 150) if 0 in indices]
    assert set(range(8)) <= set(home)
    cut = [sum(i < 8 for i in indices) for indices in bins(rows, 58)]
    assert sorted(n for n in cut if n) != [8]
    assert sum(cut) == 8


def test_bins_do_not_depend_on_chance() -> None:
    rows = random_rows(40, seed=7)
    assert bins(rows, 100) == bins(list(rows), 100)
    sizes = sorted(packed_tokens([rows[i] for i in b]) for b in bins(rows, 100))
    backwards = rows[::-1]
    again = sorted(packed_tokens([backwards[i] for i in b]) for b in bins(backwards, 100))
    assert max(abs(a - b) for a, b in zip(sizes, again, strict=True)) <= 40
    assert all(a <= b for a, b in pairwise(sizes))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("wrap", [lambda model: model, torch.nn.DataParallel])
def test_a_pack_given_to_stock_attention_is_refused_instead_of_mixing_rows(attention: str, wrap: Any) -> None:
    model = wrap(tiny_model("llama", attention=attention))
    with torch.no_grad(), pytest.raises(NotImplementedError, match="attention that does not know their layout"):
        scored_logits(model, pack(random_rows(3)))


def test_moving_a_pack_keeps_its_layout() -> None:
    batch = pack(random_rows(3))
    moved = batch.to("meta")
    assert moved.layout == batch.layout
    assert moved.input_ids.device.type == "meta"
    assert moved.scored.device.type == "meta"
