"""The probability that a model's answer to a prompt begins with yes, and with no, over all its ways to write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realigner.errors import ModelError
from realigner.model.head import evaluating

_SPACES = "▁ĠĊ \t\n"
"""How vocabularies write the space or line break before a word, beside the characters themselves."""
Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The token sequences that say yes, and those that say no; none begins with another of its own side.

    One may begin with one of the other side, as 10 does with 1: what goes on to the longer counts for that alone.
    """

    yes: Sequences
    no: Sequences

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """What must have been said before the last token of a sequence, shortest first; () is always among them."""
        found = {sequence[:end] for sequence in (*self.yes, *self.no) for end in range(len(sequence))}
        return sorted(found, key=lambda prefix: (len(prefix), prefix))


@dataclass(frozen=True, slots=True)
class YesNo:
    """Log-probabilities, in nats, that the answer begins with a yes and with a no."""

    yes: float
    no: float


def answer_tokens(tokenizer: Any, yes: Sequence[str] = ("yes",), no: Sequence[str] = ("no",)) -> AnswerTokens:
    """Return every way in which a vocabulary writes the words of two answers: any case, with or without space before.

    Where all words are single tokens, as in most vocabularies, one forward pass scores them. Where one is not, all
    are scored as sequences, so that the first half of a word is not taken for the whole.

    Args:
        tokenizer: of the model that answers.
        yes: what the one answer may be, in lower case.
        no: what the other may be.

    Raises:
        ModelError: the tokenizer cannot write one of the words.
    """
    single = {word: _single_tokens(tokenizer, word) for word in (*yes, *no)}
    whole = all(single.values())
    found: dict[str, Sequences] = {
        word: tuple((token,) for token in tokens) if whole else _sequences(tokenizer, word, tokens)
        for word, tokens in single.items()
    }
    return AnswerTokens(*(_joined(found[word] for word in side) for side in (yes, no)))


def _joined(words: Iterable[Sequences]) -> Sequences:
    """Return the sequences of one side; one that goes on after another of it has said the answer is already counted."""
    found = {ids for sequences in words for ids in sequences}
    return tuple(sorted(ids for ids in found if not any(ids[:end] in found for end in range(1, len(ids)))))


def _single_tokens(tokenizer: Any, word: str) -> list[int]:
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return sorted(
        number for token, number in vocabulary.items() if token.strip(_SPACES).lower() == word and number not in special
    )


def _sequences(tokenizer: Any, word: str, single: Sequence[int]) -> Sequences:
    written = (word, word.capitalize(), word.upper())
    found = {
        tuple(tokenizer(space + text, add_special_tokens=False)["input_ids"]) for text in written for space in ("", " ")
    }
    found |= {(token,) for token in single}
    unknown = tokenizer.unk_token_id
    found = {ids for ids in found if ids and unknown not in ids}
    if not found:
        raise ModelError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')}",
            f"it has no tokens to write {word!r}, so its model cannot give that answer",
            "Choose another model",
        )
    return tuple(sorted(found))


class YesNoScorer:
    """Scores prompts by the answer that a model would begin. Results do not depend on how prompts are batched.

    Args:
        model: a causal language model.
        tokens: the ways to say yes and no.
        pad: any token; it stands before short prompts and is masked.
    """

    def __init__(self, model: Any, tokens: AnswerTokens, pad: int = 0) -> None:
        self._model, self._tokens, self._pad = model, tokens, pad

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[tuple[int, YesNo]]:
        """Yield (place, log-probabilities) of each prompt, the longest first, a batch at a time."""
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            with evaluating(self._model):
                yes, no = self._score([prompts[place] for place in batch])
            yield from zip(batch, map(YesNo, yes, no), strict=True)

    def _score(self, prompts: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
        said: dict[tuple[int, ...], Float[Tensor, " rows"]] = {}
        following: dict[tuple[int, ...], Float[Tensor, "rows vocab"]] = {}
        for prefix in self._tokens.prefixes:
            following[prefix] = self._next_logps([[*prompt, *prefix] for prompt in prompts])
            before = following[prefix[:-1]][:, prefix[-1]] if prefix else 0.0
            said[prefix] = said[prefix[:-1]] + before if prefix else torch.zeros(len(prompts), dtype=torch.float64)

        def mass(sequences: Iterable[tuple[int, ...]]) -> Float[Tensor, " rows"]:
            each = [said[ids[:-1]] + following[ids[:-1]][:, ids[-1]] for ids in sequences]
            return torch.logsumexp(torch.stack(each), dim=0)

        sides = []
        for own, other in ((self._tokens.yes, self._tokens.no), (self._tokens.no, self._tokens.yes)):
            whole = mass(own)
            longer = [ids for ids in other if any(ids[:end] in own for end in range(1, len(ids)))]
            if longer:  # log(e^whole − e^longer)
                whole = whole + torch.log1p(-torch.exp(mass(longer) - whole).clamp(max=1.0))
            sides.append(whole.tolist())
        return sides[0], sides[1]

    def _next_logps(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
        """Return log p(token | row) over the vocabulary, on the CPU, in float64."""
        device = next(self._model.parameters()).device
        length = max(len(row) for row in rows)
        ids = torch.tensor([[self._pad] * (length - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
        # Padding stands before the text: without positions of its own, text would be read as if it began later.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
        )
        return torch.log_softmax(output.logits[:, -1].double(), dim=-1).cpu()
