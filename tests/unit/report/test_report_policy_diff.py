"""What changed between two policies is told rule by rule and word by word, from what the run recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.policy import Policy
from realigner.report.policy_diff import read_policy_diff, word_diff
from realigner.report.rundir import NotMeasured, RunFiles

WORDS = st.lists(st.sampled_from(["never", "name", "a", "disease", "help."]), max_size=12).map(" ".join)
OLD = """
id: old
version: "1"
title: Old
rules:
  - id: be-kind
    text: Be kind.
    forbid: {words: [idiot]}
    examples: [{text: You idiot., label: non_compliant, why: it insults}]
"""


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_both_wordings_can_be_read_from_the_difference(old: str, new: str) -> None:
    pieces = word_diff(old, new)
    for side, text in (("old", old), ("new", new)):
        read = "".join(f"{words} " for kind, words in pieces if kind in ("same", side))
        assert read.split() == text.split()
    assert old != new or all(kind == "same" for kind, _ in pieces)


def with_recipe(run: Path, folder: Path, facts: dict[str, Any] | None, path: Path) -> RunFiles:
    """Return a run that names an old policy and follows no run."""
    copy = Path(shutil.copytree(run, folder / "run", dirs_exist_ok=True))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"previous": None, "old_policy": {"path": str(path)}}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["stages"]["triage"]["facts"]["old_policy"] = facts
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return RunFiles(copy)


def test_an_old_policy_is_read_from_its_file_while_that_is_what_triage_read(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD, encoding="utf-8")
    facts = {"id": "old", "version": "1", "hash": Policy.load(path).hash}
    found = read_policy_diff(with_recipe(run_dir, tmp_path, facts, path))
    assert (found.old, found.new, found.old_hash) == ("old 1", "clinic 2.1.0", facts["hash"])
    assert found.counts == {"added": 4, "dropped": 1, "edited": 0, "unchanged": 0}
    assert found.rules[-1].pieces == (("old", "Be kind."),)
    path.write_text(OLD.replace("Be kind.", "Be polite."), encoding="utf-8")
    with pytest.raises(NotMeasured, match="is not what it was when the pairs were triaged"):
        read_policy_diff(with_recipe(run_dir, tmp_path, facts, path))
    path.write_text("id: [", encoding="utf-8")
    with pytest.raises(NotMeasured, match="the old policy cannot be read"):
        read_policy_diff(with_recipe(run_dir, tmp_path, facts, path))
    path.unlink()
    with pytest.raises(NotMeasured, match="is not where it was"):
        read_policy_diff(with_recipe(run_dir, tmp_path, facts, path))
    with pytest.raises(NotMeasured, match="names neither a run before this one"):
        read_policy_diff(with_recipe(run_dir, tmp_path, None, path))


def test_a_renamed_an_edited_and_an_unchanged_rule_are_told_apart(run_dir: Path) -> None:
    found = read_policy_diff(RunFiles(run_dir))
    rules = {rule.id: rule for rule in found.rules}
    assert found.counts == {"added": 1, "dropped": 1, "edited": 2, "unchanged": 1}
    assert rules["say-uncertain"].was == "doubt" and all(kind == "same" for kind, _ in rules["say-uncertain"].pieces)
    assert [kind for kind, _ in rules["no-diagnosis"].pieces] == ["same", "old", "new"]
    assert rules["short-answers"].notes == ("tier reduced, judged by rules",)
