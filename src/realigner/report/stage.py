"""The stage `report`: the page, its tables as CSV and JSON, the gate's verdict, and the card beside the model."""

from __future__ import annotations

import json
from typing import Any

from realigner.atomic import write_text
from realigner.report.card import CardError, write_card
from realigner.report.figures import figures_tables
from realigner.report.gate import VERDICT, check_gate, read_gate
from realigner.report.page import render_report
from realigner.report.rundir import RunFiles
from realigner.report.tables import write_tables
from realigner.runs import Run


def run_report(run: Run) -> dict[str, Any]:
    """Write `report.html`, `tables/`, `gate.json` where the recipe names a gate, and the model's card."""
    settings = run.recipe.report
    if settings.gate is not None:
        verdict = check_gate(run.directory, read_gate(settings.gate))
        with run.writing(VERDICT) as path:
            write_text(path, json.dumps(verdict.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    page = render_report(run.directory, samples=settings.samples, title=settings.title)
    content = page.encode("utf-8")
    with run.writing("report.html") as path:
        path.write_bytes(content)
    with run.writing_directory("tables") as path:
        tables = write_tables(path, page, *figures_tables(RunFiles(run.directory), page))
    return {"bytes": len(content), "tables": len(tables) // 2, **_card(run)}


def _card(run: Run) -> dict[str, Any]:
    """Write the card where there is a model; a user's own is kept, and that is said."""
    if not run.path("model").is_dir():
        return {}
    try:
        write_card(run.directory)
    except CardError as error:
        run.progress.say(f"the model's card is kept as it is: {error}")
        return {"card": "kept: not written by realigner, or edited since"}
    return {"card": "written"}
