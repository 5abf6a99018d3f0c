"""One attention function for transformers' `AttentionInterface` that knows packed rows and forward-mode derivatives.

It reads the layout of a pack (`model/packing.py`) and computes one segment after the other, each against its own keys
and those of the prompt that it continues: the cost is that of the rows, not the square of the pack. What a query may
see within its row (everything before it, a sliding window, a chunk) comes from the model's own mask function.

Fused kernels have no forward-mode rule on most devices, and transformers' own eager functions take the softmax in
float32 whatever the model's precision. Inputs that carry tangents are therefore computed here, in the precision of
the inputs (float32 at least), with the derivative of the softmax written out and queries taken in tiles, so that a
tile's scores stay in the processor's cache. Without tangents each segment goes to PyTorch's fused attention, and
reverse mode works as anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

from realigner.model.packing import Layout

NAME = "realigner_packed"
"""Names of functions that attend by the layout begin so."""
TILE = 64
"""Queries in a tile on a CPU; results do not depend on it."""
DEVICE_TILE = 1024
"""The same elsewhere, where launching a kernel costs more than what it writes."""
Dual = tuple[Tensor, Tensor | None]
"""A tensor and its tangent."""
# Arguments that carry no arithmetic for a plain decoder: anything else that is set must not be ignored.
_HARMLESS = {"position_ids", "sliding_window", "is_causal", "use_cache", "cache_position"}
_HARMLESS |= {"output_attentions", "output_hidden_states", "output_router_logits"}


def packed_attention(
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
    """Return softmax(q kᵀ·scaling, soft-capped, masked, beside a sink) v for the rows of a pack.

    Args:
        module: the attention layer; its mode decides on dropout.
        query: of all tokens of the pack, as are key and value.
        key: query heads in turn share a key head.
        value: as key.
        attention_mask: which position of a row sees which; None: all before it. From `row_mask`.
        dropout: in training.
        scaling: default 1/√dim.
        softcap: scores become softcap · tanh(score / softcap).
        s_aux: a score per head that takes part in the softmax and carries no value.
        packed: the layout, given to the model's forward as `packed=`.
        others: what else a layer passes; refused if it is set and would be ignored.

    Inputs that are dual tensors give a dual result: its tangent is the exact derivative.

    Raises:
        NotImplementedError: an argument is set that this function would ignore, or there is no layout.
    """
    packed = refuse_ignored(query, key, packed, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rate = dropout if module.training else 0.0
    sizes = [segment.tokens for segment in packed]
    duals = [_split(unpack(x), sizes) for x in (query, key, value)]
    has_tangent = any(dx is not None for x in duals for _, dx in x) or (
        s_aux is not None and unpack(s_aux)[1] is not None
    )
    outputs: list[Dual] = []
    for i, segment in enumerate(packed):
        q, k, v = (x[i] for x in duals)
        if segment.prompt is not None:
            k, v = (_join(x[segment.prompt], x[i]) for x in duals[1:])
        seen = None if attention_mask is None else attention_mask[0, 0, segment.first : segment.stop, : segment.stop]
        if has_tangent:
            outputs.append(_dual_block(q, k, v, seen, scale, softcap, s_aux))
        elif softcap is not None or s_aux is not None:
            outputs.append((_eager_block(q[0], k[0], v[0], seen, scale, softcap, s_aux, rate), None))
        else:
            outputs.append((_fused_block(q[0], k[0], v[0], seen, scale, rate), None))
    result = torch.cat([output for output, _ in outputs], dim=2)
    if has_tangent:
        result = dual(result, torch.cat([tangent for _, tangent in outputs if tangent is not None], dim=2))
    return result.transpose(1, 2).contiguous(), None


def refuse_ignored(query: Tensor, key: Tensor, packed: Layout | None, others: Mapping[str, Any]) -> Layout:
    """Return the layout; refuse arguments that would be ignored.

    Raises:
        NotImplementedError: an argument is set that attention over a pack does not know, or the layout is missing or
            that of another pack.
    """
    unknown = [name for name, given in others.items() if given is not None and name not in _HARMLESS]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(sorted(unknown))}")
    if packed is None:
        raise NotImplementedError("attention that is not told how rows are packed")
    if len(query) != 1 or query.shape[2] != key.shape[2] or query.shape[2] != sum(s.tokens for s in packed):
        raise NotImplementedError(f"attention of {tuple(query.shape)} to {tuple(key.shape)} over another pack")
    return packed


def unpack(tensor: Tensor) -> Dual:
    """Return a tensor and its tangent: None where it has none."""
    primal, tangent = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return primal, tangent


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """Return a tensor that carries a tangent through the operations on it."""
    with warnings.catch_warnings():
        # The first one makes torch (2.13) load derivative rules through a part of itself that it deprecates.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        result: Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return result


def _split(x: Dual, sizes: list[int]) -> list[Dual]:
    """Cut into segments: by one `split`, whose gradient is one concatenation."""
    primal, tangent = x
    tangents = [None] * len(sizes) if tangent is None else torch.split(tangent, sizes, dim=2)
    return list(zip(torch.split(primal, sizes, dim=2), tangents, strict=True))


def _join(a: Dual, b: Dual) -> Dual:
    tangent = None if a[1] is None or b[1] is None else torch.cat((a[1], b[1]), dim=2)
    return torch.cat((a[0], b[0]), dim=2), tangent


def _causal(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """Return which key each of the LAST queries sees: all up to itself."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _fused_block(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float, rate: float) -> Tensor:
    whole = seen is None and q.shape[2] == k.shape[2]
    if seen is None and not whole:
        seen = _causal(q.shape[2], k.shape[2], q.device)
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(
        q, k, v, attn_mask=seen, dropout_p=rate, is_causal=whole, scale=scale, enable_gqa=grouped
    )


