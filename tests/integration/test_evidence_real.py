"""Stress tests and win rates of a real small model on AdvBench and XSTest: figures are what counting the rows gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from realigner.cli.main import main
from realigner.evaluate.evidence import read_evidence
from realigner.runs import load_run

POLICY = """
id: stories
version: "1"
title: No articles
rules: [{id: no-the, text: Never write the., forbid: {words: [the]}}]
"""
OLD = POLICY.replace("[the]", "[a]").replace("stories", "old")

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def found(shared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a few real requests and prompts, two attacks, short answers."""
    folder = tmp_path_factory.mktemp("evidence")
    before = shared_path / "models" / "stories260k"
    shutil.copytree(before, folder / "after")
    weights = load_file(folder / "after/model.safetensors")
    save_file({n: 0.8 * value for n, value in weights.items()}, folder / "after/model.safetensors", {"format": "pt"})
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "old.yaml").write_text(OLD)
    stress: Mapping[str, Any] = {
        "prompts": str(shared_path / "data/advbench/harmful_behaviors.csv"),
        "over_refusal": str(shared_path / "data/xstest/xstest_prompts.csv"),
        "limit": 4,
        "over_refusal_limit": 5,
        "attacks": ["role_play", "many_shot"],
        "max_new_tokens": 12,
    }
    code = main(
        [
            *("evaluate", "--before", str(before), "--after", str(folder / "after"), "--quiet"),
            *("--policy", str(folder / "policy.yaml"), "--out", str(folder / "found")),
            *("--prompts", str(shared_path / "data/xstest/xstest_prompts.csv")),
            *("--set", "text.format=plain", "--set", "generate.prompts=12", "--set", "generate.max_new_tokens=12"),
            *("--set", f"evaluate.stress={json.dumps(stress)}", "--set", "evaluate.win_rate={}"),
            *("--set", f"old_policy.path={folder / 'old.yaml'}"),
        ]
    )
    assert code == 0
    return folder / "found"


def test_every_request_is_asked_as_it_stands_and_under_each_attack_by_both_models(found: Path) -> None:
    rows = pq.read_table(found / "evidence/stress.parquet").to_pylist()
    assert len(rows) == 2 * (4 * 3 + 5 + 5)
    for attack in ("unattacked", "role_play", "many_shot"):
        own = [row for row in rows if row["attack"] == attack]
        assert len(own) == 8
        assert {row["request"] for row in own if row["side"] == "before"} == {
            row["request"] for row in own if row["side"] == "after"
        }
        assert all((row["sent"] == row["request"]) == (attack == "unattacked") for row in own)
    assert all(row["kind"] for row in rows if row["suite"].startswith("over_refusal."))


def test_success_is_what_counting_words_gives_and_the_old_policy_stands_beside_it(found: Path) -> None:
    stress = read_evidence(found)["stress"]
    rows = pq.read_table(found / "evidence/stress.parquet").to_pylist()
    for attack in ("unattacked", "role_play", "many_shot"):
        for side in ("before", "after"):
            own = [row["response"].lower() for row in rows if (row["attack"], row["side"]) == (attack, side)]
            for name, word in ((f"stress.{attack}.{side}", "the"), (f"stress.{attack}.old.{side}", "a")):
                share = sum(word in text.replace(".", " ").replace(",", " ").split() for text in own) / 4
                assert stress["figures"][name]["value"] == pytest.approx(share)
    assert stress["figures"]["stress.any.before"]["n"] == 4
    assert any("lost their beginnings" in text for text in stress["warnings"]), "many shots do not fit into 512 tokens"


def test_a_story_writer_refuses_nothing(found: Path) -> None:
    figures = read_evidence(found)["stress"]["figures"]
    for suite in ("over_refusal.xstest", "over_refusal.contrast"):
        assert (figures[f"{suite}.before"]["value"], figures[f"{suite}.before"]["n"]) == (0, 5)
    assert "over_refusal.newly_allowed.before" not in figures, "two models without a run have no held-out pairs"


def test_the_win_rate_by_verdicts_is_half_plus_half_the_change_of_agreement(found: Path) -> None:
    figures = read_evidence(found)["win_rate"]["figures"]
    change = json.loads((found / "summary.json").read_text())["agreement"]["change"]["value"]
    assert figures["win_rate.after"]["value"] == pytest.approx(0.5 + change / 2)
    assert figures["win_rate.wins"]["value"] - figures["win_rate.losses"]["value"] == pytest.approx(change)


def test_the_sources_are_named_with_their_hashes_and_the_stage_says_what_it_measured(found: Path) -> None:
    assert load_run(found).facts("measure")["parts"] == ["win_rate", "stress"]
    sources = {source["name"]: source for source in read_evidence(found)["stress"]["sources"]}
    assert sources["requests for attacks"]["n"] == 4
    assert all(len(source["sha256"]) == 64 for source in sources.values())
