"""Reasons that are no policy: does the form of a response tell more about the old preference than its content does?

Pairs are compared only with pairs of the same content: those on which the kept rules and the controls
(`controls.py`) vote alike. Within such a group a rule, found or not, that content alone decides prefers the same
response whatever its form; so the preference may not go with form. This is the test of Cochran, Mantel and Haenszel,
with groups that content defines, and needs no model of how content decides. A pair on which nothing votes is compared
with itself turned round: either response would be preferred as often.

The odds are Peto's one-step estimate; the variance sums whole prompts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np

from realigner.discover.candidate import Votes

SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Bias:
    """What form tells beyond content."""

    form: str
    """`longer`, `shorter`, `formatted`, `plain`: what the old data preferred."""
    odds: float
    """How many times likelier a response was preferred for it, content being equal; at least 1."""
    low: float
    high: float
    """The 95 % interval of the odds."""
    p: float
    """Of the test, two-sided, Holm-corrected."""
    named: bool
    """Whether it is named as a bias: p below 0.01."""
    n: int
    """Pairs that could be compared: those whose group has both forms and both preferences."""


Names = tuple[str, str]
"""What a form is called where it is preferred, and where it is avoided."""


def find_biases(
    forms: Mapping[Names, Votes], content: Mapping[Names, Sequence[Votes]], prompts: Sequence[Hashable]
) -> list[Bias]:
    """Return what each form tells, strongest first. A form that never differs where content is equal has no entry.

    Args:
        forms: 1 where the preferred response of a pair has the form, −1 where the other has it.
        content: for each form, what has to be equal: votes of rules on the same pairs.
        prompts: the prompt of each pair.
    """
    from scipy.stats import norm

    found = []
    for names, votes in forms.items():
        score, information, variance, n = _score(votes, content[names], prompts)
        if information > 0 and variance > 0:
            found.append((float(2 * norm.sf(abs(score) / sqrt(variance))), names, score, information, variance, n))
    found.sort(key=lambda item: item[0])
    biases, so_far = [], 0.0
    for rank, (p, names, score, information, variance, n) in enumerate(found):
        so_far = max(so_far, min(1.0, p * (len(found) - rank)))
        b, error = abs(score) / information, sqrt(variance) / information
        low, high = (exp(min(b + sign * 1.96 * error, 50.0)) for sign in (-1, 1))
        biases.append(Bias(names[score < 0], exp(min(b, 50.0)), low, high, so_far, so_far < SIGNIFICANT, n))
    return biases


def _score(form: Votes, content: Sequence[Votes], prompts: Sequence[Hashable]) -> tuple[float, float, float, int]:
    """Return the score of "form does not matter", its information, its variance by prompts, and the pairs behind it.

    Each pair is turned so that its first vote of content is positive; then, in a group of N pairs of equal votes, of
    which r prefer the first response, the score is Σ (±1 − its mean)·(preferred − r/N), +1 where it has the form.
    """
    differ = np.flatnonzero(form)
    if not len(differ):
        return 0.0, 0.0, 0.0, 0
    votes = np.column_stack([np.zeros(len(form), dtype=np.int8), *content])[differ]
    told = (votes != 0).any(axis=1)
    turn = votes[np.arange(len(votes)), (votes != 0).argmax(axis=1)].astype(int)
    turn[~told] = 1
    groups = np.unique(votes * turn[:, None], axis=0, return_inverse=True)[1].ravel()
    size = np.bincount(groups).astype(float)
    has = form[differ] * turn > 0
    first = turn > 0
    preferred, formed = np.bincount(groups, first), np.bincount(groups, has)
    alone = np.zeros(len(size), dtype=bool)
    alone[groups[~told]] = True
    expected = np.where(alone, 0.5, preferred / size)[groups]
    usual = np.where(alone, 0.0, 2 * formed / size - 1)[groups]
    terms = (np.where(has, 1.0, -1.0) - usual) * (first - expected)
    spread = 4 * preferred * (size - preferred) * formed * (size - formed)
    information = np.where(alone, size / 4, spread / (size**2 * np.maximum(size - 1, 1)))
    widened = np.where(alone, 1.0, np.sqrt(size / np.maximum(size - 1, 1)))[groups]
    number = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    by_prompt = np.bincount([number[prompts[int(place)]] for place in differ], terms * widened, len(number))
    return (
        float(terms.sum()),
        float(information.sum()),
        float((by_prompt**2).sum()),
        int(size[information > 0].sum()),
    )
