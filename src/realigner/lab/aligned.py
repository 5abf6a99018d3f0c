"""The lab's aligned model: a small Llama that read the world's texts, then learned the old policy by DPO.

Two models come of it. `base` has read the corpus and is aligned with nothing; `model` is M_ref, the base after
direct preference optimisation (DPO) on old preferences over the whole world. One M_ref serves every shift, because
all shifts start from the same old policy. Everything is decided by the settings and cached by their hash.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from realigner.atomic import writing_directory
from realigner.lab.shifts import (
    OLD,
    Changes,
    complies,
    draw_lab_corpus,
    draw_lab_held_out,
    draw_old_preferences,
)
from realigner.lab.small_model import Size
from realigner.lab.world import Ask
from realigner.progress import SILENT, Progress
from realigner.recipe import TextSettings
from realigner.records import user_prompt

Preset = Literal["small", "full"]
MODEL, BASE, FACTS = "model", "base", "lab.json"
NEEDED_AGREEMENT = 0.95
"""With the old policy on held-out prompts; below it M_ref is not aligned."""
NEEDED_WELL_FORMED = 0.95
"""Share of answers that are sentences of the world."""


@dataclass(frozen=True, slots=True)
class LabSettings:
    """What decides base and M_ref."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: int = 0
    size: Size = field(default_factory=lambda: Size(hidden=96, intermediate=256, layers=2, heads=4, context=160))
    corpus: int = 12000
    """Prompts with an answer, for the base."""
    movable: float = 0.7
    """Share of them that get any answer, whatever the old policy says of it."""
    steps: int = 900
    batch: int = 32
    learning_rate: float = 6e-3
    preferences: int = 2000
    preference_steps: int = 60
    preference_batch: int = 32
    preference_learning_rate: float = 1e-4
    beta: float = 0.1
    held_out: int = 400
    """Prompts on which M_ref is measured."""


PRESETS: dict[Preset, LabSettings] = {
    "small": LabSettings(),
    "full": LabSettings(
        size=Size(hidden=192, intermediate=512, layers=4, heads=6, context=160),
        corpus=24000,
        steps=2500,
        learning_rate=4e-3,
        preferences=4000,
        preference_steps=90,
        preference_learning_rate=1e-4,
    ),
}


@dataclass(frozen=True)
class LabBehaviour:
    """What M_ref does on held-out prompts; answers are greedy unless said otherwise."""

    prompts: int
    old_agreement: float
    well_formed: float
    entropy: float
    """Mean entropy of the next token along its own answers, in nats: zero would be a saturated model."""
    base_old_agreement: float
    """Of the base, before DPO."""

    @property
    def faults(self) -> list[str]:
        """Return which requirements do not hold, in words."""
        found = []
        if self.old_agreement < NEEDED_AGREEMENT:
            found.append(f"M_ref agrees with the old policy on {self.old_agreement:.1%}, needed {NEEDED_AGREEMENT:.0%}")
        if self.well_formed < NEEDED_WELL_FORMED:
            found.append(f"{self.well_formed:.1%} of its answers are well-formed, needed {NEEDED_WELL_FORMED:.0%}")
        return found


