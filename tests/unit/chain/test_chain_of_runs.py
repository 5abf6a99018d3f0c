"""Three policies, three runs: each names the one before, and says what became of the rules of all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tiny import saved_tiny

from realigner.chain.migrate import next_recipe
from realigner.chain.moves import Moves, pair_rules
from realigner.chain.previous import compare, stored_chain
from realigner.check import check
from realigner.errors import RunDirError, StaleKeyError
from realigner.pipeline import run
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.recipe import ImpactSettings, Recipe
from realigner.report import render_report
from realigner.runs import StoredRun, load_run
from realigner.triaging import read_triage

WORDS = {
    "v1": {"no-sugar": "sugar", "no-flour": "flour"},
    "v2": {"no-sugar": "sugar", "no-flour": "time", "no-salt": "salt"},
    "v3": {"sugarless": "sugar", "no-salt": "salt"},
}
ANSWERS = (("Take sugar.", "Take salt."), ("More sugar.", "Take sugar!"), ("Water.", "Sugar!"), ("Flour.", "Time."))


def recipe_of(folder: Path, version: str, previous: str | None, **more: Any) -> Recipe:
    content = {
        "output": str(folder / version),
        "model": {"path": str(folder / "model"), "lora": {"rank": 2}},
        "data": {"path": str(folder / "pairs.jsonl"), "eval_fraction": 0.4},
        "policy": {"path": str(folder / f"{version}.yaml")},
        "previous": None if previous is None else str(folder / previous),
        "impact": {"weighting": "uniform"},
        "train": {"batch_size": 8, "micro_batch": 8, "learning_rate": 1e-2},
        "generate": {"max_new_tokens": 12, "batch_size": 5},
        "evaluate": {"retained": 6},
    }
    return Recipe.parse({**content, **more})


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    saved_tiny("llama", folder / "model")
    rows = ({"prompt": f"Bread {n}?", "chosen": a, "rejected": b} for n in range(40) for a, b in [ANSWERS[n % 4]])
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for version, words in WORDS.items():
        rules = [{"id": name, "text": "T.", "forbid": {"words": [word]}} for name, word in words.items()]
        policy = {"id": "bakery", "version": version, "title": "Bread", "rules": rules}
        (folder / f"{version}.yaml").write_text(yaml.safe_dump(policy))
    run(recipe_of(folder, "v1", None), until="triage")
    run(recipe_of(folder, "v2", "v1"), until="triage")
    run(recipe_of(folder, "v3", "v2"))
    return folder


def test_the_next_run_starts_from_the_model_that_was_left_and_is_held_to_what_held_the_last(chain: Path) -> None:
    stored, new = load_run(chain / "v3"), PolicyRecord.of(Policy.load(chain / "v2.yaml"))
    following = next_recipe(stored, stored.recipe, chain / "v2.yaml", new)
    assert following.model.path == str(chain / "v3" / "model")
    assert following.reference_model.path == str(chain / "model")
    assert next_recipe(stored, following, chain / "v2.yaml", new).reference == following.reference
    held = StoredRun(stored.directory, stored.manifest, following)  # migrated by --set reference=null
    assert next_recipe(held, stored.recipe, chain / "v2.yaml", new).reference is None
    weighted = stored.recipe.model_copy(update={"impact": ImpactSettings(weighting="impact")})
    assert next_recipe(stored, weighted, chain / "v2.yaml", new).reference is None


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_each_run_names_the_chain_before_it(chain: Path) -> None:
    assert not (chain / "v1" / "previous.json").exists()
    for version, earlier in (("v2", ["v1"]), ("v3", ["v1", "v2"])):
        found = content(chain / version / "previous.json")
        assert [link["policy"]["version"] for link in found["chain"]] == earlier
        assert [Path(link["run"]).name for link in found["chain"]] == earlier
        manifest = load_run(chain / version).stages["triage"]
        assert manifest["inputs"]["previous"] == {"triage": load_run(chain / earlier[-1]).stages["triage"]["key"]}
        assert "previous.json" in manifest["outputs"]


def test_the_moves_are_those_between_the_two_tables(chain: Path) -> None:
    moves = content(chain / "v3" / "previous.json")["moves"]
    old, new = (
        {row["id"]: row["outcome"] for row in pq.read_table(chain / v / "triage.parquet").to_pylist()}
        for v in ("v2", "v3")
    )
    pairs = [(old[name], new[name]) for name in old]
    assert len(set(pairs)) > 2
    for was, row in moves["matrix"].items():
        for now, count in row.items():
            assert count == pairs.count((was, now))
    status = {rule["rule"]: (rule["was"], rule["status"]) for rule in moves["rules"]}
    assert status == {
        "sugarless": ("no-sugar", "kept"),
        "no-salt": ("no-salt", "kept"),
        "no-flour": ("no-flour", "dropped"),
    }


def test_pairs_that_only_one_run_has_are_counted_apart(chain: Path) -> None:
    items = list(read_triage(chain / "v2" / "triage.parquet"))
    record = PolicyRecord.of(Policy.load(chain / "v2.yaml"))
    moves = Moves(pair_rules(record, record))
    compare(items[:-2], items[3:], moves)
    assert (moves.pairs, moves.changed, moves.only_old, moves.only_new) == (len(items) - 5, 0, 3, 2)


def test_the_summary_and_the_report_show_whether_surviving_rules_hold(chain: Path) -> None:
    earlier = content(chain / "v3" / "summary.json")["earlier_policies"]
    assert [link["policy"]["version"] for link in earlier["policies"]] == ["v1", "v2"]
    assert [(rule["rule"], rule["since"]) for rule in earlier["rules"]] == [
        ("sugarless", ["bakery v1", "bakery v2"]),
        ("no-salt", ["bakery v2"]),
    ]
    by_rule = content(chain / "v3" / "summary.json")["agreement"]["by_rule"]
    for rule in earlier["rules"]:
        assert {side: rule[side] for side in ("before", "after")} == {
            side: by_rule[rule["rule"]][side] for side in ("before", "after")
        }
    page = render_report(chain / "v3")
    assert "From policy to policy" in page
    assert "bakery v1" in page
    assert "kept, was no-sugar" in page
    (chain / "v3" / "previous.json").rename(chain / "hidden")
    assert "the run directory has no previous.json" in render_report(chain / "v3")
    (chain / "hidden").rename(chain / "v3" / "previous.json")


def test_a_run_without_a_previous_one_has_no_such_section(chain: Path) -> None:
    assert "From policy to policy" not in render_report(chain / "v1")


def test_check_looks_at_the_run_before(chain: Path) -> None:
    texts = [str(finding) for finding in check(recipe_of(chain, "v3", "v2"))]
    assert any("follows 2 runs: bakery v1, bakery v2" in text for text in texts)
    wrong = [finding.text for finding in check(recipe_of(chain, "v3", "nowhere")) if finding.level == "error"]
    assert any("nowhere: no such directory" in text for text in wrong)


def test_a_previous_run_that_cannot_be_followed_is_refused(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="nowhere: no such directory"):
        run(recipe_of(chain, "v3", "nowhere", output=str(tmp_path / "new")), until="triage")
    with pytest.raises(RunDirError, match="a run cannot follow itself"):
        run(recipe_of(chain, "v3", "v3"), until="triage")
    broken = Path(shutil.copytree(chain / "v2", tmp_path / "v2")) / "previous.json"
    for text in ("{", "{}", '{"format": 9, "chain": []}', '{"format": 1, "chain": [{"run": "r"}]}'):
        broken.write_text(text)
        with pytest.raises(RunDirError, match="no record of earlier policies that this version reads"):
            stored_chain(broken)


def test_another_previous_run_makes_the_triage_stale(chain: Path) -> None:
    with pytest.raises(StaleKeyError, match=r"previous\.triage"):
        run(recipe_of(chain, "v3", "v1"), until="triage")
