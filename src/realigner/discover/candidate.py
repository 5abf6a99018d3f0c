"""A candidate rule, and how it votes on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from realigner.discover.features import count_words, detector
from realigner.policy import Rule
from realigner.policy.words import contains_word, fold
from realigner.records import Pair, prompt_text

Votes = np.ndarray[Any, np.dtype[np.int8]]
"""One number a pair: 1 the rule prefers what the old data preferred, −1 the other response, 0 it does not tell."""
Kind = Literal["content", "form"]


@dataclass(frozen=True)
class Candidate:
    """A rule that may have been in the old policy.

    `text` reads "The response …", after "Where the prompt …: " if it has a condition.
    """

    name: str
    """A short name in words, for ids and tables: `refusal`, `“panic attacks”`."""
    text: str
    kind: Kind = "content"
    demand: Mapping[str, Any] = field(default_factory=dict)
    """The policy's keys `when`, and `require` or `forbid`; empty where only wording says it (or length)."""
    wording: Mapping[str, Any] = field(default_factory=dict)
    """For rules by wording: `applies_when`, `violates`."""
    of_phrase: bool = False
    """Whether it is about one word or phrase; a named feature says the same more clearly."""
    members: tuple[str, ...] = ()
    """Wordings of the candidates that were found to say the same."""

    @property
    def by_wording(self) -> bool:
        """Whether a judge has to vote."""
        return bool(self.wording)

    def rule(self, rule_id: str) -> Rule:
        """Return it as a rule that judges one response alone."""
        keys: dict[str, Any] = {"id": rule_id, "text": self.text, **self.demand, **self.wording}
        if self.by_wording:
            keys["by"] = "llm"
        return Rule.model_validate(keys)


@dataclass(frozen=True, slots=True)
class Alone:
    """Which responses of each pair are condemned where each is judged alone, as booleans."""

    preferred: Any
    other: Any

    def __or__(self, more: Alone) -> Alone:
        """Return what either condemns: a policy is broken by any violation."""
        return Alone(self.preferred | more.preferred, self.other | more.other)

    @property
    def votes(self) -> Any:
        """1 where the preferred response alone is kept, −1 where the other one alone is, else 0; as numbers."""
        return self.other.astype(float) - self.preferred.astype(float)


class Material:
    """Pairs with what was found in them, so that each feature is looked for once.

    Args:
        pairs: OLD preferences, at least one.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.prompts = [fold(prompt_text(pair.prompt)) for pair in pairs]
        self._texts = [[(text, fold(text)) for text in (pair.chosen, pair.rejected)] for pair in pairs]
        self._sides: dict[str, tuple[Votes, Votes]] = {}
        self._conditions: dict[tuple[str, ...], Any] = {}
        lengths = [(count_words(pair.chosen), count_words(pair.rejected)) for pair in pairs]
        self.length_votes: Votes = np.array([(a > b) - (a < b) for a, b in lengths], dtype=np.int8)
        """1 where the preferred response is the longer one in words."""

    def sides(self, check: Mapping[str, Any]) -> tuple[Votes, Votes]:
        """Return whether the preferred and whether the other response of each pair has a feature, as 0 and 1."""
        key = repr(check)
        if key not in self._sides:
            find = detector(dict(check))
            both = [[find(*text) for text in texts] for texts in self._texts]
            found = np.array(both, dtype=np.int8).reshape(-1, 2)
            self._sides[key] = found[:, 0], found[:, 1]
        return self._sides[key]

    def mentions(self, words: tuple[str, ...]) -> Any:
        """Return whether each prompt contains any of these words, as booleans."""
        if words not in self._conditions:
            folded = [fold(word) for word in words]
            self._conditions[words] = np.array(
                [any(w in text and contains_word(text, w) for w in folded) for text in self.prompts], dtype=bool
            )
        return self._conditions[words]

    def votes(self, candidate: Candidate) -> Votes:
        """Return the votes of a candidate that needs no judge."""
        if candidate.name.startswith("length"):
            return self.length_votes if "longer" in candidate.name else -self.length_votes
        chosen, rejected = self._broken(candidate)
        votes: Votes = rejected.astype(np.int8) - chosen.astype(np.int8)
        return votes

    def alone(self, candidate: Candidate, votes: Votes) -> Alone:
        """Return what a candidate condemns when it judges each response alone.

        Where it compares (length) or goes by wording, only what its votes say is known.
        """
        return Alone(*self._broken(candidate)) if candidate.demand else Alone(votes < 0, votes > 0)

    def _broken(self, candidate: Candidate) -> tuple[Any, Any]:
        """Return whether the preferred and whether the other response of each pair breaks a rule of checks."""
        demand = candidate.demand
        required = "require" in demand
        chosen, rejected = (
            side.astype(bool) != required for side in self.sides(demand.get("require") or demand["forbid"])
        )
        when = demand.get("when")
        if when is None:
            return chosen, rejected
        negated = "not" in when
        applies = self.mentions(tuple((when["not"] if negated else when)["words"])) != negated
        return chosen & applies, rejected & applies


def tally(votes: Votes) -> tuple[int, int]:
    """Return how many pairs a rule supports and how many it opposes."""
    return int((votes > 0).sum()), int((votes < 0).sum())
