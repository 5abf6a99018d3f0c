"""docs/recipe.md is the schema, in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from realigner import recipe_parts
from realigner.errors import RecipeError
from realigner.recipe import Recipe
from realigner.recipe_docs import page_of, recipe_page
from realigner.recipe_parts import Section

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"
MINIMAL = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
REQUIRED = {
    "reference.path": "r",
    "data.fields.chosen": "c",
    "data.fields.rejected": "r",
    "corrections.generate.writer": {},
    "human.path": "h",
    "old_policy.path": "o",
    "evaluate.utility.tasks": [{"name": "mmlu"}],
    "evaluate.utility.tasks[].name": "mmlu",
    "evaluate.values.sets": [{"path": "s"}],
    "evaluate.values.sets[].path": "s",
}
REQUIRED |= {f"{where}.noise.rules[].rule": "r" for where in ("oracle", "evaluate.oracle")}


UNIONS = ("llm", "classifier", "writer", "judge")
"""Keys whose sections have tables of their own, one for each kind."""


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Dotted key, value, default and meaning of each row of each table."""
    sections: list[str] = []
    for line in recipe_page().splitlines():
        if line.startswith("## "):
            sections = [] if " of kind " in line else re.findall(r"`(.*?)`", line) or [""]
        elif line.startswith("| `"):
            key, value, default, meaning = re.split(r" \| ", line.strip("| "))
            for section in sections:
                yield f"{section}.{key.strip('`')}".lstrip("."), value, default, meaning


def leaves(content: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{before}{key}"
        if isinstance(value, dict) and key not in UNIONS:
            yield from leaves(value, f"{before}{key}.")
        for item in value if isinstance(value, list | tuple) else ():
            if isinstance(item, dict):
                yield from leaves(item, f"{before}{key}[].")


def test_the_page_is_up_to_date() -> None:
    hint = "Make it again: python -m realigner.recipe_docs > docs/recipe.md"
    assert PAGE.read_text(encoding="utf-8") == recipe_page(), hint


def test_every_key_of_a_whole_recipe_is_on_the_page_with_its_meaning() -> None:
    noise = {"of": "rules", "rules": [{"rule": "r"}]}
    oracle = {"oracle": {"kind": "rules", "noise": noise}}
    whole = {**MINIMAL, **oracle, "data": {"path": "d", "fields": {"chosen": "c", "rejected": "r"}}}
    generate = {"writer": {"kind": "local", "path": "w"}, "second": {"llm": {"kind": "rules"}}}
    whole |= {
        "reference": {"path": "r"},
        "corrections": {"generate": generate},
        "human": {"path": "h"},
        "old_policy": {"path": "o"},
        "evaluate": oracle
        | {
            "win_rate": {},
            "stress": {"prompts": "p"},
            "utility": {"tasks": [{"name": "mmlu"}]},
            "values": {"sets": [{"path": "s"}]},
            "inside": {},
        },
    }
    keys = set(leaves(Recipe.parse(whole).model_dump()))
    described = {key: meaning for key, _, _, meaning in rows()}
    assert keys == set(described)
    assert [key for key, meaning in described.items() if len(meaning) < 5] == []


@pytest.mark.parametrize("key", [key for key, value, _, _ in rows() if "> 0" in value or "≥ 1" in value])
def test_a_lower_bound_of_the_page_is_the_schemas(key: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe.parse(MINIMAL).to_yaml(), encoding="utf-8")
    of_list, _, within = key.partition("[].")
    setting, place = (f"{of_list}=[{{{within}: 0}}]", f"{of_list}.0.{within}") if within else (f"{key}=0", key)
    with pytest.raises(RecipeError, match=re.escape(f"'{place}")):
        Recipe.load(path, [setting])


@pytest.mark.parametrize("key", [key for key, value, _, _ in rows() if value.startswith("`") and "null" not in value])
def test_words_that_the_page_does_not_list_are_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe.parse(MINIMAL).to_yaml(), encoding="utf-8")
    of_list, _, within = key.partition("[].")
    setting, place = (
        (f"{of_list}=[{{{within}: anything}}]", f"{of_list}.0.{within}") if within else (f"{key}=anything", key)
    )
    with pytest.raises(RecipeError, match=re.escape(f"'{place}' = 'anything'")):
        Recipe.load(path, [setting])


def test_what_the_page_calls_required_is_what_a_recipe_must_give() -> None:
    required = {key for key, _, default, _ in rows() if default == "**required**"}
    given = set(leaves(MINIMAL))
    assert required == given | set(REQUIRED)
    assert Recipe.parse(MINIMAL).output == "o"


class Cat(Section):
    """Purrs."""

    kind: Literal["cat"]
    """A cat."""
    lives: Annotated[int, Field(ge=1)] = 9
    """How many."""


class Shelter(Section):
    """Holds animals of all kinds, other shelters too."""

    kind: Literal["shelter"]
    """A shelter."""
    inside: tuple[Animal, ...] = ()
    """Who lives there."""


Animal = Annotated[Cat | Shelter, Field(discriminator="kind")]


class Toy(Section):
    """Squeaks."""

    size: float = 1.0
    """In metres."""


class Home(Section):
    """A place."""

    guest: Animal | None = None
    """Who comes."""
    toys: tuple[Toy, ...] = ()
    """What lies about."""
    corner: tuple[int, float] = (0, 0.5)
    """Where."""


Shelter.model_rebuild()


def test_unions_lists_and_fixed_lists_of_a_schema_are_described() -> None:
    page = page_of(Home, sys.modules[__name__], recipe_parts)
    table = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| `")}
    assert table["| `guest`"] == "| `guest` | a judge or `null` | `null` | Who comes. |"
    assert table["| `inside`"] == "| `inside` | list of judges | `[]` | Who lives there. |"
    assert table["| `toys`"] == "| `toys` | list of sections | `[]` | What lies about. |"
    assert table["| `corner`"] == "| `corner` | list of whole number, number | `[0, 0.5]` | Where. |"
    assert table["| `lives`"] == "| `lives` | whole number ≥ 1 | `9` | How many. |"
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## Top level", "## `toys[]`", "## A judge of kind `cat`", "## A judge of kind `shelter`"]
