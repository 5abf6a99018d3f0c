"""Candidates that say the same become one: by their votes, and by their wording.

Wordings are compared by TF-IDF over words and pieces of words, or by vectors that the caller gives (embeddings). It is
forty lines of numpy over a few hundred short texts; scikit-learn would add a dependency for no other use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np

from realigner.discover.candidate import Candidate, Votes
from realigner.discover.features import phrases_of
from realigner.policy.words import fold

SAME_VOTES = 0.9
"""Two rules whose votes agree on this share of the pairs that either touches are one."""
SAME_WORDING = 0.8
"""Cosine of two wordings from which they are one."""

Embed = Callable[[Sequence[str]], Any]
"""Texts in, one vector a text out: an array of shape (texts, dimensions)."""


def tf_idf(texts: Sequence[str]) -> Any:
    """Return unit vectors, one a text: words, pairs of words and runs of four letters, weighted by rarity."""
    grams = [_grams(text) for text in texts]
    documents = Counter(gram for bag in grams for gram in bag)
    places = {gram: i for i, gram in enumerate(sorted(documents))}
    vectors = np.zeros((len(texts), len(places)))
    for row, bag in enumerate(grams):
        for gram, count in bag.items():
            vectors[row, places[gram]] = (1 + log(count)) * (1 + log((1 + len(texts)) / (1 + documents[gram])))
    return _unit(vectors)


def merge_by_wording(candidates: Sequence[Candidate], embed: Embed | None = None) -> list[Candidate]:
    """Return one candidate for each group of alike wordings: the shortest wording, with the others as its members.

    Groups are formed by the first that is near: a later wording joins the nearest earlier head, if it is near enough.
    """
    if not candidates:
        return []
    texts = [candidate.text for candidate in candidates]
    vectors = tf_idf(texts) if embed is None else _unit(np.asarray(embed(texts), dtype=float))
    groups: list[list[int]] = []
    for place in range(len(texts)):
        near = [float(vectors[place] @ vectors[group[0]]) for group in groups]
        best = int(np.argmax(near)) if near else -1
        if near and near[best] >= SAME_WORDING:
            groups[best].append(place)
        else:
            groups.append([place])
    return [_merged([candidates[i] for i in group]) for group in groups]


def merge_by_votes(candidates: Sequence[Candidate], votes: Sequence[Votes]) -> list[tuple[Candidate, Votes]]:
    """Return candidates whose votes differ; of those that vote alike, the earliest, with the others as its members.

    Alike: |pairs on which both vote the same| / |pairs on which either votes| is at least `SAME_VOTES`. Candidates of
    form and of content are never merged: which of the two it is, is what a person must hear.
    """
    kept: list[tuple[Candidate, Votes]] = []
    for candidate, vote in zip(candidates, votes, strict=True):
        touched = np.count_nonzero(vote)
        for place, (head, head_vote) in enumerate(kept):
            if head.kind != candidate.kind:
                continue
            same = np.count_nonzero((vote == head_vote) & (vote != 0))
            if same and same >= SAME_VOTES * (touched + np.count_nonzero(head_vote) - _both(vote, head_vote)):
                kept[place] = _joined(head, [candidate]), head_vote
                break
        else:
            kept.append((candidate, vote))
    return kept


def _both(first: Votes, second: Votes) -> int:
    return int(np.count_nonzero((first != 0) & (second != 0)))


def _merged(group: Sequence[Candidate]) -> Candidate:
    head = min(group, key=lambda candidate: (len(candidate.text), candidate.text))
    return _joined(head, [candidate for candidate in group if candidate is not head])


def _joined(head: Candidate, others: Sequence[Candidate]) -> Candidate:
    """Return the head with the wordings of the others, and theirs, as its members, each once."""
    wordings = [*head.members, *(text for other in others for text in (other.text, *other.members))]
    return replace(head, members=tuple(text for text in dict.fromkeys(wordings) if text != head.text))


def _grams(text: str) -> Counter[str]:
    folded = fold(text)
    return Counter([*phrases_of(text, 2), *(folded[i : i + 4] for i in range(max(1, len(folded) - 3)))])


def _unit(vectors: Any) -> Any:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)
