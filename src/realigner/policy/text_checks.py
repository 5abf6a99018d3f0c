"""The checks that read text: regular expressions, word lists, lengths."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from realigner.policy.base import BaseCheck, Finding, Target, quote
from realigner.policy.words import contains_word, fold
from realigner.records import Judgement, Label, prompt_text

log = logging.getLogger(__name__)

REGEX_SECONDS = 1.0
"""Processor time of one search. A search that takes longer has no answer: its rule becomes `invalid`."""
LONG_WORD = 6
"""Letters that a word may have before the readability index counts it as long."""
_SENTENCE_END = regex.compile(r"[.!?…。！？]+|\n+")
_SUBJECT = {"prompt": "the prompt ", "last_user_turn": "the last user turn ", "response": ""}


class TextCheck(BaseCheck):
    """A check that reads one text: the whole prompt, its last user turn, or the response."""

    where: Target | None = Field(default=None, alias="in")

    def read(self, question: Judgement, default: Target) -> tuple[str, str]:
        """Return the text to look at and how a reason calls it ("" for the response)."""
        where = self.where or default
        if where == "response":
            text = question.response
        elif where == "prompt":
            text = prompt_text(question.prompt)
        else:
            turns = (turn["content"] for turn in reversed(question.prompt) if turn["role"] == "user")
            text = next(turns, "")
        return text, _SUBJECT[where]


class RegexCheck(TextCheck):
    """Matches where the expression (syntax of the `regex` module) is found anywhere in the text."""

    pattern: str = Field(alias="regex", min_length=1)
    ignore_case: bool = False
    _compiled: regex.Pattern[str] = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> RegexCheck:
        try:
            self._compiled = regex.compile(self.pattern, regex.IGNORECASE if self.ignore_case else 0)
        except regex.error as error:
            where = "" if error.pos is None else f" at position {error.pos}"
            raise ValueError(
                f"invalid regular expression {quote(self.pattern)}: {error.msg}{where}; "
                "correct it (backslashes need single quotes in YAML)"
            ) from None
        return self

    def find(self, question: Judgement, default: Target) -> Finding:
        """Search with a time limit, since some expressions take exponential time on some texts."""
        text, subject = self.read(question, default)
        try:
            match = self._compiled.search(text, timeout=REGEX_SECONDS)
        except TimeoutError:
            fact = f"the expression {quote(self.pattern)} did not finish within {REGEX_SECONDS:g} s"
            log.debug("%s on a text of %d characters", fact, len(text))
            return Finding(None, fact, Label.INVALID)
        if match is None:
            return Finding(False, f"{subject}has nothing that matches {quote(self.pattern)}")
        found = match.group()
        return Finding(True, f"{subject}{'contains ' + quote(found) if found else 'matches ' + quote(self.pattern)}")


class WordsCheck(TextCheck):
    """Matches where any of the words or phrases occurs, whole, whatever its case."""

    words: tuple[str, ...] = Field(min_length=1)
    _folded: tuple[tuple[str, str], ...] = PrivateAttr()

    @model_validator(mode="after")
    def _fold(self) -> WordsCheck:
        self._folded = tuple((word, fold(word)) for word in self.words)
        for word, folded in self._folded:
            if not folded:
                raise ValueError(f"the word {word!r} is blank and would never be found; remove it")
        return self

    def find(self, question: Judgement, default: Target) -> Finding:
        """Report the first word of the list that the text contains."""
        text, subject = self.read(question, default)
        folded_text = fold(text)
        for word, folded in self._folded:
            if folded in folded_text and contains_word(folded_text, folded):
                return Finding(True, f"{subject}contains {quote(word)}")
        shown = ", ".join(quote(word) for word in self.words[:3])
        more = f" and {len(self.words) - 3} more" if len(self.words) > 3 else ""
        return Finding(False, f"{subject}contains none of {shown}{more}")


class LengthBounds(BaseModel):
    """Inclusive bounds; at least one is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)
    unit: Literal["words", "characters"] = "words"

    @model_validator(mode="after")
    def _ordered(self) -> LengthBounds:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so no text could match")
        return self

    def in_words(self) -> str:
        """Return the bounds for people: `at least 3 and at most 9 words`."""
        limits = [f"at least {self.min}"] if self.min is not None else []
        limits += [f"at most {self.max}"] if self.max is not None else []
        return f"{' and '.join(limits)} {self.unit}"


class LengthCheck(TextCheck):
    """Matches where the length lies within the bounds. Words are what white space separates."""

    length: LengthBounds

    def find(self, question: Judgement, default: Target) -> Finding:
        """Count words or Unicode code points."""
        text, subject = self.read(question, default)
        bounds = self.length
        count = len(text.split()) if bounds.unit == "words" else len(text)
        matched = (bounds.min is None or count >= bounds.min) and (bounds.max is None or count <= bounds.max)
        limits = [f"at least {bounds.min}"] if bounds.min is not None else []
        limits += [f"at most {bounds.max}"] if bounds.max is not None else []
        return Finding(matched, f"{subject}has {count} {bounds.unit} (bounds: {', '.join(limits)})")


class ReadabilityBounds(BaseModel):
    """Inclusive bounds of the index; at least one is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ReadabilityBounds:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}, so no text could match")
        return self

    def in_words(self) -> str:
        """Return the bounds for people: `a readability index of at most 45`."""
        limits = [f"at least {self.min:g}"] if self.min is not None else []
        limits += [f"at most {self.max:g}"] if self.max is not None else []
        return f"a readability index of {' and '.join(limits)}"


class ReadabilityCheck(TextCheck):
    """Matches where the readability index LIX lies within the bounds; higher is harder to read."""

    readability: ReadabilityBounds

    def find(self, question: Judgement, default: Target) -> Finding:
        """Compute the index and compare it."""
        text, subject = self.read(question, default)
        score, bounds = lix(text), self.readability
        matched = (bounds.min is None or score >= bounds.min) and (bounds.max is None or score <= bounds.max)
        return Finding(matched, f"{subject}has a readability index of {score:.1f} (wanted: {bounds.in_words()})")


def lix(text: str) -> float:
    """Return the readability index LIX (C. H. Björnsson, 1968): words per sentence plus the percentage of long words.

    Words are what white space separates, long ones have more than six letters, sentences end in `.`, `!`, `?` or a
    line break. About 25 is children's books, 40 newspapers, above 55 official prose. Text without a letter has 0. It
    needs no dictionary, so it works for languages that put spaces between words, and for no others.
    """
    words = [letters for word in text.split() if (letters := sum(map(str.isalpha, word)))]
    if not words:
        return 0.0
    sentences = sum(any(map(str.isalpha, part)) for part in _SENTENCE_END.split(text))
    return len(words) / sentences + 100 * sum(letters > LONG_WORD for letters in words) / len(words)
