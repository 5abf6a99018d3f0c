"""What is wrong with a candidate as a text, before any judge is asked: deterministic, and with the words at fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import regex

from realigner.corrections.similarity import longest_quote, similarity, words_of
from realigner.policy import Policy
from realigner.policy.inert import inert
from realigner.policy.prompt import rule_wording
from realigner.records import Pair, prompt_text

ALWAYS_ALLOWED = 150
"""Words; a candidate up to this length is never too long."""
QUOTED_WORDS = 8
"""A run of so many words of the policy's wording, in a row, is a quotation of it."""
REFUSAL_WORDS = 60
"""A flat refusal is no longer than this; a longer text that begins with one goes on to say something."""
OPENING = 160
"""Characters in which a refusal says that it is one."""


class Fate(StrEnum):
    """What became of a candidate."""

    ACCEPTED = "accepted"
    NOT_WRITTEN = "not written"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_TEXT = "not valid text"
    DUPLICATE = "same as another candidate"
    COPY = "near-copy of the old answer"
    TOO_LONG = "too long"
    JARGON = "policy jargon"
    REFUSAL = "refusal"
    NON_COMPLIANT = "non_compliant"
    UNSURE = "unsure"
    INVALID = "invalid"
    SECOND_NON_COMPLIANT = "second opinion: non_compliant"
    SECOND_UNSURE = "second opinion: unsure"
    SECOND_INVALID = "second opinion: invalid"


_THINKING = regex.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", regex.DOTALL | regex.IGNORECASE)
_OPEN_THINKING = regex.compile(r"</?think(?:ing)?>", regex.IGNORECASE)
_CANNOT = r"(?:can(?:no|')?t|can ?not|could(?:n't| not)|won't|will not|(?:am |'m )(?:not able|unable)|must decline)"
_HELP = r"(?:help|assist|comply|fulfil+|do that|do this|answer|provide|continue|engage|discuss|support|share|give)"
_REFUSAL = regex.compile(
    rf"\b(?:i|we)(?:'m)?(?:\s+\w+){{0,2}}?\s*{_CANNOT}\b(?:\W+\w+){{0,4}}?\W+{_HELP}"
    r"|\b(?:i'm|i am|we're|we are)\s+(?:so |very |really )?sorry\b.{0,40}?\b(?:but|i can|unable|not able)"
    r"|\bas an ai\b.{0,60}?\b(?:not|n't|unable)\b"
    r"|\bi (?:must |have to |need to )?(?:decline|refuse)\b"
    r"|\bnot able to (?:help|assist|provide|answer|discuss)\b",
    regex.IGNORECASE | regex.DOTALL,
)
# Words of those who handle policies, not of those who answer questions. "Policy" alone may be an insurance.
_JARGON = regex.compile(
    r"\b(?:the|this|our|my|its)\s+(?:(?:new|old|content|usage|safety|assistant'?s?)\s+)?(?:policy|policies)\s+"
    r"(?:forbids?|prohibits?|requires?|prevents?|(?:does\s+not|doesn't)\s+allow|allows?|says?|states?|is|are)\b"
    r"|\b(?:per|under|according to|in line with|violat\w+|against|compl\w+ with|follow\w*|breach\w*)\s+"
    r"(?:the|this|our|my)\s+(?:\w+\s+)?(?:policy|policies|guidelines|rules above)\b"
    r"|\b(?:content|usage|safety) policy\b"
    r"|\bnon[-_ ]compliant\b|\bzero[- ]tolerance (?:rule|category|policy)\b"
    r"|\b(?:critical|high|standard|reduced)[- ]tier\b|\btier[- ](?:critical|high|standard|reduced|\d)\b"
    r"|\b(?:here is|here's|below is)\s+(?:a|an|the|my)\s+(?:\w+\s+)?(?:compliant|corrected|revised|rewritten)\b"
    r"|\b(?:corrected|revised|compliant)\s+(?:answer|response|version)\s*:",
    regex.IGNORECASE,
)


def cleaned(text: str) -> str:
    """Return a written text without a finished block of thinking and without outer white space."""
    return str(_THINKING.sub("", text)).strip()


def is_flat_refusal(text: str) -> bool:
    """Say whether a text declines and does little else: refusing words at its beginning, and a short text. English."""
    return len(words_of(text)) <= REFUSAL_WORDS and _REFUSAL.search(text[:OPENING].replace("’", "'")) is not None


