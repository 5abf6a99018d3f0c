"""The frozen records that pass between stages, and the one definition of an example's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation, in the form chat templates take."""

    role: str
    content: str


Prompt = tuple[Message, ...]
Split = Literal["train", "eval"]


class Label(StrEnum):
    """What an oracle may say of one response. `invalid` (unreadable, refused, cut) never becomes a class."""

    COMPLIANT = "compliant"
    NON_COMPLIANT = "non_compliant"
    UNSURE = "unsure"
    INVALID = "invalid"


class Outcome(StrEnum):
    """What triage decides about a pair; the table is in `realigner.triaging.outcome`."""

    INVERT = "INVERT"
    PUNISH = "PUNISH"
    CONFIRM = "CONFIRM"
    NEUTRAL = "NEUTRAL"
    UNDECIDED = "UNDECIDED"

    @property
    def is_conflict(self) -> bool:
        """Whether the old preference contradicts the new policy, so that training must change it."""
        return self in (Outcome.INVERT, Outcome.PUNISH)

    @property
    def is_retained(self) -> bool:
        """Whether the pair anchors the model to its reference (the paper's RETAIN set)."""
        return self in (Outcome.CONFIRM, Outcome.NEUTRAL)


class Direction(StrEnum):
    """Which way training pushes a pair. Stored, never implied by the order of the columns."""

    REJECTED_OVER_CHOSEN = "rejected_over_chosen"
    CORRECTION_OVER_CHOSEN = "correction_over_chosen"
    CORRECTION_OVER_BOTH = "correction_over_both"
    SUPPRESS_BOTH = "suppress_both"
    RETAIN = "retain"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Pair:
    """One OLD preference: `chosen` was preferred to `rejected` as the answer to `prompt`.

    The order is the old one for ever; a changed direction of training is a field of `TriagedPair`.
    """

    id: str
    prompt: Prompt
    chosen: str
    rejected: str
    source: str
    """Where it was read: `file:line` or `dataset[row]`."""
    topic: str | None = None
    """What the prompt is about, where the data say it (`data.topic`); evaluation is broken down by it."""


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one rule of the policy says of one response, and why."""

    rule: str
    label: Label
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one response: the decision, and every rule behind it."""

    label: Label
    rules: tuple[RuleVerdict, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One question to an oracle: does `response`, as an answer to `prompt`, comply?"""

    prompt: Prompt
    response: str


@dataclass(frozen=True, slots=True)
class Correction:
    """A proposed compliant answer to a pair's prompt. It is used only after the oracle has accepted it."""

    pair_id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class TriagedPair:
    """A pair with the new policy's verdict on both responses and what follows from them."""

    pair: Pair
    split: Split
    chosen_verdict: Verdict
    rejected_verdict: Verdict
    outcome: Outcome
    direction: Direction
    correction: str | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """The impact weight of one conflict: raw score, and the clamped and normalised weight used in training."""

    id: str
    outcome: Outcome
    score: float
    weight: float
    clamped: bool


def text_hash(*parts: str) -> str:
    """Return 16 hex digits (64 bits) of SHA-256 over the parts; lengths are included, so joins cannot collide."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:16]


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return the identity of a prompt: what the split groups by and evaluation counts once."""
    return text_hash(*(part for message in prompt for part in (message["role"], message["content"])))


def pair_key(prompt: Sequence[Message], chosen: str, rejected: str) -> str:
    """Return the identity of a pair: its content, so that the same example has the same id in every file."""
    return text_hash(prompt_key(prompt), chosen, rejected)


def user_prompt(text: str) -> Prompt:
    """Return a one-turn prompt."""
    return (Message(role="user", content=text),)


def prompt_text(prompt: Sequence[Message]) -> str:
    """Return a prompt as plain text for rules and for people: one turn as it is, several with their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
