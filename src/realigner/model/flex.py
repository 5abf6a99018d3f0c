"""Attention of a whole pack in one call of torch's FlexAttention, where a GPU would starve between small ones.

`model/attention.py` computes a pack segment by segment: right on a CPU, but on a GPU a launch for each segment and
layer, hundreds a pass. Here the layout becomes FlexAttention's description of a sparse mask: which blocks of keys a
block of queries may see, and a rule for the tokens inside them. The rule reads three numbers of a query (where its
segment begins, where the prompt begins and ends that it continues) and, for layers that see less than all before
them, the model's own pattern. Blocks are read off the layout: a mask of the pack's square is never made.

Its kernels are made by a compiler, for CUDA, when they are first called. `choose` therefore compares them with the
segments, in every kind of layer, forward and backward, before they are used, and says what it found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realigner.errors import ModelError
from realigner.losses.pairwise import in_fp32
from realigner.model.attention import packed_attention, packing, refuse_ignored
from realigner.model.head import bare_model, forward
from realigner.model.load import context_of
from realigner.model.packing import Layout, pack
from realigner.model.rows import Row

logger = logging.getLogger(__name__)

BLOCK = 128
"""Tokens in a block; a pack of no more than one goes segment by segment. Results do not depend on it."""
AGREEMENT, HALF_AGREEMENT = 0.001, 0.05
"""Relative difference from the segments above which the two do not agree: in float32 or wider, in half precision."""
Wish = Literal["auto", "flex", "segments"]


def attend_whole(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads total dim"],
    key: Float[Tensor, "1 kv_heads total dim"],
    value: Float[Tensor, "1 kv_heads total dim"],
    attention_mask: Bool[Tensor, "1 1 longest longest"] | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    packed: Layout | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 total heads dim"], None]:
    """Return what `packed_attention` does of the same arguments, in one call; without forward-mode derivatives.

    Raises:
        NotImplementedError: dropout in training, attention sinks, or what `packed_attention` refuses.
    """
    layout = refuse_ignored(query, key, packed, others)
    if s_aux is not None or (dropout and module.training):
        raise NotImplementedError("FlexAttention with " + ("dropout" if s_aux is None else "attention sinks"))
    if query.shape[2] <= BLOCK:
        return packed_attention(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, packed=layout
        )
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # which does not reach into FlexAttention
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    output: Tensor = _kernel(kind)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=block_mask(layout, attention_mask, query.device, BLOCK),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


@cache
def _kernel(kind: str) -> Callable[..., Tensor]:
    """Return FlexAttention: compiled on CUDA, where a graph that cannot be compiled whole is an error, never slow."""
    from torch.nn.attention.flex_attention import flex_attention

    def in_one_call(*inputs: Tensor, **how: Any) -> Tensor:  # by itself, for it may be compiled a few times only
        output: Tensor = flex_attention(*inputs, **how)  # type: ignore[call-overload]
        return output

    return torch.compile(in_one_call, fullgraph=True) if kind == "cuda" else in_one_call


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        return torch.tanh(score / softcap) * softcap

    return score_mod


# -- the layout as a sparse mask ------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def block_mask(
    layout: Layout, pattern: Bool[Tensor, "1 1 longest longest"] | None, device: torch.device, block: int
) -> Any:
    """Return FlexAttention's `BlockMask` of a pack: made once for all layers of a kind, and again for none.

    Args:
        layout: of the pack.
        pattern: which position of a row sees which, by the model's own mask function; None: all before it.
        device: where it is used.
        block: tokens in a block.
    """
    from torch.nn.attention.flex_attention import BlockMask

    blocks = seen_blocks(layout, block).int()
    total = sum(segment.tokens for segment in layout)
    mask = BlockMask.from_kv_blocks(
        blocks.sum(dim=1, dtype=torch.int32)[None, None],
        blocks.argsort(dim=1, descending=True, stable=True).int()[None, None],
        BLOCK_SIZE=block,
        mask_mod=_rule(_spans(layout).to(device), pattern),
        seq_lengths=(total, total),
    )
    return mask.to(device)


def seen_blocks(layout: Layout, block: int) -> Bool[Tensor, "blocks blocks"]:
    """Return in which blocks of keys a block of queries sees anything, under plain causal attention."""
    starts = _starts(layout)
    number = -(-(starts[-1] + layout[-1].tokens) // block)
    seen = torch.zeros(number, number, dtype=torch.bool)
    for i, segment in enumerate(layout):
        own = slice(starts[i] // block, (starts[i] + segment.tokens - 1) // block + 1)
        seen[own, own] = True
        if segment.prompt is not None:
            first = starts[segment.prompt]
            seen[own, first // block : (first + layout[segment.prompt].tokens - 1) // block + 1] = True
    return seen.tril()


def _starts(layout: Layout) -> list[int]:
    """Return the place of each segment's first token."""
    starts = [0]
    for segment in layout[:-1]:
        starts.append(starts[-1] + segment.tokens)
    return starts


