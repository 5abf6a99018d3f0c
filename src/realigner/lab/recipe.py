"""`realigner lab build`: M_ref, the old preferences of a shift, its policies, and a recipe that runs TRACE on them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any, get_args

import yaml

from realigner.atomic import writing_directory
from realigner.errors import RecipeError, did_you_mean
from realigner.lab.aligned import MODEL, LabBehaviour, Preset, agreement, behaviour_of, build_lab, small_settings
from realigner.lab.build import write_corrections, write_pairs
from realigner.lab.shifts import PRESETS, Shift, draw_shift_pairs, policy_file, shift_named
from realigner.progress import SILENT, Progress

MODELS = "models"


@dataclass(frozen=True)
class Made:
    """What `lab build` made, and what was measured of it."""

    directory: Path
    behaviour: LabBehaviour
    new_agreement: float
    """Share of the shift's held-out prompts on which M_ref already answers as the new policy wants."""
    outcomes: dict[str, int]

    @property
    def faults(self) -> list[str]:
        """Return which requirements M_ref does not meet."""
        return self.behaviour.faults

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "directory": str(self.directory),
            "recipe": str(self.directory / "recipe.yaml"),
            "behaviour": asdict(self.behaviour),
            "new_agreement": self.new_agreement,
            "outcomes": self.outcomes,
            "faults": self.faults,
        }

    def lines(self) -> list[str]:
        """Return what a person wants to know."""
        b = self.behaviour
        return [
            f"old policy: {b.old_agreement:.1%} of {b.prompts} held-out prompts; the base {b.base_old_agreement:.1%}",
            f"new policy: {self.new_agreement:.1%} already; entropy {b.entropy:.2f} nats a token; "
            f"well-formed {b.well_formed:.1%}",
            "pairs: " + ", ".join(f"{name} {count}" for name, count in self.outcomes.items()),
            *(f"NOT MET: {fault}" for fault in self.faults),
            f"Next: realigner run {self.directory / 'recipe.yaml'}",
        ]


def build_shift(
    output: str | Path,
    name: str,
    *,
    preset: str = "small",
    seed: int = 0,
    pairs: int = 2000,
    mix: str | None = None,
    progress: Progress = SILENT,
) -> Made:
    """Make `output/<shift>/`: model, pairs, corrections, both policies and a recipe.

    The model is the same for all shifts of a seed and is kept under `output/models`, by the hash of what decides it.

    Args:
        output: directory of the lab.
        name: the shift.
        preset: `small` or `full`, the size of the model.
        seed: decides everything.
        pairs: how many old preferences.
        mix: a preset of outcomes; default: the shift's own.
        progress: where to show how far it is.

    Raises:
        RecipeError: shift, preset or mix is not known.
    """
    shift = shift_named(name)
    for what, value, known in (("preset", preset, get_args(Preset)), ("mix", mix, tuple(PRESETS))):
        if value is not None and value not in known:
            near = did_you_mean(value, known)
            raise RecipeError(f"{what} {value!r}", f"the lab has {', '.join(known)}", f"Name one of them.{near}")
    place = build_lab(Path(output) / MODELS, small_settings(seed, "full" if preset == "full" else "small"), progress)
    drawn = draw_shift_pairs(shift, pairs, seed, PRESETS[mix] if mix else None)
    directory = Path(output) / name
    with writing_directory(directory) as path:
        copytree(place / MODEL, path / MODEL)
        write_pairs(path / "pairs.jsonl", drawn)
        write_corrections(path / "corrections.jsonl", drawn)
        copyfile(shift.policy_file, path / "policy.yaml")
        copyfile(policy_file("old"), path / "old-policy.yaml")
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(shift, seed), sort_keys=False), encoding="utf-8")
        counts = {str(o): sum(p.outcome is o for p in drawn) for o in dict.fromkeys(p.outcome for p in drawn)}
        made = Made(directory, behaviour_of(place), _new_agreement(place, shift, seed), counts)
        (path / "lab.json").write_text(json.dumps(made.facts(), indent=2) + "\n", encoding="utf-8")
    return made


def recipe_of(shift: Shift, seed: int) -> dict[str, Any]:
    """Return the recipe of a run on a shift; what it does not name is the library's default."""
    return {
        "output": f"../runs/{shift.name}",
        "seed": seed,
        "model": {"path": MODEL, "lora": None},
        "data": {"path": "pairs.jsonl", "format": "trl"},
        "policy": {"path": "policy.yaml", "allow_code": True},
        "corrections": {"path": "corrections.jsonl"},
        "train": {"learning_rate": 4e-4, "micro_batch": 32, "warmup_steps": 5},
        "generate": {"max_new_tokens": 96, "batch_size": 100},
        "report": {"title": f"Lab: {shift.title}"},
    }


def _new_agreement(place: Path, shift: Shift, seed: int) -> float:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from realigner.lab.aligned import encoder_for
    from realigner.lab.exam import Exam, answers

    model = AutoModelForCausalLM.from_pretrained(place / MODEL).eval()
    encoder = encoder_for(AutoTokenizer.from_pretrained(place / MODEL), model.config.max_position_embeddings)
    asked = [(ask, prompt) for ask, prompt, _ in Exam(shift, seed, prompts=200).asked]
    return agreement(asked, answers(model, encoder, [prompt for _, prompt in asked]), shift.changes)
