"""The policies that come with realigner: found by name, and each held to its own examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from realigner.errors import PolicyError
from realigner.policy import Policy
from realigner.policy.shipped import PREFIX, shipped_names
from realigner.recipe import Recipe

NAMES = shipped_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_is_called_by_its_id(name: str) -> None:
    assert Policy.load(name).id == name.removeprefix(PREFIX)


@pytest.mark.parametrize("name", NAMES)
def test_fallbacks_of_shipped_policies_agree_with_the_examples(name: str) -> None:
    assert Policy.load(name).check_examples(fallbacks=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_wording_rule_is_shown_from_both_sides(name: str) -> None:
    for rule in Policy.load(name).wording_rules:
        assert {example.label for example in rule.examples} == {"compliant", "non_compliant"}, rule.id


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.load("realigner:house-stile")
    assert f"realigner ships {', '.join(NAMES)}" in str(caught.value)
    assert "Did you mean 'realigner:house-style'?" in str(caught.value)


def test_a_missing_file_with_the_name_of_a_shipped_policy_is_hinted_at(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no such file.*Did you mean 'realigner:house-style', which comes with"):
        Policy.load(tmp_path / "house-style.yaml")


def test_a_recipe_names_a_shipped_policy_wherever_it_lies(tmp_path: Path) -> None:
    content = {
        "output": "o",
        "model": {"path": "m"},
        "data": {"path": "d"},
        "policy": {"path": "realigner:house-style"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert Recipe.load(path).policy.path == "realigner:house-style"
