"""A model for lm_eval that answers by the book: it knows the right answer of a share of the questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import LM


class ScriptedLM(LM):
    """Answers right where `knows(document)` says so; else names the choice after the right one, or a wrong number."""

    def __init__(self, knows: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__()
        self._knows = knows
        self.prompts: list[str] = []

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.prompts += [request.args[0] for request in requests]
        found = []
        for request in requests:
            right = int(request.doc["answer"])
            wanted = right if self._knows(request.doc) else (right + 1) % len(request.doc["choices"])
            # Sums over the letters of a choice: a long one may be likelier by letter and less likely as a whole.
            found.append((-1.0 if request.idx == wanted else -1000.0, request.idx == wanted))
        return found

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [
            f" First 3 + 4 = 7. So the answer is ${request.doc['number']}.00."
            if self._knows(request.doc)
            else " I think it is 1,000,000,007"
            for request in requests
        ]
