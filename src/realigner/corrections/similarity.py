"""How alike two texts are, and which words they share: on words without case and punctuation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import regex

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}]+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded to lower case, without punctuation."""
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return all runs of `size` words, in order."""
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def similarity(first: str, second: str) -> float:
    """Return the share of word pairs that two texts have in common, from 0 to 1.

    Dice's coefficient on the multisets of neighbouring words, with the beginning and the end of a text as words of
    their own: 2·|A ∩ B| / (|A| + |B|). Equal texts give 1, whatever their case and punctuation; the order of
    sentences counts little, a changed word takes two pairs away. Two texts without words are alike if they are equal.
    """
    bags = [Counter(ngrams(["", *words, ""], 2)) if words else None for words in map(words_of, (first, second))]
    if bags[0] is None or bags[1] is None:
        return 1.0 if first.strip() == second.strip() else 0.0
    common = (bags[0] & bags[1]).total()
    return 2.0 * common / (bags[0].total() + bags[1].total())


def longest_quote(text: str, sources: Sequence[Sequence[str]], size: int) -> str:
    """Return a run of at least `size` words of a text that stands in one of the sources, or an empty string."""
    known = {gram for source in sources for gram in ngrams(source, size)}
    words = words_of(text)
    for start, gram in enumerate(ngrams(words, size)):
        if gram in known:
            end = start + size
            while end < len(words) and tuple(words[end - size + 1 : end + 1]) in known:
                end += 1
            return " ".join(words[start:end])
    return ""
