"""Stress tests: attacks on both models, over-refusal, and what the new policy newly allows."""

from realigner.evaluate.stress.attacks import ATTACKS, Attack, Target, attacked

__all__ = ["ATTACKS", "Attack", "Target", "attacked"]
