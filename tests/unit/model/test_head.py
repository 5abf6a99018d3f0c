"""The head in tiles: equal to losses on whole logits, with their gradients, and without their memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, Float64Throughout, tiny_model
from tiny_pairs import random_rows
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from realigner.losses import forward_kl
from realigner.model import head as module
from realigner.model.head import Head, head_agrees, through_head
from realigner.model.head_terms import HiddenReference, TopReference, head_kl, head_logps
from realigner.model.logprobs import scored_logits, token_logps
from realigner.model.rows import collate

TOKENS, HIDDEN, VOCAB = 37, 6, 50
EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and a last one that is cut, also for these small sizes."""
    monkeypatch.setattr(module, "TILE_BYTES", {"cpu": 1})


def some(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def a_head(
    seed: int = 1, *, trains: bool = True, bias: bool = True, scale: float = 1.0, cap: float | None = None
) -> Head:
    return Head(
        some(VOCAB, HIDDEN, seed=seed, grad=trains),
        some(VOCAB, seed=seed + 50, grad=trains) if bias else None,
        scale,
        cap,
    )


def slow_logits(head: Head, hidden: Tensor) -> Tensor:
    """The head written down once more, out of place."""
    logits = head.scale * (hidden @ head.weight.T + (0.0 if head.bias is None else head.bias))
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def gradients(value: Tensor, *by: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(value, [t for t in by if t is not None and t.requires_grad]))


heads = pytest.mark.parametrize(
    "settings",
    [
        {"trains": False, "bias": False},
        {"trains": False},
        {},
        {"bias": False},
        {"scale": 0.25, "cap": 3.0},
        {"scale": 0.25, "cap": 3.0, "trains": False},
    ],
    ids=["frozen", "frozen-bias", "trained-bias", "trained", "trained-capped", "frozen-capped"],
)


@heads
def test_log_probs_and_their_gradients_equal_those_of_whole_logits(settings: dict[str, Any]) -> None:
    head, hidden = a_head(**settings), some(TOKENS, HIDDEN, grad=True)
    targets = torch.arange(TOKENS) * 7 % VOCAB
    upstream = some(TOKENS, seed=9)
    fast = head_logps(head, hidden, targets)
    slow = -cross_entropy(slow_logits(head, hidden), targets, reduction="none")
    torch.testing.assert_close(fast, slow, **EXACT)
    by = (hidden, head.weight, head.bias)
    for a, b in zip(gradients((upstream * fast).sum(), *by), gradients((upstream * slow).sum(), *by), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@heads
def test_kl_and_its_gradients_equal_those_of_whole_logits(settings: dict[str, Any]) -> None:
    head, hidden = a_head(**settings), some(TOKENS, HIDDEN, grad=True)
    old = HiddenReference(a_head(3, **{**settings, "trains": False}), some(TOKENS, HIDDEN, seed=4))
    total, each = head_kl(head, hidden, old)
    slow = forward_kl(slow_logits(head, hidden), slow_logits(old.head, old.hidden))
    torch.testing.assert_close(each, slow.detach(), **EXACT)
    torch.testing.assert_close(total, slow.sum(), **EXACT)
    by = (hidden, head.weight, head.bias)
    for a, b in zip(gradients(0.3 * total, *by), gradients(0.3 * slow.sum(), *by), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_the_kl_of_a_model_from_itself_is_zero_with_zero_gradient() -> None:
    head, hidden = a_head(trains=False), some(TOKENS, HIDDEN, grad=True)
    total, each = head_kl(head, hidden, HiddenReference(head, hidden.detach()))
    assert float(each.abs().max()) < 1e-15
    assert float(gradients(total, hidden)[0].abs().max()) < 1e-15


def bucketed(logits: Tensor, ids: Tensor, logps: Tensor) -> Tensor:
    """The bucketed KL, token by token, by autograd."""
    total = logits.new_zeros(())
    for i in range(len(logits)):
        policy = torch.log_softmax(logits[i], dim=0)
        rest = [v for v in range(logits.shape[1]) if v not in ids[i].tolist()]
        q_rest, p_rest = policy[rest].exp().sum(), 1 - logps[i].exp().sum()
        total = total + (logps[i].exp() * (logps[i] - policy[ids[i]])).sum() + p_rest * (p_rest / q_rest).log()
    return total


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_top_k_kl_and_its_gradient_equal_the_bucketed_formula(cap: float | None) -> None:
    head, hidden = a_head(cap=cap), some(TOKENS, HIDDEN, grad=True)
    logps, ids = torch.log_softmax(slow_logits(a_head(3), some(TOKENS, HIDDEN, seed=4)), dim=1).detach().topk(5)
    total, _ = head_kl(head, hidden, TopReference(ids, logps))
    slow = bucketed(slow_logits(head, hidden), ids, logps)
    torch.testing.assert_close(total, slow, **EXACT)
    by = (hidden, head.weight, head.bias)
    for a, b in zip(gradients(total, *by), gradients(slow, *by), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_top_k_kl_is_a_lower_bound_that_reaches_the_kl_as_k_grows() -> None:
    head, hidden = a_head(trains=False), some(TOKENS, HIDDEN)
    old = HiddenReference(a_head(3, trains=False), some(TOKENS, HIDDEN, seed=4))
    _, exact = head_kl(head, hidden, old)
    every = torch.log_softmax(slow_logits(old.head, old.hidden), dim=1)
    found = []
    for k in (1, 5, 20, VOCAB - 1):
        logps, ids = every.topk(k)
        found.append(head_kl(head, hidden, TopReference(ids, logps))[1])
    assert all((a <= b + 1e-12).all() for a, b in zip(found, [*found[1:], exact], strict=True))
    torch.testing.assert_close(found[-1], exact, rtol=1e-9, atol=1e-10)


def test_half_precision_is_accumulated_in_float32() -> None:
    head = Head(some(VOCAB, HIDDEN, seed=1).bfloat16())
    hidden, targets = some(TOKENS, HIDDEN).bfloat16().requires_grad_(), torch.arange(TOKENS) % VOCAB
    logps = head_logps(head, hidden, targets)
    logits = torch.nn.functional.linear(hidden, head.weight).float()
    torch.testing.assert_close(logps, -cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-5)
    assert logps.dtype == torch.float32
    assert gradients(logps.sum(), hidden)[0].dtype == torch.bfloat16


def test_a_batch_without_scored_tokens_has_no_kl_and_no_gradient() -> None:
    head, hidden = a_head(), some(0, HIDDEN, grad=True)
    total, each = head_kl(head, hidden, HiddenReference(a_head(3), some(0, HIDDEN)))
    assert float(total.detach()) == 0.0 and len(each) == 0
    assert float(gradients(total, head.weight)[0].abs().sum()) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_own_logits_are_what_the_head_computes(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    batch = collate(random_rows(4))
    assert head_agrees(model)
    with Float64Throughout():
        slow = token_logps(scored_logits(model, batch), batch)
        fast = through_head(model, batch, lambda head, hidden: head_logps(head, hidden, batch.targets))
    torch.testing.assert_close(fast, slow, **EXACT)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(fast.sum(), parameters, retain_graph=True),
        torch.autograd.grad(slow.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was_found_even_after_an_error() -> None:
    model, batch = tiny_model("gemma2"), collate(random_rows(2))
    before = scored_logits(model, batch)

    def fails(head: Head, hidden: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        through_head(model, batch, fails)
    assert model.config.final_logit_softcapping == 5.0
    torch.testing.assert_close(scored_logits(model, batch), before, rtol=0, atol=0)


def test_a_model_that_does_more_to_its_logits_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    forward = type(model).forward

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = forward(self, *args, **kwargs)
        outputs.logits = outputs.logits + torch.arange(outputs.logits.shape[-1])
        return outputs

    assert head_agrees(model)
    monkeypatch.setattr(type(model), "forward", doubled)
    assert not head_agrees(model)


def test_a_head_that_is_no_plain_linear_layer_is_left_to_the_model() -> None:
    model = tiny_model("llama")
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    assert not head_agrees(model)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, forward and backward."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and "view" not in str(func):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
def test_no_tensor_is_as_large_as_the_logits_whatever_the_vocabulary(trains: bool) -> None:
    """Fails if anybody materialises logits: tokens × vocabulary must never exist, forward or backward."""
    tokens, hidden_size, vocabulary = 512, 4, 20_000
    head = Head(some(vocabulary, hidden_size, grad=trains))
    hidden, targets = some(tokens, hidden_size, grad=True), torch.arange(tokens)
    old = HiddenReference(Head(head.weight.detach()), hidden.detach())
    with Largest() as largest:
        (head_logps(head, hidden, targets).sum() + head_kl(head, hidden, old)[0]).backward()
    assert largest.numel == module.SMALLEST_TILE * vocabulary
    with Largest() as whole:
        cross_entropy(slow_logits(head, hidden), targets, reduction="sum").backward()
    assert whole.numel == tokens * vocabulary
