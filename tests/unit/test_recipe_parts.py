"""Which values of a recipe are paths is written once, at the field."""

from __future__ import annotations

from pathlib import Path

from realigner.recipe import Recipe
from realigner.recipe_parts import A_FILE, FileOrId, FilePath, OptionalFilePath, PathMark, Section, place_paths


class Leaf(Section):
    path: FilePath
    name: str = "name"


class Tree(Section):
    model: FileOrId = "org/model"
    none: OptionalFilePath = None
    leaf: Leaf = Leaf(path="a")
    leaves: tuple[Leaf, ...] = ()
    words: tuple[str, ...] = ("word",)


def test_every_marked_path_at_any_depth_is_placed_and_nothing_else() -> None:
    seen: list[tuple[str, PathMark]] = []

    def place(text: str, mark: PathMark) -> str:
        seen.append((text, mark))
        return f"/base/{text}"

    tree = place_paths(Tree(leaves=(Leaf(path="b"), Leaf(path="c", name="other"))), place)
    assert tree == Tree(
        model="/base/org/model",
        leaf=Leaf(path="/base/a"),
        leaves=(Leaf(path="/base/b"), Leaf(path="/base/c", name="other")),
    )
    assert [text for text, mark in seen if mark == A_FILE] == ["a", "b", "c"]


def test_paths_are_relative_to_the_recipe_and_hub_ids_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    recipe = Recipe.parse(
        {
            "output": "runs/o",
            "model": {"path": "org/model"},
            "data": {"path": "there"},
            "policy": {"path": "p.yaml"},
            "evaluate": {"oracle": {"kind": "scripted", "path": "verdicts.jsonl"}},
        },
        base=tmp_path,
    )
    assert (recipe.output, recipe.model.path) == (str(tmp_path / "runs/o"), "org/model")
    assert recipe.data.path == str(tmp_path / "there")
    assert recipe.evaluate.oracle is not None
    assert recipe.evaluate.oracle.path == str(tmp_path / "verdicts.jsonl")
