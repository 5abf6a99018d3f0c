"""The lab's loops learn what they are shown, at one denominator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from realigner.lab.small_model import Size, make_model, make_tokenizer
from realigner.lab.teach import Schedule, teach_answers, teach_preferences
from realigner.model.chat import Encoder
from realigner.model.logprobs import score_rows
from realigner.model.rows import Row
from realigner.recipe import TextSettings
from realigner.records import user_prompt

TEXTS = ("What helps with grief?", "I cannot help with that.", "Take short walks and talk to a friend, every day.")


@pytest.fixture
def model_and_rows() -> tuple[Any, list[Row]]:
    tokenizer = make_tokenizer(TEXTS, vocabulary=280)
    encoder = Encoder(tokenizer, TextSettings(), 256)
    encoded = encoder.encode("x", user_prompt(TEXTS[0]), {"short": TEXTS[1], "long": TEXTS[2]})
    assert encoded is not None
    model = make_model(tokenizer, Size(hidden=16, intermediate=32, layers=1, heads=2), seed=0)
    return model, [encoded["short"], encoded["long"]]


def test_supervised_training_makes_the_shown_answer_likely(model_and_rows: tuple[Any, list[Row]]) -> None:
    model, rows = model_and_rows
    before = score_rows(model, rows)
    teach_answers(model, rows[:1], Schedule(40, 1, 1e-2), seed=0)
    assert score_rows(model, rows)[0] > before[0] / 4


def test_preference_training_raises_the_margin_of_the_chosen_answer(model_and_rows: tuple[Any, list[Row]]) -> None:
    model, (short, long) = model_and_rows
    before = score_rows(model, [short, long])
    first = teach_preferences(model, [(long, short)], Schedule(1, 1, 1e-9), seed=0, beta=0.1)
    assert first == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-5)  # packed scores round in another place
    teach_preferences(model, [(long, short)], Schedule(20, 1, 3e-3), seed=0, beta=0.1)
    change = score_rows(model, [short, long]) - before
    assert change[1] > change[0] + 1


def test_a_token_counts_the_same_in_a_batch_of_short_and_of_long_answers(
    model_and_rows: tuple[Any, list[Row]],
) -> None:
    model, rows = model_and_rows
    nlls = -score_rows(model, rows)
    mean_tokens = sum(row.response_tokens for row in rows) / 2
    still = Schedule(1, 1, 1e-12)
    losses = {round(teach_answers(model, rows, still, seed), 4) for seed in range(8)}
    assert losses == {round(float(nll) / mean_tokens, 4) for nll in nlls}


def test_an_epoch_shows_every_row_once() -> None:
    from realigner.lab.teach import _batches

    batches = list(_batches([5, 3, 9, 1, 7, 2, 8], Schedule(8, 2, 1.0), seed=0))
    assert sorted(i for batch in batches[:4] for i in batch) == list(range(7))
    assert sorted(i for batch in batches[4:] for i in batch) == list(range(7))


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    rates = [Schedule(100, 1, 1.0).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3) and rates[10:] == sorted(rates[10:], reverse=True)


def test_making_a_model_leaves_the_global_random_state_alone() -> None:
    tokenizer = make_tokenizer(TEXTS, vocabulary=280)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_model(tokenizer, Size(hidden=16, intermediate=32, layers=1, heads=2), seed=0)
    assert torch.rand(1) == expected
