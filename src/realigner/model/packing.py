"""Rows laid out one after the other in ONE sequence, without padding; rows with the same prompt share its tokens.

A pack is a sequence of segments. A segment is a whole row, or a prompt, or a response that continues a prompt of the
same pack. Positions restart with every row, and a token sees its own segment and the prompt that it continues: what
`model/attention.py` computes, so that a pack gives what its rows give one by one. The last token of a row predicts
nothing and is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from realigner.model.rows import Row


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that belong together."""

    tokens: int
    first: int = 0
    """Position of its first token in its row: the length of the prompt that it continues, or 0."""
    prompt: int | None = None
    """Which segment it continues, if any; always an earlier one."""

    @property
    def stop(self) -> int:
        """Position after its last token: how many tokens its last token sees."""
        return self.first + self.tokens


Layout = tuple[Segment, ...]


@dataclass(frozen=True)
class PackedBatch:
    """Rows packed into one sequence: what a forward pass needs, and which row each scored token belongs to."""

    input_ids: Int[Tensor, "1 total"]
    position_ids: Int[Tensor, "1 total"]
    layout: Layout
    """The segments in the order of their tokens."""
    scored: Int[Tensor, " tokens"]
    """Places in the pack whose logits predict a scored token, row by row. The last token of a shared prompt predicts
    the first token of every response to it, so a place can occur more than once."""
    targets: Int[Tensor, " tokens"]
    """The scored tokens themselves, in the same order."""
    row_of_token: Int[Tensor, " tokens"]
    """The row of each scored token, counted in the order in which the rows were given."""
    rows: int
    """Number of rows."""

    @property
    def attention_mask(self) -> Int[Tensor, "1 longest"]:
        """Ones, as many as the longest row has tokens: the extent over which a model says what a query may see."""
        return self.input_ids.new_ones(1, max(segment.stop for segment in self.layout))

    @property
    def segment_ids(self) -> Int[Tensor, " total"]:
        """The segment of each token."""
        sizes = torch.tensor([segment.tokens for segment in self.layout], device=self.input_ids.device)
        return torch.arange(len(self.layout), device=sizes.device).repeat_interleave(sizes)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch on a device."""
        tensors = ("input_ids", "position_ids", "scored", "targets", "row_of_token")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def pack(rows: Sequence[Row], *, share: bool = True) -> PackedBatch:
    """Lay rows out in one sequence.

    Args:
        rows: at least one; equal rows are laid out as often as they are given.
        share: compute a prompt once for all rows that begin with it.
    """
    ids: list[int] = []
    positions: list[int] = []
    layout: list[Segment] = []
    places: list[list[int]] = [[] for _ in rows]

    def add(tokens: Sequence[int], first: int = 0, prompt: int | None = None) -> int:
        """Append a segment; return the place of its first token."""
        start = len(ids)
        if tokens:
            ids.extend(tokens)
            positions.extend(range(first, first + len(tokens)))
            layout.append(Segment(len(tokens), first, prompt))
        return start

    for group in _by_prompt(rows) if share else [[i] for i in range(len(rows))]:
        head = rows[group[0]]
        if len(group) == 1:
            start = add(head.ids[:-1])
            places[group[0]] = list(range(start + head.start - 1, start + len(head.ids) - 1))
            continue
        last = add(head.ids[: head.start]) + head.start - 1
        prompt = len(layout) - 1
        for i in group:
            start = add(rows[i].ids[head.start : -1], head.start, prompt)
            places[i] = [last, *range(start, start + rows[i].response_tokens - 1)]
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        layout=tuple(layout),
        scored=torch.tensor([place for found in places for place in found]),
        targets=torch.tensor([token for row in rows for token in row.ids[row.start :]]),
        row_of_token=torch.arange(len(rows)).repeat_interleave(torch.tensor([row.response_tokens for row in rows])),
        rows=len(rows),
    )


def packed_tokens(rows: Iterable[Row], *, share: bool = True) -> int:
    """Return how many tokens a pack of these rows has."""
    rows = list(rows)
    total = sum(len(row.ids) - 1 for row in rows)
    if share:
        total -= sum((len(group) - 1) * rows[group[0]].start for group in _by_prompt(rows))
    return total


def bins(rows: Sequence[Row], max_tokens: int, *, share: bool = True) -> list[list[int]]:
    """Distribute rows over packs of about equal size, at most `max_tokens` tokens each; return their indices.

    Rows with the same prompt stay together where they fit; a row that is longer than `max_tokens` is a pack of its
    own. Longest first, each into the emptiest pack: within 4/3 of the best balance.
    """
    units = [
        (packed_tokens([rows[i] for i in unit], share=share), unit)
        for group in (_by_prompt(rows) if share else [[i] for i in range(len(rows))])
        for unit in _fitting(group, rows, max_tokens)
    ]
    units.sort(key=lambda unit: (-unit[0], unit[1]))
    packs: list[list[int]] = [[] for _ in range(-(-sum(size for size, _ in units) // max_tokens))]
    loads = [(0, i) for i in range(len(packs))]
    heapify(loads)
    for size, unit in units:
        load, i = heappop(loads)
        if load and load + size > max_tokens:  # the emptiest has no room: neither has any other
            heappush(loads, (load, i))
            load, i = 0, len(packs)
            packs.append([])
        packs[i].extend(unit)
        heappush(loads, (load + size, i))
    return [sorted(found) for found in packs if found]


def visible(layout: Layout, position_ids: Int[Tensor, "1 total"]) -> Bool[Tensor, "1 1 total total"]:
    """Return which token sees which under plain causal attention, as a mask: the layout spelled out.

    Quadratic in the size of the pack; for tests and for attention that is given a mask only.
    """
    sizes = torch.tensor([segment.tokens for segment in layout])
    own = torch.arange(len(layout)).repeat_interleave(sizes).to(position_ids.device)
    prompts = [i if segment.prompt is None else segment.prompt for i, segment in enumerate(layout)]
    continued = torch.tensor(prompts).repeat_interleave(sizes).to(position_ids.device)
    related = (own[:, None] == own) | (continued[:, None] == own)
    return (related & (position_ids[0, :, None] >= position_ids[0]))[None, None]


def _by_prompt(rows: Sequence[Row]) -> list[list[int]]:
    """Return the indices of rows with equal prompts together, in the order of their first."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.ids[: row.start]].append(i)
    return list(groups.values())


def _fitting(group: Sequence[int], rows: Sequence[Row], max_tokens: int) -> list[list[int]]:
    """Cut rows of one prompt where they do not fit into one pack together."""
    units: list[list[int]] = []
    room = 0
    for i in group:
        need = len(rows[i].ids) - 1 - rows[i].start
        if not units or need > room:
            units.append([])
            room = max_tokens - rows[i].start
        units[-1].append(i)
        room -= need
    return units
