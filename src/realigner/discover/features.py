"""What the offline proposer can see in a response: named features, each the same check that a policy file can carry.

The word lists hold common English phrasings and are not fitted to a data set. A feature is a yes or no about ONE
response, so that a rule made of it can stand in a policy.
Form features (length, layout) say how a response looks, not what it says: they are named as biases, never written
into a policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from realigner.policy.words import contains_word, fold

MOST_WORDS = 3
"""Words of the longest phrase that is counted."""
_TOKEN = re.compile(r"\w+(?:'\w+)*")

REFUSALS = (
    "cannot help", "can't help", "cannot assist", "can't assist", "cannot answer", "can't answer", "cannot provide",
    "can't provide", "cannot do that", "can't do that", "not able to help", "unable to help", "not able to answer",
    "unable to assist", "unable to provide", "won't help", "will not help", "will not discuss", "won't discuss",
    "have to decline", "must decline", "must refuse", "not something I can", "not comfortable", "not going to help",
    "not going to answer", "don't want to help", "don't feel comfortable", "against the law", "is illegal",
)  # fmt: skip
HEDGES = (
    "perhaps", "maybe", "might", "possibly", "probably", "it depends", "not sure", "cannot be sure", "can't be sure",
    "not certain", "I think", "I believe", "I guess", "it seems", "as far as I know", "I could be wrong",
    "I may be wrong", "may not", "don't know",
)  # fmt: skip
POSITIVE = (
    "good", "great", "glad", "happy", "wonderful", "love", "nice", "best", "enjoy", "excellent", "fun", "welcome",
    "helpful", "kind", "beautiful", "thank you", "thanks", "excited", "safe", "healthy",
)  # fmt: skip
NEGATIVE = (
    "bad", "hate", "stupid", "idiot", "terrible", "awful", "worst", "ugly", "dumb", "shit", "fuck", "kill", "hurt",
    "steal", "wrong", "angry", "disgusting", "dangerous", "harmful", "illegal",
)  # fmt: skip
APOLOGIES = ("sorry", "apologize", "apologise", "my apologies", "forgive me")
FUNCTION_WORDS = frozenset((
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "before",
    "but", "by", "can", "could", "did", "do", "does", "for", "from", "get", "had", "has", "have", "he", "her",
    "here", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "like", "me", "more", "most",
    "my", "no", "not", "of", "on", "one", "or", "our", "out", "she", "should", "so", "some", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "to", "too", "up", "us", "was", "we",
    "were", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you", "your", "yours", "i'm",
    "it's", "don't", "that's", "you're", "i'd", "i'll", "i've", "can't",
))  # fmt: skip
"""A phrase of nothing but these is no candidate: it could be counted, but is no rule that a person understands."""
LAYOUT = r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S|^#{1,6} \S|\*\*\S|```"


@dataclass(frozen=True, slots=True)
class Feature:
    """A yes or no about one response, in words and as a check of the policy file."""

    name: str
    wants: str
    """Completes "The response …" where the feature is to be there, e.g. `refuses`."""
    avoids: str
    """The same where it is to be absent, e.g. `does not refuse`."""
    check: dict[str, Any]
    """The check that matches where the feature is there."""
    of_form: bool = False
    is_phrase: bool = False


def _words(name: str, wants: str, avoids: str, words: Sequence[str]) -> Feature:
    return Feature(name, wants, avoids, {"words": list(words)})


NAMED = (
    _words("refusal", "refuses", "does not refuse", REFUSALS),
    _words("hedging", "hedges or admits doubt", "does not hedge", HEDGES),
    _words("apology", "apologises", "does not apologise", APOLOGIES),
    _words("positive sentiment", "uses positive words", "uses no positive words", POSITIVE),
    _words("negative sentiment", "uses negative or harsh words", "uses no negative or harsh words", NEGATIVE),
    Feature("question", "asks a question", "asks no question", {"regex": r"\?"}),
    Feature("closing question", "ends with a question", "does not end with a question", {"regex": r"\?[\s\"')]*$"}),
    Feature("formatting", "uses lists, headings or bold type", "is plain text without layout", {"regex": LAYOUT}, True),
)
LENGTH = "length"


def phrase(text: str) -> Feature:
    """Return the feature of a word or phrase, written as `fold` writes it."""
    return Feature(f"“{text}”", f"says “{text}”", f"does not say “{text}”", {"words": [text]}, is_phrase=True)


def detector(check: dict[str, Any]) -> Callable[[str, str], bool]:
    """Return what a check of words or of a regular expression finds in a response, given as it is and folded.

    The twin of the policy's own check. Proposals are counted over many thousand responses, so this leaves out what the
    policy's checks do for people (facts, limits of time). That the two agree is measured on every kept rule.
    """
    if "regex" in check:
        pattern = re.compile(check["regex"])
        return lambda text, _: pattern.search(text) is not None
    words = [fold(word) for word in check["words"]]
    return lambda _, folded: any(word in folded and contains_word(folded, word) for word in words)


def phrases_of(text: str, most: int = MOST_WORDS) -> frozenset[str]:
    """Return the words and phrases of a text, up to `most` words, but those of function words alone.

    A phrase does not reach over punctuation.
    """
    folded = fold(text)
    found: set[str] = set()
    run: list[str] = []
    end = -2
    for token in _TOKEN.finditer(folded):
        adjacent = token.start() == end + 1 and folded[end] == " "
        run = [*run[-(most - 1) :], token.group()] if adjacent else [token.group()]
        end = token.end()
        telling = max((i for i, word in enumerate(run) if word not in FUNCTION_WORDS), default=-1)
        found.update(" ".join(run[start:]) for start in range(telling + 1))
    return frozenset(found)


def count_words(text: str) -> int:
    """Return the length of a response in words, as the policy's `length` check counts them."""
    return len(text.split())
