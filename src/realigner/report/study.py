"""The arms of a lab study as columns of a comparison: means over seeds on each shift, Student's t intervals."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.errors import RunDirError
from realigner.report.interval import Figure, Interval

UNTRAINED, OURS = "m-ref", "trace"

if TYPE_CHECKING:
    from realigner.report.compare import Column


def is_study(path: Path) -> bool:
    """Whether a directory is the output of a study."""
    from realigner.lab.tables import CELLS, ROWS

    return (path / ROWS).is_file() or (path / CELLS).is_dir()


def study_columns(path: Path) -> list[Column]:
    """Return a column for each arm of a study that is done or under way, from rows with its most frequent setting.

    Rows of sweeps (noise, scale, ablations) have other settings and are left out: their arms mean something else. So
    are rows of the shift that learning rates are searched on.

    Args:
        path: the output of the study: `cells/*.json` while it is under way, `rows.jsonl` when it is done.

    Raises:
        RunDirError: a row is damaged, or there is no arm.
    """
    from realigner.lab.tables import READINGS, mean_of
    from realigner.report.compare import Column

    rows = _rows(path)
    shifts = sorted({str(row["shift"]) for row in rows})
    columns = []
    cells = Counter(str(row["arm"]) for row in rows)
    # The model before is what the arms are compared with; then the method, and the arms with the most cells.
    for arm in sorted(cells, key=lambda arm: (arm != UNTRAINED, arm != OURS, -cells[arm], arm)):
        figures: dict[str, Figure] = {}
        own = [row for row in rows if row["arm"] == arm]
        for shift in shifts:
            for name, (read, scale, _) in READINGS.items():
                values = [value for row in own if row["shift"] == shift and (value := read(row)) is not None]
                mean = mean_of(values)
                if mean is not None:
                    share, factor = scale == 100, 1.0 if scale == 100 else scale
                    ends = (None, None) if mean.half is None else (mean.value - mean.half, mean.value + mean.half)
                    low, high = (None if end is None else end * factor for end in ends)
                    method = "Student's t over seeds" if mean.half is not None else "one seed"
                    interval = Interval(mean.value * factor, low, high, mean.n, method)
                    figures[f"{shift}.{name.replace(' ', '_').replace(',', '')}"] = Figure(
                        interval, "share" if share else name
                    )
        seeds = sorted({str(row["seed"]) for row in own})
        facts = {
            "study": path.name,
            "seeds": ", ".join(seeds),
            "learning rate": ", ".join(sorted({str(row.get("learning_rate")) for row in own})),
        }
        columns.append(Column(arm, facts, figures))
    return columns


def _rows(path: Path) -> list[dict[str, Any]]:
    from realigner.lab.shifts import TUNING
    from realigner.lab.tables import read_rows

    try:
        rows = [row for row in read_rows(path).values() if row["kind"] == "arms" and row["shift"] not in TUNING]
        settings = [json.dumps(row["setting"], sort_keys=True) for row in rows]
        rates = {(row["arm"], row["learning_rate"]): 0 for row in rows}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunDirError(f"{path}", f"it is no record of a study ({error})", "Run the study again") from None
    if not rows:
        raise RunDirError(f"{path}", "it holds no arm of a comparison yet", "Run: realigner study STUDY")
    usual = max(settings, key=settings.count)
    kept = [row for row, setting in zip(rows, settings, strict=True) if setting == usual]
    for row in kept:
        rates[row["arm"], row["learning_rate"]] += 1
    # Rows of the search for a learning rate are not results: an arm's rate is the one most of its rows have.
    best = {arm: max((n, rate) for (a, rate), n in rates.items() if a == arm) for arm, _ in rates}
    return [row for row in kept if row["learning_rate"] == best[row["arm"]][1]]
