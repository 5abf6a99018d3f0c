"""Hidden states of responses: those of the model alone, whatever the batch, through wrappers, in flat memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import FAMILIES, tiny_model

from realigner.model.hidden import hidden_states
from realigner.model.load import wrap_in_adapter
from realigner.model.rows import Row

ROWS = [Row((5, 6, 7, 8, 9), 2), Row((5, 6, 9), 2), Row(tuple(range(20, 32)), 7), Row((40, 41), 1)]


@torch.no_grad()
def naive(model: Any, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    states = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1:]
    stacked = torch.stack([state[0] for state in states]).float()
    return stacked[:, row.start - 1], stacked[:, row.start :].mean(dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [12, 1024])
def test_states_are_those_of_each_row_alone(family: str, max_tokens: int) -> None:
    model = tiny_model(family, layers=2)
    seen = []
    for places, states in hidden_states(model, ROWS, max_tokens=max_tokens):
        seen += places
        for place, prompt, response in zip(places, states.prompt, states.response, strict=True):
            expected = naive(model, ROWS[place])
            torch.testing.assert_close(prompt, expected[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(response, expected[1], atol=1e-4, rtol=1e-4)
    assert sorted(seen) == [0, 1, 2, 3]


def test_an_adapter_takes_part() -> None:
    base = tiny_model("llama")
    (_, plain), *_ = hidden_states(base, ROWS[:1])
    wrapped = wrap_in_adapter(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), seed=0)
    (_, adapted), *_ = hidden_states(wrapped, ROWS[:1])
    with wrapped.disable_adapter():
        (_, disabled), *_ = hidden_states(wrapped, ROWS[:1])
    assert not torch.allclose(plain.response, adapted.response, atol=1e-3)
    torch.testing.assert_close(plain.response, disabled.response)


def test_the_model_is_left_as_it_was_and_nothing_has_a_gradient() -> None:
    model = tiny_model("llama").train()
    (_, states), *_ = hidden_states(model, ROWS[:1])
    assert model.training and not states.response.requires_grad
