"""The SQLite file of a study's answers: its tables, and how it is opened, read and written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realigner.errors import ReviewError, RunDirError

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS annotators (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, token TEXT UNIQUE, joined REAL NOT NULL
) WITHOUT ROWID;
-- revision, answered and value repeat the history of the step, and are written in the transaction that adds to it.
CREATE TABLE IF NOT EXISTS steps (
  task TEXT NOT NULL, annotator TEXT NOT NULL, number INTEGER NOT NULL, item TEXT NOT NULL,
  occasion INTEGER NOT NULL, shown REAL NOT NULL,
  revision INTEGER NOT NULL DEFAULT 0, answered INTEGER NOT NULL DEFAULT 0, value TEXT,
  PRIMARY KEY (task, annotator, number), UNIQUE (task, annotator, item, occasion)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL, annotator TEXT NOT NULL, number INTEGER NOT NULL,
  action TEXT NOT NULL CHECK (action IN ('answer', 'withdraw', 'reveal')), value TEXT, places TEXT,
  seconds REAL, at REAL NOT NULL, once TEXT NOT NULL UNIQUE, study TEXT NOT NULL, source TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS history_by_step ON history (task, annotator, number, action);
CREATE INDEX IF NOT EXISTS steps_by_item ON steps (task, occasion, item, answered, shown, annotator);
CREATE TRIGGER IF NOT EXISTS history_is_not_changed BEFORE UPDATE ON history
  BEGIN SELECT RAISE(ABORT, 'answers are never changed'); END;
CREATE TRIGGER IF NOT EXISTS history_is_not_deleted BEFORE DELETE ON history
  BEGIN SELECT RAISE(ABORT, 'answers are never deleted'); END;
"""
WAIT = 30.0
"""Seconds to wait for another process that is writing."""


class Database:
    """One connection that threads share; other processes may use the same file at the same time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ReviewError: the file is no such database.
            RunDirError: it cannot be opened or made.
        """
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=WAIT)
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                # What was acknowledged survives a power cut, not only a killed process.
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_TABLES)
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.OperationalError as error:
            raise RunDirError(f"answers {path}", f"cannot be opened ({error})", "Check the folder's rights") from None
        except sqlite3.DatabaseError as error:
            raise ReviewError(
                f"answers {path}", f"it is no database of answers ({error})", "Restore it, or move it away"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def row(self, query: str, *values: Any) -> Any:
        """Return the first row, or None."""
        with self._lock:
            return self._connection.execute(query, values).fetchone()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return all rows."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the file alone, among threads and processes; commit, or leave no trace."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
