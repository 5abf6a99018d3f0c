"""Two models side by side for tests of single parts: made in memory, with an encoder each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realigner.evaluate.parts import Comparison
from realigner.model.chat import Encoder
from realigner.policy import Policy
from realigner.progress import SILENT
from realigner.recipe import Recipe
from realigner.spent import Spent

POLICY = "id: p\nversion: '1'\ntitle: T\nrules: [{id: r, text: Never write x., forbid: {words: [x]}}]\n"


@dataclass(frozen=True)
class InMemory(Comparison):
    """A comparison whose models are objects; `loads` lists the sides in the order in which they were asked for."""

    made: Mapping[str, tuple[Any, Encoder]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def load(self, side: str) -> tuple[Any, Any]:
        self.loads.append(side)
        return self.made[side]

    def encoder(self, side: str) -> Any:
        return self.made[side][1]


def in_memory(directory: Path, made: Mapping[str, tuple[Any, Encoder]], seed: int = 0) -> InMemory:
    (directory / "policy.yaml").write_text(POLICY)
    recipe = Recipe.parse(
        {
            "output": str(directory),
            "seed": seed,
            "model": {"path": "none", "lora": None},
            "data": {"path": "d"},
            "policy": {"path": str(directory / "policy.yaml")},
        }
    )
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    policy = Policy.load(recipe.policy.path)
    return InMemory(recipe, dict.fromkeys(made, recipe.model), policy, directory, scratch, SILENT, Spent(), made=made)
