"""The losses that only baselines use: closed forms, slopes at the reference, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from realigner.baselines.terms import IMITATING, TERM_LOSSES, ascent_loss, imitation_loss, npo_loss
from realigner.baselines.u2a import exponentiated
from realigner.losses import dpo_loss, dual_npo_loss
from realigner.recipe import LossSettings


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_npo_is_its_formula_and_its_slope_at_the_reference_is_one_whatever_beta(beta: float) -> None:
    ratio = torch.tensor([-1.3, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    loss = npo_loss(ratio, beta)
    expected = [2 / beta * math.log(1 + math.exp(beta * r)) for r in (-1.3, 0.0, 0.7)]
    torch.testing.assert_close(loss.detach(), torch.tensor(expected, dtype=torch.float64))
    (slope,) = torch.autograd.grad(loss.sum(), ratio)
    assert float(slope[1]) == pytest.approx(1.0)


def test_npo_becomes_gradient_ascent_as_beta_vanishes() -> None:
    ratio = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    (small,) = torch.autograd.grad(npo_loss(ratio, 1e-6).sum(), ratio)
    (ascent,) = torch.autograd.grad(ascent_loss(ratio).sum(), ratio)
    torch.testing.assert_close(small, ascent, atol=1e-5, rtol=0)


def test_imitation_is_the_negative_of_ascent() -> None:
    ratio = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(imitation_loss(ratio), -ascent_loss(ratio))


def test_the_shared_losses_read_the_preferred_response_first() -> None:
    ratios = torch.tensor([[0.4, -0.2], [-1.0, 2.0]], dtype=torch.float64)
    settings = LossSettings(beta=0.3, epsilon=0.0, ipo_tau=0.5)
    torch.testing.assert_close(TERM_LOSSES["dpo"](ratios, settings), dpo_loss(ratios[:, 0] - ratios[:, 1], 0.3))
    torch.testing.assert_close(TERM_LOSSES["robust"](ratios, settings), TERM_LOSSES["dpo"](ratios, settings))
    torch.testing.assert_close(
        TERM_LOSSES["suppress"](ratios, settings), dual_npo_loss(ratios[:, 0], ratios[:, 1], 0.3)
    )
    margin = ratios[:, 0] - ratios[:, 1]
    torch.testing.assert_close(TERM_LOSSES["ipo"](ratios, settings), (margin - 1.0) ** 2)


def test_an_imitating_preference_adds_beta_times_the_likelihood_of_the_preferred_response() -> None:
    ratios = torch.randn(4, 3, dtype=torch.float64)
    settings = LossSettings(beta=0.3, imitate=0.3)
    for name in ("dpo", "over-both", "ipo", "robust"):
        added = TERM_LOSSES[name + IMITATING](ratios, settings) - TERM_LOSSES[name](ratios, settings)
        torch.testing.assert_close(added, -0.3 * ratios[:, 0])


def test_u2a_raises_the_weight_of_answers_whose_unlearning_helps_and_keeps_the_mean_at_one() -> None:
    gains = np.array([2.0, 0.0, -2.0])
    weights = exponentiated(np.ones(3), gains)
    assert weights[0] > weights[1] > weights[2] > 0 and weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(exponentiated(weights, np.zeros(3)), weights)
