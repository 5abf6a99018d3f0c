"""Every table of a page is exported, with the numbers behind what it shows and nothing that runs in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from report_run import figure, write_index, write_run

from realigner.report import render_report
from realigner.report.figures import figures_tables, read_figures
from realigner.report.rundir import RunFiles
from realigner.report.tables import csv_of, inert, page_tables, write_tables

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u00a0=1", "＝1")


pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def html(plain_page: str) -> str:
    return plain_page


def test_every_table_of_the_page_is_written_as_csv_and_json(html: str, tmp_path: Path) -> None:
    names = write_tables(tmp_path, html)
    assert len(names) == 2 * html.count("<table") - 2 * html.count("data-continues") == len(list(tmp_path.iterdir()))
    assert {"agreement.csv", "policy-diff.json", "utility-all.csv", "gate.csv", "figures.json", "cost-2.csv"} <= {
        *names
    }
    for name in names:
        if name.endswith(".json"):
            table = json.loads((tmp_path / name).read_text(encoding="utf-8"))
            rows = list(csv.reader(io.StringIO((tmp_path / f"{table['id']}.csv").read_text(encoding="utf-8"))))
            assert len(rows) == len(table["rows"]) + 1
            assert len({len(row) for row in rows}) == 1


def test_the_exported_figures_are_the_unrounded_ones(run_dir: Path, html: str) -> None:
    table = next(table for table in page_tables(html) if table.id == "figures")
    figures = read_figures(RunFiles(run_dir))
    assert [row[0] for row in table.rows] == list(figures)
    (whole,) = figures_tables(RunFiles(run_dir), html)
    assert (whole.id, whole.columns, whole.rows) == (table.id, table.columns, table.rows)
    for row, one in zip(table.rows, figures.values(), strict=True):
        found = one.interval
        assert row[1] == {"value": found.value, "low": found.low, "high": found.high}
        assert row[2:8] == [one.unit, found.n, one.p, one.p_holm, one.margin, one.seed]


def test_the_folded_rest_of_a_long_table_is_exported_with_its_beginning(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    content = json.loads((copy / "evidence/inside.json").read_text(encoding="utf-8"))
    content["tables"][0]["rows"] = [{"name": f"row {place}", "after": place} for place in range(90)]
    (copy / "evidence/inside.json").write_text(json.dumps(content), encoding="utf-8")
    write_index(copy)
    page = render_report(copy, samples=1)
    assert "50 more rows" in page
    (table,) = (table for table in page_tables(page) if table.id == "inside-all")
    assert table.rows == [[f"row {place}", place] for place in range(90)]


def test_figures_for_which_the_page_has_no_room_are_exported(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    content = json.loads((copy / "evidence/inside.json").read_text(encoding="utf-8"))
    content["figures"] = {f"inside.layer_{place}.shift": figure(0.1) for place in range(700)}
    (copy / "evidence/inside.json").write_text(json.dumps(content), encoding="utf-8")
    write_index(copy)
    page = render_report(copy, samples=1)
    out = tmp_path / "tables"
    out.mkdir()
    write_tables(out, page, *figures_tables(RunFiles(copy), page))
    found = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert [row[0] for row in found["rows"]] == list(read_figures(RunFiles(copy)))
    assert "more are in tables/figures.csv" in page and "inside.layer_699.shift" not in page


def test_a_figure_is_three_columns_of_a_csv(html: str) -> None:
    agreement = next(table for table in page_tables(html) if table.id == "agreement")
    head, first, *_ = csv.reader(io.StringIO(csv_of(agreement)))
    assert head[:8] == [
        *("group", "Responses", "Before, raw", "Before, raw, low", "Before, raw, high"),
        *("Before, corrected", "Before, corrected, low", "Before, corrected, high"),
    ]
    assert first[:2] == ["Overall", "All held-out prompts"] and float(first[3]) < float(first[2]) < float(first[4])


def test_counts_shares_and_gaps_are_numbers_and_nothing(html: str) -> None:
    tables = {table.id: table for table in page_tables(html)}
    assert tables["flow"].rows[0][:3] == ["INVERT", 300, pytest.approx(300 / 1230)]
    assert tables["weights"].rows[1][1:7] == [420, 0.6, 101.0, 0.31, 2.2, -0.62]
    assert tables["cost-2"].rows[0][:8] == ["triage", 705, 350_000, 7_000, "1.25 USD", 700, 300, 5]
    assert ["nothing", None] in tables["utility-all"].rows


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula(text: str) -> None:
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "1,5", "rule-1", "−3", "漢", "'"])
def test_text_that_begins_no_formula_is_left_alone(text: str) -> None:
    assert inert(text) == text


@pytest.mark.parametrize("formula", ['=HYPERLINK("http://x")', '@x,"y\n=z'])
def test_hostile_text_stays_text_in_every_table(tmp_path: Path, formula: str) -> None:
    run = write_run(tmp_path / "run", prompts=8, text=f"<b>{formula}")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["agreement"]["by_rule"] = {formula: summary["agreement"]["after"]}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    out = tmp_path / "tables"
    out.mkdir()
    names = write_tables(out, render_report(run, samples=8))
    assert all((out / name).resolve().parent == out.resolve() for name in names)
    seen = 0
    for name in names:
        if name.endswith(".csv"):
            for row in csv.reader(io.StringIO((out / name).read_text(encoding="utf-8"))):
                for cell in row:
                    assert not cell.startswith(("=", "+", "@")), (name, cell)
                    assert cell[:1] != "-" or float(cell) < 0
                    seen += formula.split("\n")[0] in cell
    assert seen > 3
