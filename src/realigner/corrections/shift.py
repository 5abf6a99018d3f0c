"""The figures of the value-leakage report: agreement of judges, and how two kinds of text differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from realigner.audit.estimate import wilson
from realigner.corrections.similarity import ngrams
from realigner.records import Label

SHOWN = 10
PERMUTATIONS = 200
OPENING = 3
"""Words."""
PRIOR = 500.0
"""Words of the prior of the log-odds: so much evidence is needed before a rare phrase stands out."""


def agreement(both: Mapping[tuple[Label, Label], int]) -> dict[str, Any]:
    """Return how far two judges agree on whether a candidate complies: rate with Wilson's 95 % interval, and Cohen's κ.

    `unsure` and `invalid` count as a third answer, "no decision", which agrees with itself.
    """
    table: Counter[tuple[str, str]] = Counter()
    for (one, other), count in both.items():
        table[_answer(one), _answer(other)] += count
    total = table.total()
    if total == 0:
        return {"candidates": 0, "rate": None, "interval": None, "kappa": None, "table": []}
    same = sum(count for (first, second), count in table.items() if first == second)
    rows, columns = Counter[str](), Counter[str]()
    for (first, second), count in table.items():
        rows[first] += count
        columns[second] += count
    interval = wilson(same, total)
    assert interval is not None  # total > 0
    chance = sum(rows[answer] * columns[answer] for answer in rows) / total**2
    return {
        "candidates": total,
        "rate": same / total,
        "interval": [interval.low, interval.high],
        # Where both judges always say the same, chance explains all of it, and κ is not defined.
        "kappa": None if chance >= 1.0 else (same / total - chance) / (1.0 - chance),
        "table": [[first, second, count] for (first, second), count in sorted(table.items())],
    }


def lengths(new: Sequence[int], old: Sequence[int], seed: int) -> dict[str, Any]:
    """Return how lengths, in words, differ.

    `longer` is the chance that a random correction is longer than a random retained answer (ties count half; 0.5 is
    no shift), with a bootstrap interval of 95 %.
    """
    import numpy as np

    a, b = np.asarray(new), np.asarray(old)
    draw = np.random.default_rng(seed)
    means = [_longer(draw.choice(a, a.size), draw.choice(b, b.size)) for _ in range(PERMUTATIONS)]
    return {
        "corrections": {"mean": float(a.mean()), "median": float(np.median(a))},
        "retained": {"mean": float(b.mean()), "median": float(np.median(b))},
        "ratio_of_means": float(a.mean() / b.mean()) if b.mean() > 0 else None,
        "longer": _longer(a, b),
        "interval": [float(bound) for bound in np.quantile(means, [0.025, 0.975])],
    }


def word_shift(new: Sequence[Sequence[str]], old: Sequence[Sequence[str]], seed: int) -> dict[str, Any]:
    """Return how far word frequencies differ, and the phrases that set corrections apart.

    `divergence` is the Jensen-Shannon divergence of word frequencies in bits (0: equal, 1: no word in common). Two
    samples of one kind differ too: `by_chance` is its 95 % quantile when texts are dealt to the two kinds at random.
    """
    import numpy as np

    texts = [*new, *old]
    vocabulary = {word: place for place, word in enumerate(sorted({word for words in texts for word in words}))}
    tokens = np.array([vocabulary[word] for words in texts for word in words], dtype=np.int64)
    text_of = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    total = np.bincount(tokens, minlength=len(vocabulary)).astype(float)

    def divergence(chosen: Any) -> float:
        inside = np.zeros(len(texts), dtype=bool)
        inside[chosen] = True
        first = np.bincount(tokens[inside[text_of]], minlength=len(vocabulary)).astype(float)
        return _jensen_shannon(first, total - first)

    draw = np.random.default_rng(seed)
    shuffled = [divergence(draw.permutation(len(texts))[: len(new)]) for _ in range(PERMUTATIONS)]
    return {
        "divergence": divergence(np.arange(len(new))),
        "by_chance": float(np.quantile(shuffled, 0.95)),
        "more_in_corrections": phrases(new, old),
        "more_in_retained": phrases(old, new),
    }


def phrases(more: Sequence[Sequence[str]], less: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return the phrases of one to three words that set one kind of text apart, the surest first.

    Ranked by the z-score of the log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008,
    equations 15 to 22): the prior is the phrase's share in both kinds together, worth `PRIOR` words. Counts are of
    texts that hold the phrase, so that one text that repeats itself says it once.
    """
    counts = [Counter(gram for words in kind for gram in _distinct(words)) for kind in (more, less)]
    sizes = [counter.total() for counter in counts]
    joint = counts[0] + counts[1]
    found = []
    for gram, count in joint.items():
        if counts[0][gram] < 5:
            continue
        prior = PRIOR * count / joint.total()
        odds = [_log_odds(counts[k][gram] + prior, sizes[k] + PRIOR) for k in (0, 1)]
        variance = sum(1.0 / (counts[k][gram] + prior) for k in (0, 1))
        z = (odds[0] - odds[1]) / math.sqrt(variance)
        if z > 0:
            found.append((z, gram))
    found.sort(key=lambda item: (-item[0], item[1]))
    shown: list[tuple[float, tuple[str, ...]]] = []
    for z, gram in found:
        # A part of a phrase that is shown already says nothing more.
        if not any(" ".join(gram) in " ".join(known) or " ".join(known) in " ".join(gram) for _, known in shown):
            shown.append((z, gram))
        if len(shown) == SHOWN:
            break
    return [
        {
            "phrase": " ".join(gram),
            "share": counts[0][gram] / len(more),
            "share_in_others": counts[1][gram] / len(less),
            "z": z,
        }
        for z, gram in shown
    ]


def openings(new: Sequence[Sequence[str]], old: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return the commonest first words of corrections, with their share there and among retained answers."""
    first, second = (Counter(" ".join(words[:OPENING]) for words in kind) for kind in (new, old))
    return [
        {"opening": opening, "share": count / len(new), "share_in_retained": second[opening] / len(old)}
        for opening, count in sorted(first.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    ]


def _answer(label: Label) -> str:
    return label.value if label in (Label.COMPLIANT, Label.NON_COMPLIANT) else "no decision"


def _longer(a: Any, b: Any) -> float:
    import numpy as np

    ordered = np.sort(b)
    below, upto = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return float(np.mean((below + upto) / 2) / b.size)


def _jensen_shannon(first: Any, second: Any) -> float:
    import numpy as np

    if first.sum() == 0 or second.sum() == 0:
        return 0.0 if first.sum() == second.sum() else 1.0
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(side > 0, side * np.log2(side / middle), 0.0).sum() for side in (p, q)]
    return float(max(0.0, sum(terms) / 2))


def _distinct(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {gram for size in (1, 2, 3) for gram in ngrams(words, size)}


def _log_odds(count: float, total: float) -> float:
    return math.log(count / (total - count))
