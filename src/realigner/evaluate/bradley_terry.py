"""Bradley–Terry strengths of several systems: P(i beats j) = σ(s_i − s_j), a tie half a win for each.

Strengths are in logits and sum to 0. They exist where every system has won from, and lost to, the others through some
chain (Ford 1957); otherwise some are infinite, and none is reported.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from realigner.evaluate.evidence import Figure

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Game:
    """One comparison: `score` is 1 where `a` won, 0 where `b` did, 0.5 for a tie."""

    a: str
    b: str
    score: float
    cluster: Hashable
    """The prompt: games on one prompt are resampled together."""


def bradley_terry(games: Sequence[Game], seed: int, resamples: int = RESAMPLES) -> tuple[dict[str, Figure], str]:
    """Return the strength of each system, strongest first, and an empty string; or nothing and why.

    The 95 % interval is a percentile bootstrap over prompts. Resamples without finite strengths count as beyond both
    ends; where they are 2.5 % or more, the interval is unbounded.

    Args:
        games: of at least two systems.
        seed: of the resampling.
        resamples: how often.
    """
    names = list(dict.fromkeys(name for game in games for name in (game.a, game.b)))
    pairs = list(combinations(range(len(names)), 2))
    place, number = {pair: i for i, pair in enumerate(pairs)}, {name: i for i, name in enumerate(names)}
    clusters = {name: i for i, name in enumerate(dict.fromkeys(game.cluster for game in games))}
    # By prompt: what the first system of each pair of systems scored, and of how many games.
    scored = np.zeros((len(clusters), len(pairs), 2))
    for game in games:
        i, j = number[game.a], number[game.b]
        score = game.score if i < j else 1 - game.score
        scored[clusters[game.cluster], place[min(i, j), max(i, j)]] += (score, 1)
    point = _strengths(scored.sum(axis=0), pairs, len(names))
    if point is None:
        return {}, "a system has won, or lost, every comparison with the others, so strengths have no finite estimate"
    rng = np.random.default_rng(seed)
    drawn = [
        _strengths(scored[rng.integers(len(clusters), size=len(clusters))].sum(axis=0), pairs, len(names))
        for _ in range(resamples)
    ]
    finite = np.array([each for each in drawn if each is not None])
    beyond = 1 - len(finite) / resamples if resamples else 0.0
    figures = {}
    for i in sorted(range(len(names)), key=lambda i: -point[i]):
        low, high = -math.inf, math.inf
        if beyond < 0.025 and len(finite):
            tail = (0.025 - beyond) / (1 - beyond)
            low, high = (float(v) for v in np.quantile(finite[:, i], [tail, 1 - tail]))
        figures[names[i]] = Figure(
            value=float(point[i]),
            low=low,
            high=high,
            n=sum(names[i] in (game.a, game.b) for game in games),
            clusters=len(clusters),
            unit="logits",
            seed=seed,
            method=f"Bradley-Terry, percentile bootstrap over prompts, {resamples} resamples, seed {seed}",
        )
    return figures, ""


def _strengths(totals: Any, pairs: Sequence[tuple[int, int]], systems: int) -> Any:
    """Return the strengths of maximum likelihood, summing to 0; None where they are not finite."""
    import statsmodels.api as sm
    from scipy.sparse.csgraph import connected_components
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    beaten = np.zeros((systems, systems))
    played = [k for k in range(len(pairs)) if totals[k, 1] > 0]
    for k in played:
        i, j = pairs[k]
        beaten[i, j], beaten[j, i] = totals[k, 0], totals[k, 1] - totals[k, 0]
    if connected_components(beaten > 0, directed=True, connection="strong")[0] > 1:
        return None
    design = np.zeros((len(played), systems - 1))
    for row, k in enumerate(played):
        for system, sign in zip(pairs[k], (1.0, -1.0), strict=True):
            if system > 0:
                design[row, system - 1] = sign
    outcomes = np.column_stack([totals[played, 0], totals[played, 1] - totals[played, 0]])
    # A table that the strengths fit exactly leaves no residual, and looks like separation to statsmodels; that there
    # is none is known here.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        fit = sm.GLM(outcomes, design, family=sm.families.Binomial()).fit()
    found = np.array([0.0, *fit.params])
    return found - found.mean()
