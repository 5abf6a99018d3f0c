"""The probability of yes and no: every way to write them, whole words only, whatever the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from realigner.errors import ModelError
from realigner.model.yes_no import AnswerTokens, YesNoScorer, answer_tokens

WORDS = ["yes", "Yes", " yes", "YES", "no", " No", "NO", "yesterday", "not", " noon"]


def with_words(family: str = "llama") -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(family)
    tokenizer.add_tokens(WORDS)
    return tokenizer


@torch.no_grad()
def naive(model: Any, prompt: list[int], sequences: tuple[tuple[int, ...], ...]) -> float:
    """log of the sum over sequences of the product over tokens, one unpadded forward pass a token."""
    total = 0.0
    for sequence in sequences:
        logp, row = 0.0, list(prompt)
        for token in sequence:
            logits = model(input_ids=torch.tensor([row])).logits[0, -1].double()
            logp += float(torch.log_softmax(logits, -1)[token])
            row.append(token)
        total += math.exp(logp)
    return math.log(total)


def test_all_spellings_that_are_single_tokens_are_found_and_longer_words_are_not() -> None:
    tokenizer = with_words()
    tokens = answer_tokens(tokenizer)
    spelled = {side: {tokenizer.decode(list(ids)) for ids in getattr(tokens, side)} for side in ("yes", "no")}
    assert {"yes", "Yes", " yes", "YES"} <= spelled["yes"]
    assert {"no", " No", "NO"} <= spelled["no"]
    assert all(text.strip().lower() == side for side, texts in spelled.items() for text in texts)
    assert tokens.prefixes == [()]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_several_tokens_are_whole_sequences(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    tokens = answer_tokens(tokenizer)
    assert any(len(ids) > 1 for ids in tokens.yes)  # this small vocabulary has no token for it
    for side in ("yes", "no"):
        sequences = getattr(tokens, side)
        assert {tokenizer.decode(list(ids)).strip().lower() for ids in sequences} == {side}
        assert not any(a != b and b[: len(a)] == a for a in sequences for b in sequences)


def test_a_special_token_is_no_answer() -> None:
    tokenizer = with_words()
    tokenizer.add_special_tokens({"additional_special_tokens": ["yES"]})
    assert (tokenizer.convert_tokens_to_ids("yES"),) not in answer_tokens(tokenizer).yes


def test_a_tokenizer_that_cannot_write_the_words_is_refused() -> None:
    class Mute:
        name_or_path, unk_token_id, added_tokens_decoder = "mute", 0, {}

        def get_vocab(self) -> dict[str, int]:
            return {"<unk>": 0}

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [0]}

    with pytest.raises(ModelError, match="the tokenizer mute: it has no tokens to write 'yes'"):
        answer_tokens(Mute())


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [30], [40, 41, 42], [7] * 12]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("spelling", ["single", "sequences"])
def test_scores_are_those_of_one_token_at_a_time_without_padding(family: str, spelling: str) -> None:
    tokenizer = with_words(family) if spelling == "single" else tiny_tokenizer(family)
    tokens = answer_tokens(tokenizer)
    model = tiny_model(family, dtype=torch.float64, vocab_size=len(tokenizer))
    scores = dict(YesNoScorer(model, tokens).score(PROMPTS, batch_size=4))
    assert sorted(scores) == list(range(len(PROMPTS)))
    for place, prompt in enumerate(PROMPTS):
        # transformers computes norms in float32 also in a float64 model
        assert scores[place].yes == pytest.approx(naive(model, prompt, tokens.yes), abs=1e-5)
        assert scores[place].no == pytest.approx(naive(model, prompt, tokens.no), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_the_batch_size(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    model = tiny_model(family)
    scorer = YesNoScorer(model, answer_tokens(tokenizer), pad=3)
    alone, together = (dict(scorer.score(PROMPTS, size)) for size in (1, 3))
    for place in alone:
        assert together[place].yes == pytest.approx(alone[place].yes, abs=2e-4)
        assert together[place].no == pytest.approx(alone[place].no, abs=2e-4)


def test_the_longest_prompts_come_first_so_that_memory_runs_out_at_once() -> None:
    model = tiny_model("llama")
    scorer = YesNoScorer(model, AnswerTokens(((5,),), ((6,),)))
    assert [place for place, _ in scorer.score(PROMPTS, 1)] == [3, 0, 2, 1]
    assert list(scorer.score([], 4)) == []


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_longer_number_of_the_other_side_is_not_counted_for_the_shorter_one(family: str) -> None:
    """Where 10 is written as 1 and 0, whoever says 10 has said 1 first, and has not answered 1."""
    tokenizer, model = tiny_tokenizer(family), tiny_model(family)
    tokens = answer_tokens(tokenizer, yes=[str(n) for n in range(6, 11)], no=[str(n) for n in range(1, 6)])
    longer = tuple(high for high in tokens.yes if any(high[:end] in tokens.no for end in range(1, len(high))))
    assert longer  # these vocabularies have no token for 10
    scores = dict(YesNoScorer(model, tokens).score(PROMPTS, batch_size=2))
    for place, prompt in enumerate(PROMPTS):
        low = math.exp(naive(model, prompt, tokens.no)) - math.exp(naive(model, prompt, longer))
        assert scores[place].no == pytest.approx(math.log(low), abs=1e-5)
        assert scores[place].yes == pytest.approx(naive(model, prompt, tokens.yes), abs=1e-5)