@lru_cache(16)
def lab_key(settings: LabSettings) -> str:
    """Return the identity of a base and its M_ref: the settings, every text they learn from, and how they learn."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for name in ("small_model.py", "teach.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    for texts in (
        draw_lab_corpus(settings.corpus, settings.seed, movable=settings.movable),
        draw_old_preferences(settings.preferences, settings.seed),
        draw_lab_held_out(settings.held_out, settings.seed),
    ):
        digest.update(repr(list(texts)).encode())
    return digest.hexdigest()[:16]


def build_lab(root: str | Path, settings: LabSettings, progress: Progress = SILENT) -> Path:
    """Return the directory of a base and its M_ref, made now or before: `base/`, `model/` and `lab.json`.

    Args:
        root: the cache; the model lies in `root/<hash of the settings>`.
        settings: what to make.
        progress: where to show how far it is.
    """
    place = Path(root) / lab_key(settings)
    if not (place / FACTS).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with writing_directory(place) as path:
            facts = _build(path, settings, progress)
            content = {"settings": asdict(settings), **facts}
            (path / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return place


def behaviour_of(place: Path) -> LabBehaviour:
    """Return what was measured when a lab directory was made."""
    content = json.loads((place / FACTS).read_text(encoding="utf-8"))
    return LabBehaviour(**content["behaviour"])


def small_settings(seed: int, preset: Preset = "small") -> LabSettings:
    """Return a preset with a seed."""
    return replace(PRESETS[preset], seed=seed)


def encoder_for(tokenizer: Any, context: int) -> Any:
    """Return the encoder that every experiment of the lab uses."""
    from realigner.model.chat import Encoder

    return Encoder(tokenizer, TextSettings(), context)


def encode_texts(encoder: Any, prompt: str, *answers: str) -> tuple[Any, ...]:
    """Return one row for each answer to a one-turn prompt."""
    rows = encoder.encode(prompt, user_prompt(prompt), {str(i): a for i, a in enumerate(answers)})
    assert rows is not None  # nothing of this world is too long
    return tuple(rows.values())


def agreement(asked: Sequence[tuple[Ask, str]], texts: Sequence[str], changes: Changes) -> float:
    """Return the share of answers that comply with a policy, by the truth; what is malformed never does."""
    from realigner.lab.parse import answer_to

    answers = [(ask, answer_to(ask, text)) for (ask, _), text in zip(asked, texts, strict=True)]
    return sum(a is not None and complies(ask, a, changes) for ask, a in answers) / max(len(answers), 1)


def _build(path: Path, settings: LabSettings, progress: Progress) -> dict[str, Any]:
    from realigner.lab.small_model import make_model, make_tokenizer
    from realigner.lab.teach import Schedule, teach_answers, teach_preferences

    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - start - sum(seconds.values()), 2)

    corpus = list(draw_lab_corpus(settings.corpus, settings.seed, movable=settings.movable))
    tokenizer = make_tokenizer((text for row in corpus for text in row), 900)
    encoder = encoder_for(tokenizer, settings.size.context)
    answers = [encode_texts(encoder, prompt, answer)[0] for prompt, answer in corpus]
    preferences: list[Any] = [
        encode_texts(encoder, prompt, good, bad)
        for prompt, good, bad in draw_old_preferences(settings.preferences, settings.seed)
    ]
    lap("data")
    model = make_model(tokenizer, settings.size, settings.seed)
    schedule = Schedule(settings.steps, settings.batch, settings.learning_rate)
    teach_answers(model, answers, schedule, settings.seed, progress)
    _save(path / BASE, model, tokenizer)
    lap("base")
    asked = draw_lab_held_out(settings.held_out, settings.seed)
    base = _measure(model, encoder, asked)
    schedule = Schedule(settings.preference_steps, settings.preference_batch, settings.preference_learning_rate)
    teach_preferences(model, preferences, schedule, settings.seed, beta=settings.beta, progress=progress)
    _save(path / MODEL, model, tokenizer)
    lap("preferences")
    found = _measure(model, encoder, asked)
    lap("measure")
    behaviour = LabBehaviour(
        prompts=len(asked),
        old_agreement=found["old"],
        well_formed=found["well_formed"],
        entropy=found["entropy"],
        base_old_agreement=base["old"],
    )
    return {"parameters": model.num_parameters(), "behaviour": asdict(behaviour), "seconds": seconds}


def _save(path: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)


def _measure(model: Any, encoder: Any, asked: Sequence[tuple[Ask, str]]) -> dict[str, float]:
    from realigner.lab.measure import LAB_TOKENS, answer_prompts, mean_entropy, share
    from realigner.lab.parse import parse_answer

    model.eval()
    texts = answer_prompts(model, encoder, [prompt for _, prompt in asked], new_tokens=LAB_TOKENS)
    rows = [
        encode_texts(encoder, prompt, text)[0] for (_, prompt), text in zip(asked, texts, strict=True) if text.strip()
    ]
    return {
        "old": agreement(asked, texts, OLD),
        "well_formed": share(texts, lambda text: parse_answer(text) is not None),
        "entropy": mean_entropy(model, rows),
    }
