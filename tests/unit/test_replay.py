"""What a replay calls equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realigner.errors import RunDirError
from realigner.evaluate.evidence import Evidence, Figure, write_evidence
from realigner.recipe import Recipe
from realigner.replay import ReplayReport, _elsewhere, compare, replay
from realigner.runs import Run, StoredRun, load_run

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "method": "x"}


def store(directory: Path, **changes: Any) -> Path:
    """Write a finished run of three pairs, with some values changed."""
    values = {"outcome": "INVERT", "weight": 2.0, "loss": 0.7, "response": "yes", "kl": FIGURE} | changes
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    with Run.open(Recipe.parse({"output": str(directory), **sections})):
        pass
    ids = ["a", "b", "c"]

    def table(name: str, rows: list[dict[str, Any]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), directory / name)

    table("triage.parquet", [{"id": i, "outcome": "NEUTRAL", "direction": "retain"} for i in ids[:2]] + [
        {"id": "c", "outcome": values["outcome"], "direction": "x"}
    ])  # fmt: skip
    table("weights.parquet", [{"id": i, "score": 1.0, "weight": 1.0} for i in values.get("ids", ids[:2])] + [
        {"id": "c", "score": 3.0, "weight": values["weight"]}
    ])  # fmt: skip
    table("responses.parquet", [{"id": "a-after", "model": "after", "response": values["response"]}])
    lines = [{"step": 1, "loss": 0.69}, {"step": 1, "eval_loss": 9}, {"step": 2, "loss": values["loss"]}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sides = {"before": FIGURE, "after": FIGURE}
    summary = {"agreement": sides, "perplexity": sides, "kl": values["kl"]}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def compared(tmp_path: Path, **changes: Any) -> ReplayReport:
    return compare(load_run(store(tmp_path / "one")), load_run(store(tmp_path / "two", **changes)))


def test_equal_runs_agree_exactly_in_every_number(tmp_path: Path) -> None:
    report = compared(tmp_path)
    assert report.agrees
    assert {item.agreement for item in report.comparisons} == {"exact"}
    assert len(report.comparisons) == 10


@pytest.mark.parametrize(
    ("changes", "name", "agreement", "text"),
    [
        ({"outcome": "PUNISH"}, "outcomes", "different", "2 of 3 rows are equal"),
        ({"weight": 2.0 * (1 + 1e-9)}, "weights", "within tolerance", "relative 1e-09, 3 values"),
        ({"weight": 2.1}, "weights", "different", "largest difference 0.1, relative 0.0476, 3 values"),
        ({"weight": None}, "weights", "different", "2.0 and None"),
        ({"ids": ["a"]}, "weights", "different", "1 of 3 values are on one side only"),
        ({"loss": 0.7 + 1e-9}, "training loss by step", "within tolerance", "largest difference 1e-09"),
        ({"loss": 0.71}, "training loss by step", "different", "largest difference 0.01"),
        ({"response": "no"}, "responses", "different", "0 of 1 rows are equal"),
        ({"kl": {**FIGURE, "value": 0.51}}, "kl", "different", "largest difference 0.01, relative 0.0196 (0.5)"),
        ({"kl": None}, "kl", "different", "0.5 and None"),
    ],
)
def test_a_difference_is_found_where_it_is_and_measured(
    tmp_path: Path, changes: dict[str, Any], name: str, agreement: str, text: str
) -> None:
    report = compared(tmp_path, **changes)
    found = {item.name: item for item in report.comparisons}
    assert found[name].agreement == agreement
    assert text in found[name].text
    assert report.agrees == (agreement != "different")
    assert ("DO NOT agree" in report.lines()[-1]) == (agreement == "different")


def test_what_neither_run_has_is_left_out(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = store(tmp_path / name)
        for file in ("weights.parquet", "metrics.jsonl", "responses.parquet", "summary.json"):
            (run / file).unlink()
    report = compare(load_run(tmp_path / "one"), load_run(tmp_path / "two"))
    assert [item.name for item in report.comparisons] == ["outcomes"]


def test_what_one_run_lacks_is_a_difference(tmp_path: Path) -> None:
    first, second = store(tmp_path / "one"), store(tmp_path / "two")
    (second / "metrics.jsonl").unlink()
    report = compare(load_run(first), load_run(second))
    assert [item.name for item in report.comparisons if item.agreement == "different"] == ["training loss by step"]


def test_a_run_that_finished_no_stage_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="it finished no stage"):
        replay(store(tmp_path / "one"))


def test_the_figures_of_each_part_of_the_evidence_are_compared(tmp_path: Path) -> None:
    def measured(name: str, value: float) -> StoredRun:
        directory = store(tmp_path / name)
        (directory / "evidence").mkdir()
        found = Evidence({"stress.any.after": Figure(value=value, low=0.0, high=1.0, n=4, method="x")})
        write_evidence(directory / "evidence", "stress", found, key="k", seconds=1.0, settings={})
        (directory / "evidence/index.json").write_text(json.dumps({"parts": [{"part": "stress"}]}))
        return load_run(directory)

    one, same, other = measured("one", 0.5), measured("same", 0.5), measured("other", 0.25)
    assert compare(one, same).agrees
    found = [item for item in compare(one, other).comparisons if item.agreement == "different"]
    assert [item.name for item in found] == ["evidence of stress"]
    without = compare(one, load_run(store(tmp_path / "without"))).comparisons[-1]
    assert without.text == "1 of 1 values are on one side only"


def test_a_replay_asks_no_judge_twice() -> None:
    judge = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m"}
    oracle = {"kind": "judges", "llm": judge}
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}, "oracle": oracle}
    evaluate = {"oracle": oracle, "win_rate": {"judge": judge}}
    recipe = _elsewhere(Recipe.parse({"output": "runs/a", **sections, "evaluate": evaluate}), Path("runs/a/replay-1"))
    assert recipe.evaluate.oracle is not None and recipe.evaluate.win_rate is not None
    stores = {recipe.oracle.store, recipe.evaluate.oracle.store, recipe.evaluate.win_rate.store}
    assert stores == {"runs/verdicts.sqlite"}
