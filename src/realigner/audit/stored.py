"""The figures of a run's audits as they are stored, and what they permit: the floor, and ε for the robust loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from realigner.audit.records import Subject
from realigner.audit.units import STAGE_OF, digest, output_hash, units_in
from realigner.errors import AuditError
from realigner.runs import StoredRun

AUDIT, FOLDER = "audit.json", "audit"
SCHEMA = 1


def read_stored(directory: Path) -> dict[str, Any]:
    """Return the figures in `audit.json` by subject; empty where there is none.

    Raises:
        AuditError: the file is damaged, or of another version.
    """
    path = directory / AUDIT
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError):
        raise AuditError(
            f"{path}", "it is no audit that this version of realigner wrote", "Score again: realigner audit score"
        ) from None
    return dict(content)


def current_audit(run: StoredRun, subject: Subject) -> dict[str, Any] | None:
    """Return the figures of the run's audit, or None where there is none, or none of the verdicts it holds now."""
    stored: dict[str, Any] | None = read_stored(run.directory).get(subject)
    if stored is None or not run.is_done(STAGE_OF[subject]):
        return None
    # The same file holds the same verdicts; another one may, too (written by another version, or in a replay).
    if stored["output"] != output_hash(run, subject) and stored["verdicts"] != digest(units_in(run, subject)()):
        return None
    return stored
