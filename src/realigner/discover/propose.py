"""The offline proposer: candidate rules from counts alone, named in words.

1. Named features (refusal, hedging, questions, sentiment, layout), required and forbidden, and length.
2. Words and phrases that the preferred responses use more, or less, than the others: log-odds with a prior.
3. For each of these: the words of the PROMPTS whose preferred responses have it, and of those whose have not, by the
   same log-odds. So "refuses" becomes "where the prompt mentions …: refuses" where it was taught for some prompts only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from realigner.discover.candidate import Candidate, Material, Votes
from realigner.discover.features import LENGTH, NAMED, Feature, phrase, phrases_of
from realigner.discover.logodds import log_odds
from realigner.progress import SILENT, Progress
from realigner.records import prompt_text

Z_FLOOR = 3.0
"""Of a word's log-odds: below this it is not proposed. About one word in 700 passes it by chance."""
LEAST_PAIRS = 5
"""Pairs in which a word must tell the responses, or the prompts, apart."""
MOST_PHRASES = 200
"""Words and phrases of responses that become candidates, those of the largest |z|."""
MOST_CONDITIONED = 60
"""How many of these are also tried with a condition on the prompt."""
MOST_FREQUENT = 60
"""Words and phrases beside these that are tried with a condition alone: those that tell most pairs apart."""
MOST_TRIGGERS = 60
"""Words of prompts in one condition."""


def propose(material: Material, progress: Progress = SILENT) -> list[Candidate]:
    """Return candidate rules, most general first. Deterministic."""
    with progress.task("Counting words and phrases", None) as advance:
        counts = phrase_counts(material)
        advance(len(counts))
    phrases = telling_phrases(counts)
    features = [*NAMED, *map(phrase, phrases)]
    found = [candidate for feature in features for candidate in _plain(feature)]
    words = PromptWords(material)
    conditioned = [*features[: len(NAMED) + MOST_CONDITIONED], *map(phrase, frequent_phrases(counts, set(phrases)))]
    with progress.task("Looking for conditions", len(conditioned)) as advance:
        for feature in conditioned:
            found += _with_conditions(feature, material, words)
            advance(1)
    longer = Candidate(f"{LENGTH}: longer", "The response is longer than the other one.", "form")
    shorter = Candidate(f"{LENGTH}: shorter", "The response is shorter than the other one.", "form")
    return [*found, longer, shorter]


class PromptWords:
    """The words and phrases of the prompts, as numbers: those in at least `LEAST_PAIRS` of the pairs."""

    def __init__(self, material: Material) -> None:
        by_pair = [phrases_of(prompt_text(pair.prompt)) for pair in material.pairs]
        counts = Counter(word for words in by_pair for word in words)
        self.words = sorted(word for word, count in counts.items() if count >= LEAST_PAIRS)
        places = {word: i for i, word in enumerate(self.words)}
        self.by_pair = [frozenset(places[word] for word in words if word in places) for words in by_pair]
        self._rows = np.repeat(np.arange(len(by_pair)), [len(found) for found in self.by_pair])
        self._places = np.array([place for found in self.by_pair for place in found], dtype=np.int64)

    def counts(self, members: Any) -> Any:
        """Return in how many of the pairs that are members (booleans) each word occurs."""
        return np.bincount(self._places[members[self._rows]], minlength=len(self.words))


Counts = Mapping[str, tuple[int, int]]
"""For each word and phrase, in how many pairs the preferred, and in how many the other, response alone has it."""


def telling_phrases(counts: Counts) -> list[str]:
    """Return words and phrases by falling |z| of their log-odds, preferred against other responses."""
    scores = log_odds([first for first, _ in counts.values()], [second for _, second in counts.values()])
    telling = [(abs(z), text) for text, z in zip(counts, scores, strict=True) if abs(z) >= Z_FLOOR]
    return [text for _, text in sorted(telling, key=lambda item: (-item[0], -len(item[1]), item[1]))[:MOST_PHRASES]]


