"""Which values of a recipe are paths is written once, at the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realigner.errors import RecipeError
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


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        ({"kind": "judges"}, "kind 'judges' needs oracle.llm or oracle.classifier"),
        ({"kind": "judges", "llm": {"kind": "rulse"}}, "'oracle.llm.kind' = 'rulse': the kinds are rules, scripted"),
        ({"kind": "judges", "llm": {"kind": "rulse"}}, "Did you mean 'rules'?"),
        ({"kind": "judges", "llm": {"path": "secret"}}, "missing key 'oracle.llm.kind': the kinds are rules"),
        (
            {"kind": "judges", "llm": {"kind": "scripted", "pat": "p"}},
            "missing key 'oracle.llm.path'; unknown key 'oracle.llm.pat'. Did you mean 'path'?",
        ),
        ({"kind": "rules", "store": "v"}, "oracle.store belongs to kind 'judges'"),
        ({"llm": {"kind": "rules"}}, "oracle.llm belongs to kind 'judges'"),
        ({"kind": "judges", "llm": {"kind": "rules"}, "max_cost": 1}, "oracle.max_cost needs oracle.prices"),
        ({"kind": "judges", "llm": {"kind": "rules"}, "max_calls": -1}, "'oracle.max_calls' = -1"),
    ],
)
def test_what_is_wrong_with_a_judge_is_said_in_the_keys_of_the_file(oracle: dict[str, Any], message: str) -> None:
    whole = {"output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}, "oracle": oracle}
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(whole)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\nloss: {beta: 1}\nloss: {confirm: 0}\n", "line 3: it is not valid YAML .the key 'loss' is given"),
        ("output: a\nloss: {beta: 1, beta: 2}\n", "line 2: it is not valid YAML .the key 'beta' is given twice"),
        ("output: [\n", "line 2: it is not valid YAML"),
        ("output: \x00", "special characters are not allowed"),
        ("output: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("- output", "it must be a mapping of settings"),
    ],
)
def test_a_recipe_that_is_no_clear_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        Recipe.load(tmp_path / "recipe.yaml")