def _spans(layout: Layout) -> Int[Tensor, "4 total"]:
    """Return of each token where its segment begins, where the prompt it continues begins and ends, its position."""
    starts, columns = _starts(layout), []
    for start, segment in zip(starts, layout, strict=True):
        prompt = (0, 0)  # nothing
        if segment.prompt is not None:
            prompt = (starts[segment.prompt], starts[segment.prompt] + layout[segment.prompt].tokens)
        columns.append((start, *prompt, segment.first - start))
    sizes = torch.tensor([segment.tokens for segment in layout])
    spans = torch.tensor(columns, dtype=torch.int32).T.repeat_interleave(sizes, dim=1)
    spans[3] += torch.arange(spans.shape[1], dtype=torch.int32)
    return spans


def _rule(spans: Int[Tensor, "4 total"], pattern: Bool[Tensor, "1 1 longest longest"] | None) -> Callable[..., Tensor]:
    """Return which key a query sees, given as places in the pack."""
    start, prompt, stop, position = spans.unbind()

    def in_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        own = (key >= start[query]) & (key <= query)
        return own | ((key >= prompt[query]) & (key < stop[query]))

    if pattern is None:
        return in_row
    seen = pattern[0, 0]

    def in_row_and_pattern(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return in_row(batch, head, query, key) & seen[position[query], position[key]]

    return in_row_and_pattern


# -- whether to use it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """How packed rows attend, and why so."""

    name: Literal["flex", "segments", "padded"]
    """`padded`: the model's own, on rows that are not packed."""
    because: str

    @property
    def attend(self) -> Callable[..., Any] | None:
        """What `attention.packing` is given."""
        return attend_whole if self.name == "flex" else None


def choose(models: Sequence[Any], wish: Wish, *, packed: bool = True) -> Kernel:
    """Return how rows of some models attend: in one call where that is wanted, there, and equal to segments.

    Args:
        models: what is trained, and its reference if that is another model.
        wish: `auto`: FlexAttention on CUDA, if it agrees; `flex`: nothing else; `segments`: without it.
        packed: whether rows are packed; they are where the models compute them so rightly (`packs_agree`).

    Raises:
        ModelError: FlexAttention is asked for and does not agree, or does not work here.
    """
    if not packed and wish != "flex":
        return Kernel("padded", "rows are not packed")
    if wish == "segments":
        return Kernel("segments", "asked for")
    if wish == "auto" and not all(_on_cuda(model) for model in models):
        return Kernel("segments", "FlexAttention has kernels for training on CUDA only")
    for model in models:
        reason = disagreement(model) if packed else "its rows are not packed"
        if reason is not None and wish == "flex":
            raise ModelError(
                f"model.attention = flex with {type(bare_model(model)).__name__}", reason, "Set model.attention: auto"
            )
        if reason is not None:
            logger.warning("packed rows attend segment by segment, which is slow on a GPU: %s", reason)
            return Kernel("segments", reason)
    return Kernel("flex", "checked against segments, forward and backward, in every kind of layer")


def _on_cuda(model: Any) -> bool:
    return bool(next(model.parameters()).device.type == "cuda")


@torch.no_grad()
def disagreement(model: Any) -> str | None:
    """Say what keeps a model from attending in one call, or None if nothing does.

    Its own forward runs over two small packs; in each kind of layer, both ways attend to random values in the shape
    of that layer's. In training mode, so that dropout shows; twice, because a second length is compiled anew.
    """
    found: list[str] = []
    known: set[Any] = set()

    def compare(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **how: Any) -> Any:
        settings = (how.get("dropout"), how.get("scaling"), how.get("softcap"), how.get("s_aux") is None)
        kind = (query.shape, key.shape, value.shape, query.dtype, mask is None, settings)
        if kind not in known and not found:
            known.add(kind)
            found.extend(_differences(module, (query, key, value), mask, how))
        return packed_attention(module, query, key, value, mask, **how)

    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    rows = _probe_rows(int(model.get_input_embeddings().weight.shape[0]), context_of(bare_model(model).config))
    with torch.random.fork_rng(devices=devices), _training(model), packing(bare_model(model), compare):
        for some in (rows, rows[:-3]):  # shorter ones too
            forward(model, pack(some).to(device))
    return found[0] if found else None


def _differences(module: Any, like: tuple[Tensor, Tensor, Tensor], mask: Any, how: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with FlexAttention in a layer's place, if anything."""
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(x.shape, generator=draw).to(x.device, x.dtype).requires_grad_() for x in like]
    results: list[list[Tensor]] = []
    ways: tuple[Callable[..., Any], ...] = (packed_attention, attend_whole)
    try:
        for attend in ways:
            with torch.enable_grad():
                output = attend(module, *inputs, mask, **how)[0]
                upstream = torch.randn(output.shape, generator=draw.manual_seed(1)).to(output.device, output.dtype)
                results.append([output.detach(), *torch.autograd.grad(output, inputs, upstream)])
    except Exception as error:  # of a compiler, its backend or a driver: whatever it is, it is told
        yield f"it does not work here ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]})"
        return
    limit = HALF_AGREEMENT if results[0][0].dtype in (torch.float16, torch.bfloat16) else AGREEMENT
    names = ("output", "gradient by queries", "gradient by keys", "gradient by values")
    for name, expected, found in zip(names, *results, strict=True):
        # A token's output stands by itself: one token too many shows in one output only. Of gradients, some are tiny.
        rows = len(expected[0]) if name == "output" else 1
        right, other = (in_fp32(x).reshape(rows, -1) for x in (expected, found))
        apart = float(((other - right).norm(dim=1) / right.norm(dim=1)).max())
        if not apart <= limit:
            yield f"FlexAttention's {name} is {apart:.1e} off that of the segments"


def _probe_rows(vocabulary: int, longest: int) -> list[Row]:
    """Return rows that fill some blocks: short ones, in which a token too many shows, long ones, and shared prompts."""
    shapes = [(1, 6)] * 12 + [(5, 4), (5, 6), (70, 40), (70, 3), (70, 60), (40, 59), (3, 30)]
    rows: list[Row] = []
    last = 0
    for prompt, response in shapes:
        prompt, response = min(prompt, longest // 2), min(response, longest // 2)
        start = 1000 * prompt if prompt > 4 else 1000 * len(rows)
        last += response
        ids = [*range(start, start + prompt), *range(50_000 + last, 50_000 + last + response)]
        rows.append(Row(tuple(7919 * i % vocabulary for i in ids), prompt))
    return rows


@contextmanager
def _training(model: torch.nn.Module) -> Iterator[None]:
    """Switch to training mode for a block and restore every module's mode after it."""
    resting = [module for module in model.modules() if not module.training]
    model.train()
    try:
        yield
    finally:
        for module in resting:
            module.training = False