def frequent_phrases(counts: Counts, known: Collection[str]) -> list[str]:
    """Return the words and phrases that tell most pairs apart, whichever way, but the known ones.

    What was preferred on some prompts and avoided on as many others has no log-odds; only a condition on the prompt
    can show it. Of phrases that tell equally many apart either way, which are mostly parts of one, the longest.
    """
    found: dict[tuple[int, int], str] = {}
    for text, count in counts.items():
        if text not in known and len(text) > len(found.get(count, "")):
            found[count] = text
    ranked = sorted(found, key=lambda count: (-sum(count), found[count]))
    return [found[count] for count in ranked[:MOST_FREQUENT]]


def phrase_counts(material: Material) -> Counts:
    """Return the counts of words and phrases, once a response; those of fewer than `LEAST_PAIRS` pairs are left out."""
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for pair in material.pairs:
        first, second = phrases_of(pair.chosen), phrases_of(pair.rejected)
        chosen.update(first - second)
        rejected.update(second - first)
    counted = sorted(text for text in {**chosen, **rejected} if chosen[text] + rejected[text] >= LEAST_PAIRS)
    return {text: (chosen[text], rejected[text]) for text in counted}


def triggers(words: PromptWords, there: Votes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words of prompts whose preferred responses have a feature, and of those whose have not.

    By the log-odds of prompt words between the two groups; a word must stand for its group in more than half of the
    prompts that mention it, and cover pairs that no word before it covers.

    Args:
        words: of the prompts.
        there: whether the preferred response of each pair has the feature, as 0 and 1.
    """
    has = there.astype(bool)
    if min(has.sum(), (~has).sum()) < LEAST_PAIRS:
        return (), ()
    with_it, without = words.counts(has), words.counts(~has)
    scores = log_odds(with_it, without)
    return (
        _cover(words, scores, with_it > without, has),
        _cover(words, -scores, without > with_it, ~has),
    )


def _cover(words: PromptWords, scores: Any, stands: Any, group: Any) -> tuple[str, ...]:
    """Take words by falling score, each only if it covers enough pairs of the group that no earlier one covers."""
    passing = np.flatnonzero((scores >= Z_FLOOR) & stands)
    ranked = sorted(map(int, passing), key=lambda i: (-round(float(scores[i]), 6), len(words.words[i]), words.words[i]))
    kept: list[str] = []
    left = [found for found, member in zip(words.by_pair, group, strict=True) if member]
    for place in ranked:
        rest = [found for found in left if place not in found]
        if len(left) - len(rest) >= LEAST_PAIRS:
            kept.append(words.words[place])
            left = rest
        if len(kept) == MOST_TRIGGERS:
            break
    return tuple(kept)


def _plain(feature: Feature) -> Iterable[Candidate]:
    kind: Any = "form" if feature.of_form else "content"
    for name, says, key in ((feature.name, feature.wants, "require"), (f"no {feature.name}", feature.avoids, "forbid")):
        yield Candidate(name, f"The response {says}.", kind, {key: feature.check}, of_phrase=feature.is_phrase)


def _with_conditions(feature: Feature, material: Material, prompts: PromptWords) -> Iterable[Candidate]:
    wanted, unwanted = triggers(prompts, material.sides(feature.check)[0])
    kind: Any = "form" if feature.of_form else "content"
    for words, key, says, name in (
        (wanted, "require", feature.wants, feature.name),
        (unwanted, "forbid", feature.avoids, f"no {feature.name}"),
    ):
        if not words:
            continue
        other_key, other_says, other_name = (
            ("forbid", feature.avoids, f"no {feature.name}")
            if key == "require"
            else ("require", feature.wants, feature.name)
        )
        there = {"words": list(words)} | {"in": "prompt"}
        named = _listed(words)
        yield Candidate(
            f"{name} where mentioned",
            f"Where the prompt mentions {named}: the response {says}.",
            kind,
            {"when": there, key: feature.check},
            of_phrase=feature.is_phrase,
        )
        yield Candidate(
            f"{other_name} elsewhere",
            f"Where the prompt mentions none of {named}: the response {other_says}.",
            kind,
            {"when": {"not": there}, other_key: feature.check},
            of_phrase=feature.is_phrase,
        )


def _listed(words: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(f"“{word}”" for word in words[:most])
    return shown + (f" (and {len(words) - most} more)" if len(words) > most else "")
