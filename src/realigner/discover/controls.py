"""Which content has to be equal before a difference may be put down to form.

Double selection (Belloni, Chernozhukov and Hansen 2014): the candidates that a lasso needs to explain the preference,
and those that another needs to explain the FORM of the responses. The second finds content that goes with form even
where noise hides what it did to the preference: refusals are short, whether or not a rule about them was found.
The penalty is theirs, from the size of the data, so there is nothing to tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from realigner.discover.candidate import Votes

SLACK = 1.1
"""Their c: how far the penalty lies above the noise."""
ROUNDS = 3
"""Of estimating the noise anew from what was selected."""
STEPS = 1000
CHUNK = 100_000
"""Pairs whose votes are numbers of eight bytes at a time."""


def controls(votes: Sequence[Votes], form: Votes) -> list[int]:
    """Return the places of the candidates that go with the preference or with a form, in order.

    Args:
        votes: of each candidate, on the pairs that candidates were proposed from.
        form: on the same pairs, 1 where the preferred response has the form, −1 where the other has it.
    """
    if not votes or not len(form):
        return []
    targets = np.column_stack([np.ones(len(form), dtype=np.int8), form])
    gram, products = np.zeros((len(votes), len(votes))), np.zeros((len(votes), 2))
    for start in range(0, len(form), CHUNK):
        part = np.column_stack([vote[start : start + CHUNK] for vote in votes]).astype(float)
        gram += part.T @ part
        products += part.T @ targets[start : start + CHUNK]
    chosen = {
        place
        for column in (0, 1)
        for place in lasso(gram, products[:, column], float((targets[:, column].astype(float) ** 2).sum()), len(form))
    }
    return sorted(chosen)


def lasso(gram: Any, product: Any, square: float, n: int) -> list[int]:
    """Return the columns that a lasso without intercept keeps.

    Args:
        gram: X'X, shape (columns, columns).
        product: X'y, shape (columns,).
        square: y'y.
        n: rows.
    """
    there = np.flatnonzero(np.diag(gram) > 0)
    if not len(there) or square <= 0:
        return []
    scale = np.sqrt(np.diag(gram)[there] / n)
    g = gram[np.ix_(there, there)] / np.outer(scale, scale) / n
    p = product[there] / scale / n
    chance = 0.1 / log(max(n, 3))
    least = SLACK * NormalDist().inv_cdf(1 - chance / (2 * len(there))) / sqrt(n)
    noise, kept = sqrt(square / n), np.zeros(0, dtype=int)
    for _ in range(ROUNDS):
        kept = np.flatnonzero(_shrunk(g, p, least * noise))
        if not len(kept):
            break
        fit = np.linalg.lstsq(g[np.ix_(kept, kept)], p[kept], rcond=None)[0]
        noise = sqrt(max(square - n * float(fit @ p[kept]), 0.0) / max(1, n - len(kept)))
    return [int(there[place]) for place in kept]


def _shrunk(gram: Any, product: Any, penalty: float) -> Any:
    """Minimise b'Gb/2 − b'p + penalty·|b| by accelerated proximal gradient steps."""
    step = 1 / float(np.linalg.eigvalsh(gram)[-1])
    now = ahead = np.zeros(len(product))
    speed = 1.0
    for _ in range(STEPS):
        moved = ahead - step * (gram @ ahead - product)
        following = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
        faster = (1 + sqrt(1 + 4 * speed**2)) / 2
        ahead = following + (speed - 1) / faster * (following - now)
        done = float(np.max(np.abs(following - now))) < 1e-7
        now, speed = following, faster
        if done:
            break
    return now
