"""Tokenised responses and how they are laid out for a forward pass. The response mask is made here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and one response as tokens; `ids[start:]` is the response with its end-of-turn, which is scored."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 0 < self.start < len(self.ids):
            raise ValueError(f"a row of {len(self.ids)} tokens cannot be scored from token {self.start}")

    @property
    def response_tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class RowBatch:
    """Rows padded on the right, whatever side the tokenizer pads: causal models then need no position ids."""

    input_ids: Int[Tensor, "rows length"]
    attention_mask: Int[Tensor, "rows length"]
    scored: Bool[Tensor, "rows length"]
    """True at t where the NEXT token belongs to the response: logits there predict a scored token."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.input_ids.shape[0]

    @property
    def row_of_token(self) -> Int[Tensor, " tokens"]:
        """The row of each scored token, in the order of the logits."""
        return self.scored.nonzero()[:, 0]

    @property
    def targets(self) -> Int[Tensor, " tokens"]:
        """The scored tokens themselves, in the order of the logits."""
        return self.input_ids.roll(-1, dims=1)[self.scored]

    def to(self, device: torch.device | str) -> RowBatch:
        """Return the batch on a device."""
        return RowBatch(self.input_ids.to(device), self.attention_mask.to(device), self.scored.to(device))


def collate(rows: Sequence[Row], pad_id: int = 0) -> RowBatch:
    """Lay rows out as one right-padded batch. The pad token's identity does not matter: it is masked."""
    length = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
    scored = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        n = len(row.ids)
        input_ids[i, :n] = torch.tensor(row.ids, dtype=torch.long)
        attention_mask[i, :n] = 1
        scored[i, row.start - 1 : n - 1] = True
    return RowBatch(input_ids, attention_mask, scored)


def batches_by_length(rows: Sequence[Row], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows of similar length, longest first, at most `max_tokens` padded tokens a batch."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def total_tokens(rows: Iterable[Row]) -> int:
    """Return the number of tokens in all rows, prompts included."""
    return sum(len(row.ids) for row in rows)
