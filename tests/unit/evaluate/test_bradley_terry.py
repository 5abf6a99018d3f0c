"""Strengths of several systems: worked numbers, invariants, what has no estimate, coverage."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from realigner.evaluate.bradley_terry import Game, bradley_terry


def games(**won: tuple[int, int]) -> list[Game]:
    """`ab=(3, 1)`: a beat b three times and lost once, each on a prompt of its own."""
    return [
        Game(pair[0], pair[1], float(k < wins), f"{pair}{k}")
        for pair, (wins, losses) in won.items()
        for k in range(wins + losses)
    ]


def test_two_systems_have_the_log_odds_of_their_win_rate() -> None:
    found, why = bradley_terry(games(ab=(30, 10)), seed=0, resamples=50)
    assert why == ""
    assert found["a"]["value"] - found["b"]["value"] == pytest.approx(math.log(3), abs=1e-6)
    assert found["a"]["value"] == pytest.approx(-found["b"]["value"])
    assert list(found) == ["a", "b"], "the strongest first"


def test_three_systems_have_the_strengths_of_maximum_likelihood() -> None:
    """At the maximum each system's wins are what its strengths expect (the likelihood equations of Zermelo 1929)."""
    played = {"ab": (30, 10), "ac": (25, 15), "bc": (12, 28)}
    found, _ = bradley_terry(games(**played), seed=0, resamples=0)
    for name in "abc":
        wins = sum(won[pair.index(name)] for pair, won in played.items() if name in pair)
        expected = 0.0
        for pair, won in played.items():
            if name in pair:
                other = pair.replace(name, "")
                expected += sum(won) / (1 + math.exp(found[other]["value"] - found[name]["value"]))
        assert expected == pytest.approx(wins, abs=1e-5)
    assert sum(figure["value"] for figure in found.values()) == pytest.approx(0)


def test_a_tie_is_half_a_win_for_each() -> None:
    ties = [Game("a", "b", 0.5, k) for k in range(20)]
    found, _ = bradley_terry([*games(ab=(10, 10)), *ties], seed=0, resamples=0)
    assert found["a"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_order_in_which_a_game_names_its_systems_does_not_count() -> None:
    played = games(ab=(30, 10), ac=(25, 15), bc=(12, 28))
    turned = [Game(g.b, g.a, 1 - g.score, g.cluster) if k % 2 else g for k, g in enumerate(played)]
    one, two = bradley_terry(played, 0, resamples=0)[0], bradley_terry(turned, 0, resamples=0)[0]
    assert {name: f["value"] for name, f in one.items()} == pytest.approx({n: f["value"] for n, f in two.items()})


@pytest.mark.parametrize(
    "won", [{"ab": (9, 0)}, {"ab": (5, 4), "ac": (9, 0), "bc": (9, 0)}, {"ab": (1, 1), "cd": (1, 1)}]
)
def test_a_system_that_never_lost_or_never_met_the_others_has_no_finite_strength(
    won: dict[str, tuple[int, int]],
) -> None:
    assert bradley_terry(games(**won), seed=0) == (
        {},
        "a system has won, or lost, every comparison with the others, so strengths have no finite estimate",
    )


def test_an_interval_is_unbounded_where_too_many_resamples_have_no_estimate() -> None:
    found, _ = bradley_terry(games(ab=(9, 1)), seed=0, resamples=60)
    assert (found["a"]["low"], found["a"]["high"]) == (-math.inf, math.inf)


def test_the_bootstrap_over_prompts_covers_the_true_strengths() -> None:
    """40 draws of 40 prompts with 40 resamples, which cover some 92 %: 0.8 is three standard errors below."""
    true = {"a": 0.6, "b": 0.0, "c": -0.6}
    rng = np.random.default_rng(1)
    covered = 0
    for draw in range(40):
        played = [
            Game(x, y, float(rng.random() < 1 / (1 + math.exp(true[y] - true[x]))), prompt)
            for prompt in range(40)
            for x, y in combinations(true, 2)
        ]
        figure = bradley_terry(played, seed=draw, resamples=40)[0]["a"]
        covered += figure["low"] <= true["a"] <= figure["high"]
    assert covered / 40 >= 0.8
