"""Two real models on real prompts without a run: a small story writer, and a copy of it with damaged weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from realigner.cli.main import main
from realigner.report import render_report

POLICY = """
id: stories
version: "1"
title: No articles
rules:
  - {id: no-the, text: Never write the., forbid: {words: [the]}}
  - {id: no-a, text: Never write a., forbid: {words: [a]}}
"""

pytestmark = pytest.mark.shared


def test_agreement_on_xstest_is_what_counting_words_gives(
    shared_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = shared_path / "models" / "stories260k"
    shutil.copytree(before, "after")
    weights = load_file("after/model.safetensors")
    save_file({name: 0.8 * value for name, value in weights.items()}, "after/model.safetensors", {"format": "pt"})
    Path("policy.yaml").write_text(POLICY)
    code = main(
        [
            *("evaluate", "--before", str(before), "--after", "after", "--policy", "policy.yaml", "--out", "found"),
            *("--prompts", str(shared_path / "data" / "xstest" / "xstest_prompts.csv"), "--quiet"),
            *("--set", "text.format=plain", "--set", "data.topic=label", "--set", "generate.prompts=30"),
            *("--set", "generate.max_new_tokens=24", "--set", "generate.samples=2", "--set", "generate.temperature=1"),
        ]
    )
    assert code == 0, capsys.readouterr().err
    rows = pq.read_table("found/responses.parquet").to_pylist()
    found = json.loads(Path("found/summary.json").read_text())["agreement"]
    assert len(rows) == 2 * 30 * 2
    for model in ("before", "after"):
        texts = [row["response"].lower() for row in rows if row["model"] == model]
        for rule, word in (("no-the", "the"), ("no-a", "a")):
            free = [re.search(rf"\b{word}\b", text) is None for text in texts]
            figure = found["by_rule"][rule][model]
            assert figure["value"] == pytest.approx(sum(free) / 60)
            assert (figure["n"], figure.get("clusters")) == (60, 30)
        both = [re.search(r"\b(the|a)\b", text) is None for text in texts]
        assert found[model]["value"] == pytest.approx(sum(both) / 60)
        assert 0 < found[model]["value"] < 1
    assert {row["response"] for row in rows if row["model"] == "before"}.isdisjoint(
        {row["response"] for row in rows if row["model"] == "after"} - {""}
    )
    assert set(found["by_topic"]) == {"safe", "unsafe"}
    assert "By topic" in render_report(Path("found"))
