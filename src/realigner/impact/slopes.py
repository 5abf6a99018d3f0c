"""s(y) = d/dε log p_{θ+εv}(y|x) at ε = 0: three ways to compute it, and which of them a model allows.

`exact`: one forward pass in forward-mode automatic differentiation. Nothing is stored for a backward pass.
`difference`: (log p at θ+hv − log p at θ−hv) / 2h, two plain forward passes. Not exact; for float32 or wider.
`backward`: a gradient per response, times v. Slow, always there: what the others are measured against.

The first two run over packed rows with shared prompts, or over padded rows where a model's attention cannot be
exchanged. `choose` tries them on a few rows before the work begins and compares each with `backward`, so that an
operation that drops its derivative, or a layout that a model does not respect, is found out and never silent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from realigner import ranks
from realigner.errors import ModelError
from realigner.impact.sharded import exchanged
from realigner.impact.vectors import Vector, device, dot, gradients, norm, trainable
from realigner.losses.pairwise import in_fp32
from realigner.model.attention import attending, dual, packing, unpack
from realigner.model.head import Head, evaluating, head_agrees, through_head
from realigner.model.head_terms import head_logps
from realigner.model.logprobs import row_logps, scored_logits, token_logps
from realigner.model.packing import PackedBatch, bins, pack
from realigner.model.products import WithoutZeros
from realigner.model.rows import Row, RowBatch, batches_by_length, collate, total_tokens
from realigner.model.sharded import dealt, is_sharded, whole

logger = logging.getLogger(__name__)

Method = Literal["exact", "difference", "backward"]
Batch = RowBatch | PackedBatch
Call = Callable[..., Any]

PACK_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens in one pack (or padded batch) by kind of device. Results do not depend on it."""
LARGEST_CHANGE, HALVINGS = 0.4, 6
"""Steps that a central difference tries: the largest changes log p by so many nats in float32, each next by half."""
ANOTHER = 0.5
"""Relative difference of a gradient from what log p really does, above which the gradient is of something else."""
TOLERANCE, HALF_TOLERANCE = 0.01, 0.3
"""Relative difference from `backward` above which a way is not used: in float32 or wider, and in half precision,
where `backward` itself is off by several percent."""


