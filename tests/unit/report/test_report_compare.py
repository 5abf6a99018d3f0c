"""Runs side by side: every figure of each, and a difference only where intervals or a paired test show one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_html import Page
from report_run import figure, write_index, write_run
from test_report_page import HOSTILE

from realigner.errors import RunDirError
from realigner.evaluate.statistics import holm, paired_change
from realigner.report.compare import Column, beside, paired, read_columns, render_comparison, write_comparison
from realigner.report.interval import Figure, Interval, read_figure
from realigner.report.study import study_columns

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the same prompts whose answers comply less often, by another judge."""
    return write_run(tmp_path_factory.mktemp("more") / "worse", after=0.4, same_judge=False)


def column(name: str, low: float | None, high: float | None) -> Column:
    value = 0.5 if low is None or high is None else (low + high) / 2
    return Column(name, {}, {"kl": Figure(Interval(value, low, high, 10, "m"))})


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [
        (0.41, 0.5, "higher"),
        (0.4, 0.5, ""),
        (0.1, 0.2, ""),
        (0.1, 0.19, "lower"),
        (0.25, 0.3, ""),
        (None, None, ""),
    ],
)
def test_a_difference_is_one_only_where_intervals_do_not_overlap(
    low: float | None, high: float | None, differs: str
) -> None:
    assert beside(column("b", low, high), column("a", 0.2, 0.4), "kl").differs == differs


def test_the_first_column_is_never_said_to_differ() -> None:
    first = column("a", 0.2, 0.4)
    assert beside(first, first, "kl").differs == ""
    assert beside(first, column("b", 0.6, 0.7), "none").figure is None


def test_agreement_is_compared_prompt_by_prompt_where_prompts_are_the_same(run_dir: Path, worse: Path) -> None:
    columns = read_columns([run_dir, worse, run_dir.parent / "clinic"])
    labels = []
    for one in columns:
        assert one.changes is not None
        labels.append({row.prompt_id: row.after_label == "compliant" for row in one.changes.rows})
    prompts = list(labels[0])
    changes = [paired_change([labels[0][p] for p in prompts], [other[p] for p in prompts], 0) for other in labels[1:]]
    assert changes[0] is not None and changes[1] is not None
    expected = holm([changes[0]["p"], changes[1]["p"]])
    found = paired(columns)
    assert [row.p_holm for row in found] == expected
    assert [row.prompts for row in found] == [120, 120]
    assert found[0].change is not None and found[0].change.value == changes[0]["value"] < -0.2
    assert [row.told for row in found] == [True, False]


def test_the_page_shows_every_figure_of_each_run_and_what_is_not_the_same(run_dir: Path, worse: Path) -> None:
    html = render_comparison(read_columns([run_dir, worse]))
    found = Page(html)
    assert found.faults == [] and found.scripts == []
    assert "They differ in judge of the answers" in found.words
    assert "▼ lower" in found.words and "win_rate.length_controlled" in found.words
    assert "seconds in all" in found.words
    assert len(found.ids) == len(set(found.ids)) and not found.targets


def test_a_comparison_is_written_with_its_tables_and_again_over_itself_only(
    run_dir: Path, worse: Path, tmp_path: Path
) -> None:
    out = tmp_path / "here" / "comparison"
    page = write_comparison([run_dir, worse], out)
    assert page.read_text(encoding="utf-8") == render_comparison(read_columns([run_dir, worse]))
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert content["columns"] == ["clinic", "worse"]
    assert {"figures.csv", "paired.json", "conditions.csv"} <= {path.name for path in (out / "tables").iterdir()}
    write_comparison([worse, run_dir], out)
    with pytest.raises(RunDirError, match="it holds something that is no comparison"):
        write_comparison([run_dir, worse], run_dir)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirError, match="it holds something that is no comparison"):
        write_comparison([run_dir, worse], tmp_path / "file")


def test_runs_of_the_same_name_are_told_apart(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "other" / "clinic"))
    assert [one.name for one in read_columns([run_dir, copy])] == [f"{run_dir.parent.name}/clinic", "other/clinic"]