def _eager_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    rate: float,
) -> Tensor:
    """Return a segment's attention by plain operations: what fused attention cannot do."""
    wide = torch.promote_types(q.dtype, torch.float32)
    seen = _causal(q.shape[2], k.shape[2], q.device) if seen is None else seen
    grouped = torch.unflatten(q, 1, (k.shape[1], -1))
    scores = (grouped @ k.unsqueeze(2).mT).to(wide) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, torch.finfo(wide).min)
    if sinks is not None:
        beside = sinks.to(wide).view(1, k.shape[1], -1, 1, 1).expand(*scores.shape[:-1], 1)
        p = torch.cat((scores, beside), dim=-1).softmax(dim=-1)[..., :-1]
    else:
        p = scores.softmax(dim=-1)
    return (drop(p, rate).to(q.dtype) @ v.unsqueeze(2)).flatten(1, 2)


def _dual_block(
    query: Dual,
    key: Dual,
    value: Dual,
    seen: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return a segment's attention and its tangent, a tile of queries at a time.

    Query heads that share a key head are laid one below the other, so that both products are plain batched ones.
    """
    (q, dq), (k, dk), (v, dv) = (
        (x[0], torch.zeros_like(x[0]) if dx is None else dx[0]) for x, dx in (query, key, value)
    )
    heads, (_, queries, dim), keys = len(k), q.shape, k.shape[1]
    stacked = torch.stack((q, dq)).view(2, heads, -1, queries, dim).transpose(0, 1)
    beside = torch.cat((v, dv), dim=-1)
    sink, sink_slope = (None, None) if sinks is None else unpack(sinks.view(heads, -1, 1, 1))
    tile = TILE if q.device.type == "cpu" else DEVICE_TILE
    outputs, tangents = [], []
    for start in range(0, queries, tile):
        stop = min(start + tile, queries)
        low, high = 0, keys - queries + stop
        if seen is None:
            hidden = ~_causal(stop - start, stop - start, q.device)
        else:
            near = seen[start:stop].any(dim=0).nonzero()
            low, high = int(near[0]), int(near[-1]) + 1
            hidden = ~seen[start:stop, low:high]
        output, tangent = _tile(
            stacked[..., start:stop, :], k[:, low:high], dk[:, low:high], beside[:, low:high], hidden, scale, softcap,
            sink, sink_slope,
        )  # fmt: skip
        outputs.append(output)
        tangents.append(tangent)
    shape = (1, len(q), queries, v.shape[-1])
    return torch.cat(outputs, dim=2).view(shape), torch.cat(tangents, dim=2).view(shape)


def _tile(
    queries: Float[Tensor, "heads 2 group n dim"],
    keys: Float[Tensor, "heads m dim"],
    key_tangents: Float[Tensor, "heads m dim"],
    values: Float[Tensor, "heads m two_dims"],
    hidden: Bool[Tensor, "n k"],
    scale: float,
    softcap: float | None,
    sink: Float[Tensor, "heads group 1 1"] | None,
    sink_slope: Float[Tensor, "heads group 1 1"] | None,
) -> tuple[Float[Tensor, "heads group n dim"], Float[Tensor, "heads group n dim"]]:
    """Return some queries' attention and its tangent; `hidden` is about the last keys, all before them are seen.

    With scores S, P = softmax(S) and O = P V: dO = (P∘dS) V − rowsum(P∘dS) O + P dV. Queries and their tangents lie
    one below the other, values and theirs side by side: four products of matrices do it.
    """
    heads, _, group, n, dim = queries.shape
    m, wide = keys.shape[1], torch.promote_types(queries.dtype, torch.float32)
    stacked = queries.reshape(heads, 2 * group * n, dim)
    products = (stacked @ keys.mT).view(heads, 2, group * n, m)
    scores = products[:, 0].to(wide) * scale
    slopes = torch.baddbmm(products[:, 1], stacked[:, : group * n], key_tangents.mT).to(wide) * scale
    if softcap is not None:
        capped = torch.tanh(scores / softcap)
        scores, slopes = capped * softcap, slopes * (1.0 - capped**2)
    scores, slopes = scores.view(heads, group, n, m), slopes.view(heads, group, n, m)
    scores[..., m - hidden.shape[-1] :].masked_fill_(hidden, torch.finfo(wide).min)
    if sink is None:
        p = torch.softmax(scores, dim=-1)
    else:
        all_p = torch.softmax(torch.cat((scores, sink.to(wide).expand(-1, -1, n, 1)), dim=-1), dim=-1)
        p = all_p[..., :-1]
    w = slopes.mul_(p)
    drift = w.sum(dim=-1, keepdim=True)
    if sink_slope is not None:
        drift = drift + all_p[..., -1:] * sink_slope.to(wide)
    flat = (heads, group * n, m)
    mixed = p.reshape(flat).to(values.dtype) @ values
    output, tangent = mixed.chunk(2, dim=-1)
    tangent = torch.baddbmm(tangent, w.view(flat).to(values.dtype), values.chunk(2, dim=-1)[0])
    tangent -= drift.view(heads, group * n, 1).to(values.dtype) * output
    shape = (heads, group, n, output.shape[-1])
    return output.reshape(shape), tangent.view(shape)


def row_mask(kv_length: int, mask_function: Any, **how: Any) -> Bool[Tensor, "1 1 longest longest"] | None:
    """Return which position of a row sees which by the model's own mask function; None where all see what is before.

    transformers calls this once a forward pass and kind of layer. `kv_length` is the length of the attention mask
    that a `PackedBatch` gives: that of the longest row. Positions in a row decide, not places in the pack.
    """
    from transformers.masking_utils import sdpa_mask

    grid = {"batch_size": 1, "q_length": kv_length, "kv_length": kv_length, "q_offset": 0, "kv_offset": 0}
    mask: Tensor | None = sdpa_mask(mask_function=mask_function, **{**how, **grid, "attention_mask": None})
    return mask


@contextmanager
def packing(model: Any, attend: Callable[..., Any] | None = None) -> Iterator[None]:
    """Let a model attend with `packed_attention` for a block, and as before after it.

    Args:
        model: without wrappers.
        attend: a function of the same arguments and result, in its place.

    Raises:
        NotImplementedError: its class does not take its attention from transformers' `AttentionInterface`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    name = NAME if attend is None else f"{NAME}_{attend.__name__}"
    AttentionInterface.register(name, attend or packed_attention)
    AttentionMaskInterface.register(name, row_mask)
    with attending(model, name):
        if model.config._attn_implementation != name:
            raise NotImplementedError("attention that cannot be exchanged")
        yield


@contextmanager
def attending(model: Any, implementation: str) -> Iterator[None]:
    """Let a model attend by a registered implementation for a block, if its class can, and as before after it."""
    before = model.config._attn_implementation
    if model._can_set_attn_implementation():
        model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
