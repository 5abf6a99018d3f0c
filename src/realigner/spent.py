"""What one command has spent on judges so far: one object, shared by its stages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Spent:
    """Calls that a model answered, their tokens, and their cost in the currency of the price file."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