def test_what_cannot_be_compared_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="a comparison takes 2 to 40 runs"):
        read_columns([run_dir])
    with pytest.raises(RunDirError, match=r"neither manifest.json of a run nor rows of a study"):
        read_columns([run_dir, tmp_path])
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(RunDirError, match="it is no record of a study"):
        read_columns([tmp_path])


def test_hostile_names_and_figures_are_shown_and_do_nothing(run_dir: Path, tmp_path: Path) -> None:
    hostile = write_run(tmp_path / "<b>x", prompts=8, text=HOSTILE)
    content = json.loads((hostile / "evidence/values.json").read_text(encoding="utf-8"))
    content["figures"] = {HOSTILE: figure(0.3, unit=HOSTILE)}
    (hostile / "evidence/values.json").write_text(json.dumps(content), encoding="utf-8")
    write_index(hostile)
    found = Page(render_comparison(read_columns([run_dir, hostile])))
    assert found.faults == [] and found.scripts == []
    assert "<script>alert(1)</script>" in found.words


def study_row(arm: str, seed: int, agreement: float, **more: Any) -> dict[str, Any]:
    row = {"kind": "arms", "shift": "safety", "seed": seed, "arm": arm, "agreement": agreement, "learning_rate": 1e-4}
    return {**row, "setting": {"pairs": 100}, "key": f"{arm}{seed}{agreement}", **more}


def test_the_arms_of_a_study_are_columns_with_means_over_seeds(tmp_path: Path) -> None:
    rows = [study_row(arm, seed, base + 0.01 * seed) for arm, base in (("a", 0.5), ("b", 0.8)) for seed in (0, 1, 2)]
    rows.append(study_row("a", 0, 0.1, setting={"pairs": 9}))  # of a sweep
    rows.append(study_row("a", 0, 0.2, learning_rate=1.0))  # at a rate that the search left
    rows.append(study_row("a", 100, 0.9, shift="tuning"))  # of the search for a rate
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    (tmp_path / "cells").mkdir()
    for row in rows[:3]:  # one of which was collected already
        (tmp_path / "cells" / f"{row['key']}.json").write_text(json.dumps(row))
    first, second = read_columns([tmp_path])
    assert (first.name, second.name) == ("a", "b")
    found = first.figures["safety.agreement"]
    assert found.unit == "share" and found.interval.n == 3
    assert found.interval.value == pytest.approx(0.51)
    assert found.interval.high == pytest.approx(0.51 + 4.302652729696142 * 0.01 / 3**0.5)  # t, 2 degrees of freedom
    assert beside(second, first, "safety.agreement").differs == "higher"
    assert "safety.agreement" in render_comparison([first, second])


def test_signs_are_minus_signs_and_nothing_is_less_than_nothing() -> None:
    assert Interval(-0.0001, -0.02, 0.1, 9, "m").shown("share") == "0.0\u00a0%"
    assert Interval(-0.0001, -0.02, 0.1, 9, "m").shown_range("share") == "−2.0\u00a0% to 10.0\u00a0%"


def test_a_figure_reads_what_is_there_and_drops_what_is_no_number() -> None:
    found = read_figure({"value": 0.1, "low": float("nan"), "high": 1, "n": 3, "p": "x", "margin": 0.5, "seed": 7})
    assert found is not None and found.interval.low is None and found.interval.high is None
    assert (found.p, found.margin, found.seed, found.unit, found.non_inferior) == (None, 0.5, 7, "plain", None)
    assert read_figure({"value": float("inf")}) is None and read_figure(None) is None


def test_of_many_arms_the_method_comes_after_the_model_before_and_the_title_names_three(tmp_path: Path) -> None:
    arms = ["a", "b", "c", "d", "e", "m-ref", "trace", "z"]
    rows = [study_row(arm, seed, 0.5) for arm in arms for seed in ((0, 1) if arm == "z" else (0,))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = study_columns(tmp_path)
    assert [column.name for column in columns] == ["m-ref", "trace", "z", "a", "b", "c", "d", "e"]
    assert "<h1>Comparison of 8: m-ref, trace, z, …</h1>" in render_comparison(columns)
    assert "<h1>Comparison of m-ref, trace</h1>" in render_comparison(columns[:2])
