"""Both terms of the head together: the gradients of whole logits, in one buffer of the matrix's size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import Float64Throughout, tiny_model
from tiny_pairs import random_rows
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from realigner.losses import forward_kl
from realigner.model import head as module
from realigner.model.head import Head, head_of, through_head
from realigner.model.head_terms import HiddenReference, head_terms
from realigner.model.logprobs import scored_logits
from realigner.model.rows import RowBatch, collate

TOKENS, HIDDEN, VOCAB = 37, 6, 50
READ, ANCHORED = torch.arange(0, 25), torch.arange(20, 36, 2)
"""Some tokens are both, some neither."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and a last one that is cut, also for these small sizes."""
    monkeypatch.setattr(module, "TILE_BYTES", {"cpu": 1})


def some(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def whole_terms(logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same two terms from whole logits: log p of the tokens that are read, and the summed KL."""
    targets = torch.arange(len(READ)) * 7 % logits.shape[1]
    return -cross_entropy(logits[READ], targets, reduction="none"), forward_kl(logits[ANCHORED], reference_logits).sum()


def tiled_terms(head: Head, hidden: Tensor, reference: HiddenReference | None) -> tuple[Tensor, Tensor]:
    targets = torch.arange(len(READ)) * 7 % len(head.weight)
    where = ANCHORED if reference is not None else ANCHORED[:0]
    return head_terms(head, hidden, read=READ, targets=targets, anchored=where, reference=reference)[:2]


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("trained", ["none", "weight", "bias", "both"])
def test_tokens_that_are_read_anchored_both_or_neither_get_the_gradients_of_whole_logits(
    cap: float | None, trained: str
) -> None:
    weight = some(VOCAB, HIDDEN, seed=1, grad=trained in ("weight", "both"))
    bias = some(VOCAB, seed=2, grad=trained in ("bias", "both"))
    head, hidden, factors = Head(weight, bias, 0.5, cap), some(TOKENS, HIDDEN, grad=True), some(len(READ), seed=5)
    old = Head(some(VOCAB, HIDDEN, seed=3), None, 0.5, cap)
    old_hidden = some(len(ANCHORED), HIDDEN, seed=4)

    def logits(of: Head, at: Tensor) -> Tensor:
        found = of.scale * (at @ of.weight.T + (0.0 if of.bias is None else of.bias))
        return found if cap is None else cap * torch.tanh(found / cap)

    fast = tiled_terms(head, hidden, HiddenReference(old, old_hidden))
    slow = whole_terms(logits(head, hidden), logits(old, old_hidden))
    by = [t for t in (hidden, weight, bias) if t.requires_grad]
    found, expected = (torch.autograd.grad((factors * x).sum() + 0.3 * kl, by) for x, kl in (fast, slow))
    for a, b in zip((*fast, *found), (*slow, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["own head", "tied to the embeddings"])
def test_gradients_of_accumulated_batches_add_up_to_those_of_whole_logits(family: str) -> None:
    """Two batches, the second without an anchor; in float64, in the parameters' own `grad`."""
    model, before = tiny_model(family, dtype=torch.float64), tiny_model(family, dtype=torch.float64, seed=1)
    batches = [collate(random_rows(6, seed=seed)) for seed in (0, 1)]
    anchors = batches[0].row_of_token == 2

    def terms(batch: RowBatch, anchored: Tensor, *, tiled: bool) -> Tensor:
        with torch.no_grad():
            if tiled:
                old_hidden = through_head(before, batch, lambda _, hidden: hidden)[anchored]
            else:
                old = scored_logits(before, batch)[anchored]
        if not tiled:
            logits = scored_logits(model, batch)
            logps = -cross_entropy(logits, batch.targets, reduction="none")
            return 0.1 * logps[~anchored].sum() + 0.3 * forward_kl(logits[anchored], old).sum()
        frozen = head_of(before)
        assert frozen is not None
        read = (~anchored).nonzero()[:, 0]

        def work(head: Head, hidden: Tensor) -> Tensor:
            logps, kl, _ = head_terms(
                head,
                hidden,
                read=read,
                targets=batch.targets[read],
                anchored=anchored.nonzero()[:, 0],
                reference=HiddenReference(frozen.detached(), old_hidden),
            )
            return torch.cat([0.1 * logps, 0.3 * kl.reshape(1)])

        return through_head(model, batch, work).sum()

    found: list[dict[str, Tensor]] = []
    for tiled in (True, False):
        model.zero_grad(set_to_none=True)
        with Float64Throughout():
            for batch, anchored in zip(batches, (anchors, torch.zeros(len(batches[1].targets)) > 0), strict=True):
                terms(batch, anchored, tiled=tiled).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == dict(model.named_parameters()).keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-8, atol=1e-10)


class OfTheMatrixSize(TorchDispatchMode):
    """Counts how many tensors of the matrix's size are alive at once beside it; a view or a result in place is none."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.size, self.weight = weight.numel(), weight.untyped_storage().data_ptr()
        self.seen: dict[int, StorageWeakRef] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            place = tensor.untyped_storage() if isinstance(tensor, Tensor) and tensor.numel() == self.size else None
            if place is not None and place.data_ptr() != self.weight:
                self.seen[place.data_ptr()] = StorageWeakRef(place)
        self.most = max(self.most, sum(not found.expired() for found in self.seen.values()))
        return result


@pytest.mark.parametrize("anchors", [True, False])
def test_a_trained_heads_gradient_is_the_only_tensor_of_the_matrixs_size(anchors: bool) -> None:
    """And it is the optimizer's: neither the KL nor autograd's sum of the two terms asks for a second one."""
    weight, hidden = some(1_000, HIDDEN, seed=1, grad=True), some(TOKENS, HIDDEN, grad=True)
    old = HiddenReference(Head(weight.detach()), some(len(ANCHORED), HIDDEN, seed=4)) if anchors else None
    with OfTheMatrixSize(weight) as seen:
        logps, kl = tiled_terms(Head(weight), hidden, old)
        (logps.sum() + 0.3 * kl).backward()
    assert seen.most == 1
    assert weight.grad is not None and list(seen.seen) == [weight.grad.untyped_storage().data_ptr()]


def test_evaluation_forms_no_gradient_of_a_head_that_trains() -> None:
    weight, hidden = some(1_000, HIDDEN, seed=1, grad=True), some(TOKENS, HIDDEN)
    old = HiddenReference(Head(weight.detach()), some(len(ANCHORED), HIDDEN, seed=4))
    with torch.no_grad(), OfTheMatrixSize(weight) as seen:
        found = tiled_terms(Head(weight), hidden, old)
    assert seen.most == 0
    for a, b in zip(found, tiled_terms(Head(weight), hidden, old), strict=True):
        assert torch.equal(a, b)


def test_a_second_backward_pass_through_one_graph_is_refused_and_never_wrong() -> None:
    """The KL's share of the head's gradient is scaled where it lies."""
    weight, hidden = some(VOCAB, HIDDEN, seed=1, grad=True), some(TOKENS, HIDDEN, grad=True)
    old = HiddenReference(Head(weight.detach()), some(len(ANCHORED), HIDDEN, seed=4))
    _, kl = tiled_terms(Head(weight), hidden, old)
    kl.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kl.backward()


def test_products_in_half_precision_are_added_to_a_float32_gradient_part_by_part() -> None:
    """Under autocast: beside the gradient there are two matrices in half precision, and no product of their size."""
    weight, hidden = some(1_000, HIDDEN, seed=1).float().requires_grad_(), some(TOKENS, HIDDEN).float().requires_grad_()
    old = HiddenReference(Head(weight.detach()), some(len(ANCHORED), HIDDEN, seed=4).float())
    with OfTheMatrixSize(weight) as seen, torch.autocast("cpu", torch.bfloat16):
        logps, kl = tiled_terms(Head(weight), hidden, old)
        (logps.sum() + 0.3 * kl).backward()
    assert seen.most == 3
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    logps, kl = tiled_terms(Head(weight), hidden, old)
    (expected,) = torch.autograd.grad(logps.sum() + 0.3 * kl, [weight])
    assert (weight.grad - expected).norm() / expected.norm() < 0.01
