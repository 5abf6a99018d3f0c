"""Each loss by worked numbers, closed forms, its gradient, and the facts its paper states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.naive_losses import PREFERRED, naive_kl, naive_loss
from torch import Tensor

from realigner.impact import coefficients
from realigner.losses import (
    PairRatios,
    dpo_loss,
    dual_npo_loss,
    forward_kl,
    ipo_loss,
    over_both_loss,
    pair_losses,
    robust_dpo_loss,
)
from realigner.recipe import LossSettings
from realigner.records import Direction

QUICK = settings(deadline=None, max_examples=60, derandomize=True)
ratios = st.floats(-30, 30)
betas = st.floats(0.01, 2)
CONFLICTS = (
    Direction.REJECTED_OVER_CHOSEN,
    Direction.CORRECTION_OVER_CHOSEN,
    Direction.CORRECTION_OVER_BOTH,
    Direction.SUPPRESS_BOTH,
)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# -- worked numbers -------------------------------------------------------------------------------------------------


def test_dpo_by_a_worked_number() -> None:
    # β Δ = 0.3 · 2 = 0.6; −log σ(0.6) = log(1 + e^−0.6) = 0.4374879504...
    assert dpo_loss(number(2.0), 0.3).item() == pytest.approx(0.437487950485, abs=1e-12)


def test_ipo_by_a_worked_number() -> None:
    # Δ = 2, τ = 0.3: (2 − 1/0.6)² = (1/3)²
    assert ipo_loss(number(2.0), 0.3).item() == pytest.approx(1 / 9, abs=1e-12)


def test_robust_dpo_by_a_worked_number() -> None:
    # ε = 0.1, β Δ = 0.6: (0.9 · 0.437487950 − 0.1 · 1.037487950) / 0.8
    assert robust_dpo_loss(number(2.0), 0.3, 0.1).item() == pytest.approx(0.3624879504857, abs=1e-10)


def test_a_correction_over_both_by_a_worked_number() -> None:
    # β = 0.3, r = (1, −1, 3): Δ = (2, −2); (log(1 + e^−0.6) + log(1 + e^0.6)) / 2 = (0.437487950 + 1.037487950) / 2
    found = over_both_loss(number(1.0), number(-1.0), number(3.0), 0.3)
    assert found.item() == pytest.approx(0.737487950485, abs=1e-10)


def test_dual_npo_by_a_worked_number() -> None:
    # β = 0.5, r = (1, −2): log(1 + e^0.5) + log(1 + e^−1) = 0.974076984 + 0.313261688
    assert dual_npo_loss(number(1.0), number(-2.0), 0.5).item() == pytest.approx(1.287338671756, abs=1e-10)


def test_forward_kl_by_a_worked_number() -> None:
    reference, policy = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    # 0.5 log(0.5/0.25) + 0.5 log(0.5/0.75) = 0.143841036...
    assert forward_kl(policy.log(), reference.log()).item() == pytest.approx(0.1438410362, abs=1e-6)


# -- closed forms ---------------------------------------------------------------------------------------------------


@QUICK
@given(ratios, betas)
def test_dpo_is_the_softplus_of_minus_beta_delta_and_swapping_adds_beta_delta(delta: float, beta: float) -> None:
    value = dpo_loss(number(delta), beta).item()
    assert value == pytest.approx(math.log1p(math.exp(-beta * delta)), rel=1e-9)
    assert dpo_loss(number(-delta), beta).item() - value == pytest.approx(beta * delta, abs=1e-9)


def test_dpo_stays_finite_where_a_naive_sigmoid_would_not() -> None:
    losses = dpo_loss(torch.tensor([-1e6, -1e4, 1e4, 1e6]), 0.3)
    torch.testing.assert_close(losses, torch.tensor([3e5, 3e3, 0.0, 0.0]))


def test_at_the_reference_every_dpo_form_is_log_two_and_dual_npo_twice_that() -> None:
    zero = number(0.0)
    assert dpo_loss(zero, 0.3).item() == pytest.approx(math.log(2))
    assert robust_dpo_loss(zero, 0.3, 0.2).item() == pytest.approx(math.log(2))
    assert dual_npo_loss(zero, zero, 0.3).item() == pytest.approx(2 * math.log(2))


@QUICK
@given(ratios, betas)
def test_robust_without_noise_is_dpo(delta: float, beta: float) -> None:
    assert robust_dpo_loss(number(delta), beta, 0.0).item() == dpo_loss(number(delta), beta).item()


@QUICK
@given(ratios, betas, st.floats(0.01, 0.45))
def test_robust_is_unbiased_for_the_loss_without_noise(delta: float, beta: float, epsilon: float) -> None:
    kept, flipped = robust_dpo_loss(number(delta), beta, epsilon), robust_dpo_loss(number(-delta), beta, epsilon)
    expectation = ((1 - epsilon) * kept + epsilon * flipped).item()
    assert expectation == pytest.approx(dpo_loss(number(delta), beta).item(), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("tau", [0.05, 0.3, 2.0])
def test_ipo_has_its_minimum_zero_at_one_over_two_tau(tau: float) -> None:
    best = 1 / (2 * tau)
    assert ipo_loss(number(best), tau).item() == pytest.approx(0.0, abs=1e-24)
    delta = number(best).requires_grad_()
    ipo_loss(delta, tau).backward()
    assert delta.grad == 0
    assert ipo_loss(number(best + 0.5), tau).item() == pytest.approx(0.25)
    assert ipo_loss(number(best - 0.5), tau).item() == pytest.approx(0.25)


@QUICK
@given(ratios, ratios, betas)
def test_dual_npo_is_a_sum_of_two_suppressions_without_a_factor_two_over_beta(
    chosen: float, rejected: float, beta: float
) -> None:
    value = dual_npo_loss(number(chosen), number(rejected), beta).item()
    assert value == pytest.approx(sum(math.log1p(math.exp(beta * r)) for r in (chosen, rejected)), rel=1e-9)


def test_dual_npo_falls_as_either_response_becomes_less_likely() -> None:
    here = dual_npo_loss(number(0.0), number(0.0), 0.3)
    assert dual_npo_loss(number(-1.0), number(0.0), 0.3) < here
    assert dual_npo_loss(number(0.0), number(-1.0), 0.3) < here


# -- gradients ------------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "dpo": (lambda d: dpo_loss(d, 0.3), 1),
    "ipo": (lambda d: ipo_loss(d, 0.3), 1),
    "robust": (lambda d: robust_dpo_loss(d, 0.3, 0.2), 1),
    "dual_npo": (lambda a, b: dual_npo_loss(a, b, 0.3), 2),
    "forward_kl": (lambda a, b: forward_kl(a.view(1, -1), b.detach().view(1, -1)), 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form: str) -> None:
    function, arguments = FORMS[form]
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(arguments)]
    values[0].requires_grad_()
    assert torch.autograd.gradcheck(function, tuple(values))


@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (lambda d: dpo_loss(d, 0.4), -0.2),
        (lambda d: robust_dpo_loss(d, 0.4, 0.25), -0.2 / 0.5),
        (lambda d: ipo_loss(d, 0.4), -1 / 0.4),
        (lambda d: dual_npo_loss(d, d, 0.4), 2 * 0.2),
    ],
    ids=["dpo", "robust", "ipo", "dual_npo"],
)
def test_slopes_at_the_reference_are_those_the_impact_weights_use(
    loss: Callable[[Tensor], Tensor], slope: float
) -> None:
    zero = number(0.0).requires_grad_()
    loss(zero).backward()
    assert zero.grad is not None
    assert zero.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize("direction", CONFLICTS)
def test_imitation_raises_the_preferred_response_for_impact_weights_too(direction: Direction) -> None:
    plain, more = (coefficients(direction, LossSettings(beta=0.4, imitate=imitate)) for imitate in (0.0, 0.3))
    assert {name: more[name] - c for name, c in plain.items() if more[name] != c} == (
        {PREFERRED[direction]: pytest.approx(-0.3)} if direction in PREFERRED else {}
    )


# -- forward KL -----------------------------------------------------------------------------------------------------

logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5)


@QUICK
@given(logits, logits)
def test_kl_is_that_of_the_reference_from_the_policy_and_never_negative(policy: list[float], ref: list[float]) -> None:
    p, q = (torch.tensor(x, dtype=torch.float64).softmax(-1).tolist() for x in (ref, policy))
    found = forward_kl(*(torch.tensor([x], dtype=torch.float64) for x in (policy, ref))).item()
    assert found == pytest.approx(naive_kl(p, q), abs=1e-9)
    assert found >= -1e-12


@QUICK
@given(logits, st.floats(-5, 5))
def test_kl_is_zero_for_equal_distributions_whatever_is_added_to_the_logits(values: list[float], shift: float) -> None:
    here = torch.tensor([values], dtype=torch.float64)
    assert forward_kl(here + shift, here).item() == pytest.approx(0.0, abs=1e-12)


def test_kl_has_zero_gradient_at_the_reference() -> None:
    policy = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    forward_kl(policy, policy.detach()).sum().backward()
    assert policy.grad is not None
    assert policy.grad.abs().max() < 1e-15


def test_kl_has_a_direction_forward_punishes_a_policy_that_drops_what_the_reference_does() -> None:
    broad = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    narrow = torch.tensor([[0.0, -20.0]], dtype=torch.float64)
    drops_half = forward_kl(policy_logits=narrow, reference_logits=broad).item()
    invents_half = forward_kl(policy_logits=broad, reference_logits=narrow).item()
    assert drops_half == pytest.approx(10 - math.log(2), abs=1e-3)
    assert invents_half == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kl_of_half_precision_logits_accumulates_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = ((3 * torch.randn(4, 5000, generator=generator)).to(dtype) for _ in range(2))
    found = forward_kl(policy, reference)
    exact = forward_kl(policy.double(), reference.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    assert forward_kl(policy.double(), reference.double()).dtype == torch.float64


# -- pairs of mixed treatment ---------------------------------------------------------------------------------------

SETTINGS = [
    LossSettings(),
    LossSettings(invert="ipo", ipo_tau=0.1),
    LossSettings(invert="robust", epsilon=0.2),
    LossSettings(imitate=0.7),
    LossSettings(invert="ipo", imitate=0.2),
]


def batch_of(directions: list[Direction]) -> PairRatios:
    generator = torch.Generator().manual_seed(len(directions))
    return PairRatios(*torch.randn(3, len(directions), generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("given_settings", SETTINGS, ids=lambda s: f"{s.invert}-{s.imitate}")
def test_a_mixed_batch_equals_one_pair_at_a_time_and_the_formulas(given_settings: LossSettings) -> None:
    directions = [*CONFLICTS, Direction.RETAIN, Direction.NONE] * 3
    directions = directions[2:] + directions[:2]
    batch = batch_of(directions)
    found = pair_losses(batch, directions, given_settings)
    for i, direction in enumerate(directions):
        one = PairRatios(batch.chosen[i : i + 1], batch.rejected[i : i + 1], batch.correction[i : i + 1])
        assert torch.equal(pair_losses(one, [direction], given_settings), found[i : i + 1])
        if direction in CONFLICTS:
            parts = {"chosen": batch.chosen[i], "rejected": batch.rejected[i], "correction": batch.correction[i]}
            assert found[i].item() == pytest.approx(naive_loss(parts, direction, given_settings).item(), rel=1e-12)
        else:
            assert found[i] == 0


@pytest.mark.parametrize(
    ("direction", "unread"),
    [
        (Direction.REJECTED_OVER_CHOSEN, "correction"),
        (Direction.CORRECTION_OVER_CHOSEN, "rejected"),
        (Direction.SUPPRESS_BOTH, "correction"),
        (Direction.RETAIN, "chosen"),
    ],
)
def test_what_a_direction_does_not_read_may_be_anything(direction: Direction, unread: str) -> None:
    parts: dict[str, Any] = {n: torch.randn(1, requires_grad=True) for n in ("chosen", "rejected", "correction")}
    parts[unread] = torch.tensor([math.nan], requires_grad=True)
    loss = pair_losses(PairRatios(**parts), [direction], LossSettings())
    assert loss.isfinite().all()
    if loss.requires_grad:
        read = [p for n, p in parts.items() if n != unread]
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss.sum(), read))


@pytest.mark.parametrize("direction", CONFLICTS)
def test_a_gradient_step_moves_each_response_the_way_its_direction_says(direction: Direction) -> None:
    wanted = {
        Direction.REJECTED_OVER_CHOSEN: {"rejected": 1, "chosen": -1},
        Direction.CORRECTION_OVER_CHOSEN: {"correction": 1, "chosen": -1},
        Direction.CORRECTION_OVER_BOTH: {"correction": 1, "chosen": -1, "rejected": -1},
        Direction.SUPPRESS_BOTH: {"chosen": -1, "rejected": -1},
    }[direction]
    parts = {n: torch.zeros(1, requires_grad=True) for n in ("chosen", "rejected", "correction")}
    pair_losses(PairRatios(**parts), [direction], LossSettings()).sum().backward()
    moves = {name: -float(p.grad.sign()) for name, p in parts.items() if p.grad is not None and p.grad != 0}
    assert moves == wanted
