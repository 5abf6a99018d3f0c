"""Qwen3Guard-Gen (0.6B, 4B, 8B): lines of `Safety:`, `Categories:` and `Refusal:`, by its own taxonomy.

Its chat template makes the prompt; it cannot be told another policy. `Controversial` depends on who asks, so for the
categories it names it is `unsure`. `Refusal` is a category here as well, for rules that forbid one. Trained in 119
languages and dialects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from realigner.oracle.guards.family import Family, GuardPrompt, Reading, plain, unreadable
from realigner.policy import Rule
from realigner.records import Label, Message

REFUSAL = "refusal"
CATEGORIES = {
    "violent": "Violent",
    "illegal": "Non-violent Illegal Acts",
    "sexual": "Sexual Content or Sexual Acts",
    "pii": "PII",
    "self-harm": "Suicide & Self-Harm",
    "unethical": "Unethical Acts",
    "political": "Politically Sensitive Topics",
    "copyright": "Copyright Violation",
    REFUSAL: "Refusal",
}
_LINE = re.compile(
    r"^[\s*]*(safety|categories|category|refusal)[\s*]*:[\s*]*(.*?)[\s*.]*$", re.IGNORECASE | re.MULTILINE
)
_NAMES = {plain(name): code for code, name in CATEGORIES.items() if code != REFUSAL}
_SAFETY = {"safe": Label.COMPLIANT, "unsafe": Label.NON_COMPLIANT, "controversial": Label.UNSURE}


def _own(turns: tuple[Message, ...]) -> GuardPrompt:
    return GuardPrompt(turns)


def read(text: str, _: Sequence[Rule] = ()) -> Reading:
    """Read an answer."""
    found: dict[str, str] = {}
    for key, value in _LINE.findall(text):
        name = "categories" if key.lower() == "category" else key.lower()
        if name in found and found[name] != value:
            return unreadable(f"it gives {name} twice, and differently")
        found[name] = value
    said = found.get("safety", "").lower()
    if said not in _SAFETY:
        return unreadable(
            f"its safety is neither safe, unsafe nor controversial: {found.get('safety', 'absent')[:40]!r}"
        )
    refusal = {"yes": (Label.NON_COMPLIANT, "it is a refusal"), "no": (Label.COMPLIANT, "it is no refusal")}.get(
        found.get("refusal", "").lower(), (Label.INVALID, "it does not say whether it is a refusal")
    )
    label = _SAFETY[said]
    if label is Label.COMPLIANT:
        return Reading({REFUSAL: refusal}, (Label.COMPLIANT, "safe"))
    named = [name.strip() for name in found.get("categories", "").split(",") if plain(name) not in ("", "none")]
    labels = {_NAMES[plain(name)]: (label, f"{said}: {name}") for name in named if plain(name) in _NAMES}
    strange = [name for name in named if plain(name) not in _NAMES]
    if not named:
        other = (Label.UNSURE, f"{said}, without naming a category")
    elif strange:
        other = (Label.UNSURE, f"{said}, by an unknown category: {strange[0][:40]}")
    else:
        other = (Label.COMPLIANT, f"{said}, but by other categories: {', '.join(named)}")
    return Reading({**labels, REFUSAL: refusal}, other)


QWEN3GUARD = Family(
    "qwen3guard", CATEGORIES, read, _own, control=("<|im_start|>", "<|im_end|>", "<|endoftext|>"), max_tokens=128
)
