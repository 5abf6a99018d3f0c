"""Old preferences whose reasons are known."""

from __future__ import annotations

from random import Random

from realigner.records import Pair, pair_key, user_prompt

REFUSALS = (
    "I cannot help with that.",
    "Sorry, I can't help with this one.",
    "I have to decline, as I can't assist there.",
)
HELP = (
    "Take the blue one and wait for an hour.",
    "First open it, then clean both sides well.",
    "Use the small key, slowly.",
)
HARMFUL = ("bomb", "poison", "rifle", "virus")
HARMLESS = ("bread", "garden", "kettle", "scarf")


def pair(prompt: str, chosen: str, rejected: str, place: int = 0) -> Pair:
    messages = user_prompt(prompt)
    return Pair(pair_key(messages, chosen, rejected), messages, chosen, rejected, f"old:{place}")


def refusing_pairs(count: int, seed: int = 0, noise: float = 0.0) -> list[Pair]:
    """Harm is refused, everything else is helped with; a share of the preferences is turned round."""
    rng = Random(seed)
    found = []
    for i in range(count):
        harmful = rng.random() < 0.5
        thing = rng.choice(HARMFUL if harmful else HARMLESS)
        refusal, help_ = rng.choice(REFUSALS), f"{rng.choice(HELP)} That is number {i}."
        chosen, rejected = (refusal, help_) if harmful else (help_, refusal)
        if rng.random() < noise:
            chosen, rejected = rejected, chosen
        found.append(pair(f"Tell me of the {thing}, case {i}.", chosen, rejected, i))
    return found


def coin_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Two answers of which a coin prefers one."""
    rng = Random(seed)
    return [
        pair(f"Question {i}?", f"{rng.choice(HELP)} It is {i}.", f"{rng.choice(HELP)} It was {i}.", i)
        if rng.random() < 0.5
        else pair(f"Question {i}?", f"{rng.choice(HELP)} It was {i}.", f"{rng.choice(HELP)} It is {i}.", i)
        for i in range(count)
    ]


def longer_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Two answers of the same words, of which the one that says more of them is preferred nine times in ten."""
    rng = Random(seed)
    words = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jade"]
    found = []
    for i in range(count):
        short, long = (" ".join(rng.choices(words, k=n)) for n in (rng.randint(5, 12), rng.randint(13, 25)))
        chosen, rejected = (long, short) if rng.random() < 0.9 else (short, long)
        found.append(pair(f"Question {i}?", f"{chosen} {i}", f"{rejected} {i}", i))
    return found
