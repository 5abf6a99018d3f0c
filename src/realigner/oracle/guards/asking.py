"""Asking a guard model, wherever it runs: prompts in, what was written out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from realigner.oracle.guards.family import GuardPrompt
from realigner.oracle.judge import JudgeCosts


@dataclass(frozen=True, slots=True)
class Written:
    """What a guard wrote, or why it wrote nothing whole."""

    text: str = ""
    error: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0
    model: str = ""


class Guard(Protocol):
    """Answers prompts. Equal identities give equal answers, as far as a model does."""

    costs: JudgeCosts

    @property
    def identity(self) -> str:
        """The model, its precision or place, and what is told to its template."""
        ...

    def check(self) -> str:
        """Say in a line that it can be asked, or raise OracleError or ModelError."""
        ...

    def ask(self, prompts: Sequence[GuardPrompt]) -> Iterator[tuple[int, Written]]:
        """Yield (place, written) once a prompt, in any order."""
        ...
