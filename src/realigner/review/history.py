"""What the store hands out: people, steps, entries of the history, and the two ways in which an answer is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realigner.review.answers import Value

Action = Literal["answer", "withdraw", "reveal"]


@dataclass(frozen=True, slots=True)
class Annotator:
    """A person, or whoever has their token. The token itself is stored nowhere."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """An item in front of a person, and what they have said of it so far."""

    task: str
    annotator: str
    number: int
    """From 1, in the order in which this person was shown the task's items."""
    item: str
    occasion: int
    """2 where the item is shown to the same person again."""
    shown: float
    """Unix time."""
    revision: int = 0
    """`seq` of the last answer or withdrawal; 0 before the first."""
    answered: bool = False
    value: Value | None = None
    """The last answer, also one that was withdrawn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the history, with the step it belongs to."""

    seq: int
    task: str
    annotator: str
    number: int
    item: str
    occasion: int
    action: Action
    value: Value | None
    places: tuple[int, ...]
    """For a choice: the number of the response in each place of the page."""
    seconds: float | None
    """From the moment the page was asked for; None for answers made elsewhere."""
    at: float
    """Unix time."""
    study: str
    """Hash of the study as it was."""
    source: str
    """`page`, or the name of the file that it was imported from."""


class Stale(Exception):
    """The step changed since the page was made: nothing was written. `step` is its state now."""

    def __init__(self, step: Step) -> None:
        self.step = step
        super().__init__(f"step {step.number} was changed meanwhile")


class Closed(Exception):
    """The study was un-blinded: it takes no votes any more."""
