"""What the families of guard models have in common: how they are asked, and what a reading of their answer is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from realigner.oracle.local_prompt import without_control_tokens
from realigner.policy import Rule
from realigner.policy.inert import inert
from realigner.records import Judgement, Label, Message

Reason = str


@dataclass(frozen=True, slots=True)
class GuardPrompt:
    """What a guard is given: a conversation for the chat template that comes with it, or a whole text."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    """A text that the model goes on from, without the beginning-of-text token. Used where it is not empty."""
    arguments: tuple[tuple[str, str], ...] = ()
    """For the chat template, beside those of the recipe."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys are equal prompts."""
        turns = tuple((turn["role"], turn["content"]) for turn in self.messages)
        return turns, self.text, self.arguments


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guard said, by category."""

    labels: Mapping[str, tuple[Label, Reason]] = field(default_factory=dict)
    """Of the categories that it spoke of."""
    other: tuple[Label, Reason] = (Label.INVALID, "it said nothing")
    """Of all others."""

    def of(self, category: str) -> tuple[Label, Reason]:
        """Return the label of one category, and why."""
        return self.labels.get(category, self.other)


def unreadable(why: str) -> Reading:
    """Return the reading of an answer that is none."""
    return Reading(other=(Label.INVALID, why))


@dataclass(frozen=True)
class Family:
    """One family of guard models."""

    name: str
    categories: Mapping[str, str]
    """The own taxonomy: code to name. Empty where there is none."""
    read: Callable[[str, Sequence[Rule]], Reading]
    """Reads an answer; the rules are those of the prompt, for families that are told the policy."""
    own: Callable[[tuple[Message, ...]], GuardPrompt] | None = None
    """Asks by the own taxonomy."""
    policy: Callable[[Sequence[Rule], Judgement], GuardPrompt] | None = None
    """Asks by the wording of rules; the answer calls them `S1`, `S2`, … in their order."""
    guidelines: Mapping[str, str] = field(default_factory=dict)
    """By code, what the own taxonomy is asked by, for families that are told one principle at a time. The answer then
    calls it `S1`."""
    one_rule: bool = False
    """Whether `policy` takes one rule at a time."""
    control: tuple[str, ...] = ()
    """What is structure in its prompt, and therefore may not stand in the material."""
    max_tokens: int = 64
    """Of an answer."""
    version: int = 1
    """Raise it with any change of its prompt or parser."""

    def category(self, name: str) -> str | None:
        """Return the code of a category that is given by code or by name, in any case; None if it is unknown."""
        wanted = plain(name)
        return next((code for code, full in self.categories.items() if wanted in (plain(code), plain(full))), None)


def plain(name: str) -> str:
    """Return a name in the form in which names are compared: letters and digits, lower case."""
    return re.sub(r"[^a-z0-9]+", "", name.lower().replace("&", "and"))


def conversation(question: Judgement, control: Sequence[str]) -> tuple[Message, ...]:
    """Return prompt and response as guards take them: user and assistant in turn, the response last.

    A system turn goes before the first user turn's text, and turns of one role become one. Whatever is structure for
    the guard is broken up, so that no text can end its turn.
    """
    turns: list[Message] = []
    before = ""
    for turn in (*question.prompt, Message(role="assistant", content=question.response)):
        text = without_control_tokens(inert(turn["content"]), control)
        if turn["role"] == "system":
            before += f"{text}\n\n"
            continue
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1] = Message(role=turn["role"], content=f"{turns[-1]['content']}\n\n{text}")
            continue
        if not turns and turn["role"] == "assistant":
            turns.append(Message(role="user", content=before))
            before = ""
        if turn["role"] == "user" and before:
            text, before = before + text, ""
        turns.append(Message(role=turn["role"], content=text))
    return tuple(turns)


def transcript(turns: Sequence[Message], names: Mapping[str, str]) -> str:
    """Return turns as text, each after the name of its role."""
    return "\n\n".join(f"{names[turn['role']]}: {turn['content']}" for turn in turns)