@dataclass(frozen=True)
class Slopes:
    """A direction, and the way in which derivatives along it are computed; call it on rows.

    The result is float64 on the CPU, one number a row, independent of what else is scored, of order and packing. Inside
    `ranks.together` all processes call with the same rows, each scores whole packs of its own, and all get all results.
    """

    model: Any = field(repr=False)
    unit: Vector = field(repr=False)
    """The direction at norm 1, so that small gradients do not underflow, in the parameters' precision; without the
    parameters along which it is zero (the A matrices of a fresh adapter), which then cost nothing."""
    scale: float
    """The direction's norm."""
    method: Method = "exact"
    packed: bool = True
    tiled: bool = True
    """Whether the head works in tiles, so that no logits exist beyond one."""
    step: float = 0.0
    """h of the difference along the unit direction."""

    def __call__(self, rows: Sequence[Row], *, max_tokens: int | None = None) -> Float[Tensor, " rows"]:
        """Return s(y) of each row; equal rows are computed once."""
        if self.scale == 0.0 or not rows:
            return torch.zeros(len(rows), dtype=torch.float64)
        places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
        ways = {"exact": self._exact, "difference": self._difference, "backward": self._backward}
        with evaluating(self.model):
            found = ways[self.method](list(places), self._limit(list(places), max_tokens))
        return found[[places[row] for row in rows]] * self.scale

    def _exact(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        result = torch.zeros(len(rows), dtype=torch.float64)
        with torch.no_grad(), self._attention(), self._products():
            for indices, batch, counts in self._batches(rows, max_tokens):
                with forward_ad.dual_level(), self._on(dual) as call:
                    found = _row_sums(self._token_slopes(batch, call), batch)
                if counts:
                    result[indices] = found
        return ranks.add_up(result)

    def _token_slopes(self, batch: Batch, call: Call) -> Float[Tensor, " tokens"]:
        if not self.tiled:
            logits, tangents = unpack(scored_logits(call, batch))
            return _logp_tangents(logits, tangents, batch.targets)
        found: list[Tensor] = []

        def work(head: Head, hidden: Tensor) -> Tensor:
            found.append(head_slopes(head, hidden.flatten(0, -2), batch.targets))
            return hidden

        through_head(self.model, batch, work, call)
        return found[0]

    def _difference(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        higher, lower = (self._shifted_logps(rows, sign * self.step, max_tokens) for sign in (1.0, -1.0))
        return ranks.add_up((higher - lower) / (2.0 * self.step))

    @torch.no_grad()
    def _shifted_logps(self, rows: Sequence[Row], step: float, max_tokens: int) -> Float[Tensor, " rows"]:
        """Return log p(y|x) at θ + step·v of this process's rows; the model keeps its own parameters."""
        result = torch.zeros(len(rows), dtype=torch.float64)
        with self._attention(), self._on(lambda parameter, tangent: parameter + step * tangent) as call:
            for indices, batch, counts in self._batches(rows, max_tokens):
                found = _row_sums(self._logps(batch, call), batch)
                if counts:
                    result[indices] = found
        return result

    def _logps(self, batch: Batch, call: Call) -> Float[Tensor, " tokens"]:
        if not self.tiled:
            return token_logps(scored_logits(call, batch), batch)
        found: list[Tensor] = []

        def work(head: Head, hidden: Tensor) -> Tensor:
            found.append(head_logps(head, hidden.flatten(0, -2), batch.targets))
            return hidden

        through_head(self.model, batch, work, call)
        return found[0]

    def _backward(self, rows: Sequence[Row], max_tokens: int) -> Tensor:  # noqa: ARG002 - one row at a time
        # Backward passes of a sharded model add up over processes: all take the same rows.
        sharded = is_sharded(self.model)
        result = torch.zeros(len(rows), dtype=torch.float64)
        for i in range(len(rows)) if sharded else ranks.share(range(len(rows))):
            logp = row_logps(self.model, collate([rows[i]]).to(device(self.model))).sum()
            result[i] = dot(self.unit, gradients(logp, self.model))
        return result if sharded else ranks.add_up(result)

    def _limit(self, rows: Sequence[Row], max_tokens: int | None) -> int:
        """Return the tokens of a batch: no more than leaves every process something to do."""
        limit = max_tokens or PACK_TOKENS.get(device(self.model).type, PACK_TOKENS["cpu"])
        return min(limit, -(-total_tokens(rows) // ranks.shares())) if ranks.shares() > 1 else limit

    def _batches(self, rows: Sequence[Row], max_tokens: int) -> Iterator[tuple[list[int], Batch, bool]]:
        """Yield this process's batches as indices of rows, rows laid out, and whether the result counts."""
        packs = bins(rows, max_tokens) if self.packed else list(batches_by_length(rows, max_tokens))
        for indices, counts in dealt(packs, self.model):
            chosen = [rows[i] for i in indices]
            yield indices, (pack(chosen) if self.packed else collate(chosen)).to(device(self.model)), counts

    @contextmanager
    def _on(self, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Call]:
        """Run the model on change(parameter, direction) in place of its parameters, which stay what they are."""
        if is_sharded(self.model):
            with exchanged(self.model, self.unit, change):
                yield self.model
            return
        parameters = trainable(self.model)
        changed = {n: change(parameters[n].detach(), tangent) for n, tangent in self.unit.items()}

        def call(**inputs: Any) -> Any:
            return torch.func.functional_call(self.model, changed, (), inputs)

        yield call

    def _products(self) -> AbstractContextManager[Any]:
        # Where every parameter has a tangent there are no products with zero to leave out.
        return WithoutZeros() if len(self.unit) < len(list(self.model.parameters())) else nullcontext()

    def _attention(self) -> AbstractContextManager[None]:
        if self.packed:
            return packing(self.model)
        # Fused attention has no forward-mode rule; where plain attention cannot be had, the model has its own.
        return attending(self.model, "eager") if self.method == "exact" else nullcontext()


def _row_sums(per_token: Float[Tensor, " tokens"], batch: Batch) -> Float[Tensor, " rows"]:
    """Add up in float64, where the difference of two sums does not round."""
    total = torch.zeros(batch.rows, dtype=torch.float64)
    return total.index_add(0, batch.row_of_token.cpu(), per_token.cpu().double())


def slopes_along(model: Any, direction: Mapping[str, Tensor], **how: Any) -> Slopes:
    """Return the exact derivatives along a direction over the trainable parameters; see `Slopes` for `how`."""
    size = norm(direction)
    unit = {
        n: (direction[n] / (size or 1.0)).to(p.dtype)
        for n, p in trainable(model).items()
        if bool(whole(direction[n].any()))
    }
    return Slopes(model, unit, size, **{"tiled": head_agrees(model), **how})


def head_slopes(
    head: Head, hidden: Float[Tensor, "tokens hidden"], targets: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Return the tangent of log p(target) of each token, in at least fp32, without logits for more than a tile.

    Inside a dual level; hidden states, matrix and bias may each carry a tangent.
    """
    (h, dh), (w, dw) = unpack(hidden), unpack(head.weight)
    b, db = (None, None) if head.bias is None else unpack(head.bias)
    plain = Head(w, b, head.scale, head.softcap)
    result = torch.zeros(len(targets), dtype=torch.promote_types(h.dtype, torch.float32), device=h.device)
    for at in plain.tiles(len(targets), parts=3):
        logits = plain.finish_(plain.raw(h[at]))
        tangents = torch.zeros_like(logits) if dh is None else plain.raw_slope(dh[at])
        if dw is not None:
            tangents += in_fp32(h[at] @ dw.mT)
        if db is not None:
            tangents += in_fp32(db)
        result[at] = _logp_tangents(logits, plain.chain_(tangents, logits), targets[at])
    return result


def _logp_tangents(logits: Tensor, tangents: Tensor | None, targets: Tensor) -> Tensor:
    """Return d log softmax(z)[target] = dz[target] − Σ softmax(z) dz for each token; zero where there is no tangent."""
    if tangents is None:
        return torch.zeros(len(targets), device=logits.device)
    tangents = in_fp32(tangents)
    mean = (in_fp32(logits).softmax(dim=-1).mul_(tangents)).sum(dim=-1)
    return tangents.gather(1, targets.unsqueeze(1)).squeeze(1) - mean


# -- which way -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The way that is used, its error, and what was tried before it."""

    slopes: Slopes
    relative_error: float
    """‖s − s_backward‖ / ‖s_backward‖ over the probe rows."""
    probe: int
    """Number of rows it was measured on."""
    halving_error: float | None = None
    """For a difference: the relative change when the step is halved."""
    refused: tuple[str, ...] = ()
    """What was tried first and could not be used, with the reason."""

    def facts(self) -> dict[str, Any]:
        """Return plain data for the run's manifest."""
        found = self.slopes
        layout = "one row at a time" if found.method == "backward" else "packed" if found.packed else "padded"
        facts = {"method": found.method, "layout": layout, "relative_error": self.relative_error, "rows": self.probe}
        if found.method == "difference":
            facts |= {"step": found.step, "halving_error": self.halving_error}
        return facts | {"refused": list(self.refused)}

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of a fallback; empty where the first way was used."""
        if not self.refused:
            return []
        found = self.facts()
        way = f"{found['method']} ({found['layout']})"
        error = f"relative error {self.relative_error:.1g} on {self.probe} responses"
        return [f"impact scores come from the fallback {way}, {error}. Not used: {'; '.join(self.refused)}."]


def choose(
    model: Any,
    direction: Mapping[str, Tensor],
    probe: Sequence[Row],
    method: Literal["auto", "exact", "difference"],
) -> Chosen:
    """Return the first way that works for a model, measured on `probe`: by every process, so that all agree.

    `auto`: exact on packed rows, exact on padded rows, the difference on either, then backward. `exact` and
    `difference` stay with their kind.

    Raises:
        ModelError: none of what `method` allows works, a difference is asked for in half precision, or the model's
            gradient is not that of its log-probabilities.
    """
    base = slopes_along(model, direction)
    wide = all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())
    if not wide:
        refuse_half_precision(method, next(model.parameters()).dtype)
    with ranks.apart():
        truth = replace(base, method="backward")(probe)
        if wide:
            _refuse_dropped_gradients(base, probe, truth)
    names: list[Method] = ["exact", "difference"] if method == "auto" else [method]
    refused: list[str] = []
    for name in names:
        if name == "difference" and not wide:
            refused.append("difference: the model is in half precision")
            continue
        for packed in (True, False):
            label = f"{name} on {'packed' if packed else 'padded'} rows"
            try:
                with ranks.apart():
                    found = _measured(replace(base, method=name, packed=packed), probe, truth)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what models say of what they cannot do
                refused.append(f"{label}: {str(error).strip().splitlines()[0][:160]}")
                continue
            if found.relative_error <= (TOLERANCE if wide else HALF_TOLERANCE):
                return _said(replace(found, slopes=_agreed(found.slopes), refused=tuple(refused)))
            refused.append(f"{label}: relative error {found.relative_error:.2g}")
    if method == "auto":
        return _said(Chosen(replace(base, method="backward"), 0.0, len(probe), refused=tuple(refused)))
    raise ModelError(
        f"impact.method = {method} for a {model.config.model_type} model ({'; '.join(refused)})",
        "it does not give the derivatives that a gradient per response gives",
        "Use impact.method: auto, which falls back to what works",
    )


def refuse_half_precision(method: str, dtype: torch.dtype) -> None:
    """Refuse a difference of log-probabilities that rounding would swallow.

    Raises:
        ModelError: `difference` for a model that computes in less than float32.
    """
    if method == "difference" and torch.finfo(dtype).bits < 32:
        raise ModelError(
            f"impact.method = difference for a model in {str(dtype).removeprefix('torch.')}",
            "a difference of log-probabilities is lost in the rounding of half precision",
            "Use impact.method: auto, or model.dtype: float32",
        )


def _refuse_dropped_gradients(base: Slopes, probe: Sequence[Row], truth: Tensor) -> None:
    """Compare the gradient with what log p does: layers made for inference may compute and not differentiate."""
    size = float((truth / base.scale).square().mean().sqrt())
    if size == 0.0:
        return
    error = math.inf
    for smaller in (8, 32, 128, 512):  # along a small gradient in a curved model, the first may leave the tangent
        step = _first_step(base, size) / smaller
        moved = replace(base, method="difference", packed=False, step=step)(probe)
        error = min(error, found := _relative(moved, truth))
        if not found > ANOTHER:  # nor NaN, which scoring itself refuses by name
            return
    raise ModelError(
        f"a {base.model.config.model_type} model whose log-probabilities move otherwise than its gradient says "
        f"(relative difference {error:.2g} on {len(probe)} responses)",
        "an operation drops its gradient, and what is trained or scored by it would be wrong",
        "Load the model without layers made for inference (quantised ones on a CPU are), or as float32",
    )


def _first_step(slopes: Slopes, size: float) -> float:
    """Return the step that changes log p by `LARGEST_CHANGE` nats on average; a smaller one in wider precision."""
    precision = max(torch.finfo(p.dtype).eps for p in trainable(slopes.model).values())
    return float(LARGEST_CHANGE * (precision / torch.finfo(torch.float32).eps) ** (1 / 3) / max(size, 1e-30))


def _agreed(slopes: Slopes) -> Slopes:
    """Return the slopes with one step for all processes, whatever rounding did to it in each."""
    step = ranks.add_up(torch.tensor([slopes.step], dtype=torch.float64)) / ranks.shares()
    return replace(slopes, step=float(step))


def _measured(slopes: Slopes, probe: Sequence[Row], truth: Tensor) -> Chosen:
    halving = None
    if slopes.method == "difference":
        slopes, halving = with_step(slopes, probe, float((truth / slopes.scale).square().mean().sqrt()))
    return Chosen(slopes, _relative(slopes(probe), truth), len(probe), halving)


def with_step(slopes: Slopes, probe: Sequence[Row], size: float) -> tuple[Slopes, float]:
    """Return the slopes with the step at which a difference changes least when the step is halved, and that change.

    Args:
        slopes: of method `difference`.
        probe: the rows to try on.
        size: root mean square of their slopes along the unit direction.
    """
    tried = [replace(slopes, step=_first_step(slopes, size) / 2**k) for k in range(HALVINGS + 1)]
    values = [way(probe) for way in tried]
    changes = [_relative(a, b) for a, b in pairwise(values)]
    best = min(range(HALVINGS), key=lambda k: changes[k])
    return tried[best], changes[best]


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def _said(chosen: Chosen) -> Chosen:
    for warning in chosen.warnings:
        logger.warning("%s", warning)
    return chosen