@dataclass(frozen=True)
class TextChecks:
    """The checks of one policy and one recipe.

    Args:
        policy: whose ids and wording must not show.
        most_similar: similarity to the old preferred answer from which a candidate is a copy.
        longest: times the longer of the two old answers, in words.
        refuse_refusals: whether every flat refusal is rejected.
    """

    policy: Policy
    most_similar: float
    longest: float
    refuse_refusals: bool

    def find(self, text: str, pair: Pair, others: Sequence[str] = ()) -> tuple[Fate, str] | None:
        """Return why a candidate is rejected and the words at fault, or None.

        Args:
            text: the candidate, cleaned.
            pair: what it answers, and the old answers.
            others: candidates of the same pair that came before it.
        """
        if not text:
            return Fate.EMPTY, "it has no text"
        if _OPEN_THINKING.search(text):
            return Fate.TRUNCATED, "it holds a block of thinking that does not begin or end"
        if any("\ud800" <= character <= "\udfff" for character in text) or "\x00" in text:
            return Fate.NOT_TEXT, "it holds half of a surrogate pair, or a zero"
        if inert(text) != text:
            # It would be read as structure, and training refuses such a pair.
            return Fate.NOT_TEXT, "it spells a control token of a chat template"
        if text in others:
            return Fate.DUPLICATE, "an earlier candidate has the same text"
        alike = similarity(text, pair.chosen)
        if alike >= self.most_similar:
            return Fate.COPY, f"it shares {alike:.0%} of its word pairs with the old preferred answer"
        if text == pair.rejected.strip():
            return Fate.COPY, "it is the old rejected answer"
        length, most = len(words_of(text)), self._most_words(pair)
        if length > most:
            return Fate.TOO_LONG, f"{length} words, at most {most} for this pair"
        jargon = self.jargon(text, prompt_text(pair.prompt))
        if jargon:
            return Fate.JARGON, jargon
        if self.refuse_refusals and is_flat_refusal(text):
            return Fate.REFUSAL, "it declines and does little else"
        return None

    def jargon(self, text: str, asked: str) -> str:
        """Return what in a text speaks of the policy, or an empty string. What the prompt itself says is free."""
        for pattern, what in ((self._ids, "the id of a rule"), (_JARGON, "words about a policy")):
            for match in pattern.finditer(text):
                if match.group().casefold() not in asked.casefold():
                    return f"{what}: {match.group()!r}"
        quote = longest_quote(text, self._wording, QUOTED_WORDS)
        if quote and not longest_quote(asked, [quote.split()], QUOTED_WORDS):
            return f"a quotation of the policy: {quote!r}"
        return ""

    @cached_property
    def refusal_rules(self) -> tuple[str, ...]:
        """The ids of the rules whose text or violations speak of refusing."""
        return tuple(
            rule.id
            for rule in self.policy.rules
            if any(regex.search(r"\b(?:refus|declin)", part, regex.IGNORECASE) for part in (rule.text, *rule.violates))
        )

    @cached_property
    def _ids(self) -> regex.Pattern[str]:
        """Ids that are no words of the language, and codes that begin them (`s15` of `s15-public-order`).

        An id that is a plain word (`brief`) is looked for only where it is called a rule.
        """
        coded: set[str] = {self.policy.id} if _is_coded(self.policy.id) else set()
        plain: set[str] = set()
        for rule in self.policy.rules:
            (coded if _is_coded(rule.id) else plain).add(rule.id)
            head = regex.match(r"[a-z]{1,3}\d{1,3}(?=[-_.])", rule.id, regex.IGNORECASE)
            if head:
                coded.add(head.group())
        parts = (
            [rf"(?<![\w-])(?:{'|'.join(map(regex.escape, sorted(coded, key=len, reverse=True)))})(?![\w-])"]
            if coded
            else []
        )
        if plain:
            names = "|".join(map(regex.escape, sorted(plain, key=len, reverse=True)))
            parts.append(rf"\b(?:rule|category|criterion)\s+[\"'`]?(?:{names})\b|[\[(](?:{names})[\])]")
        parts.append(r"[\[(](?:rule|category)?\s*[A-Z]\d{1,2}[\])]")
        return regex.compile("|".join(parts), regex.IGNORECASE)

    @cached_property
    def _wording(self) -> list[list[str]]:
        # An example's text is a model answer: to be like it is no leak.
        rules = (rule.model_copy(update={"examples": ()}) for rule in self.policy.rules)
        return [words_of(line) for rule in rules for line in rule_wording(rule).splitlines()]

    def _most_words(self, pair: Pair) -> int:
        old = max(len(words_of(pair.chosen)), len(words_of(pair.rejected)))
        return max(ALWAYS_ALLOWED, int(self.longest * old))


def _is_coded(name: str) -> bool:
    """Say whether an id is recognisable as one wherever it stands: a digit, or parts joined by a dash or underscore."""
    return bool(regex.search(r"\d|\w[-_.]\w", name))
