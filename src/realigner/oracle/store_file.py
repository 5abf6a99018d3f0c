"""The file of the verdict store: its tables, its one writer, and what SQLite's complaints mean to a user."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from realigner.errors import DataError, DiskError, OracleError
from realigner.locking import take

APPLICATION = 0x7265616C
"""SQLite's application id of our files: "real"."""
SCHEMA = 1

_TABLES = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, messages TEXT NOT NULL);
CREATE INDEX prompts_by_digest ON prompts (digest);
CREATE TABLE questions (
  id INTEGER PRIMARY KEY, digest BLOB NOT NULL, prompt INTEGER NOT NULL REFERENCES prompts, response TEXT NOT NULL
);
CREATE INDEX questions_by_digest ON questions (digest);
CREATE TABLE rules (id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE judges (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE votes (
  question INTEGER NOT NULL REFERENCES questions, judge INTEGER NOT NULL REFERENCES judges,
  rule INTEGER NOT NULL REFERENCES rules, number INTEGER NOT NULL,
  label TEXT NOT NULL CHECK (label IN ('compliant', 'non_compliant', 'unsure')),
  reason TEXT NOT NULL, facts TEXT NOT NULL, time TEXT NOT NULL,
  PRIMARY KEY (question, judge, rule, number)
) WITHOUT ROWID;
CREATE TRIGGER votes_stay BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'votes are only added'); END;
"""

_ASIDE = """
CREATE TEMP TABLE aside (
  digest BLOB NOT NULL, judge TEXT NOT NULL, rule TEXT NOT NULL, label TEXT NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (digest, judge, rule)
) WITHOUT ROWID;
"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for reading and writing, made if it is not there, and hold it until the context ends."""
    with _locked(path), explained(str(path)), closing(_connect(str(path))) as database:
        _prepare(database, path)
        yield database


@contextmanager
def opened_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for reading; takes no lock, so that another process may be writing."""
    if not path.is_file():
        raise OracleError(f"verdict store {path}", "no such file", "Check the path; a first triage makes it")
    address = f"{path.resolve().as_uri()}?mode=ro"
    with explained(str(path)), closing(_connect(address, uri=True)) as database:
        _recognise(database, path)
        yield database


@contextmanager
def opened_temporary() -> Iterator[sqlite3.Connection]:
    """Open a private database without a name: it is deleted with the connection."""
    with explained("(temporary)"), closing(_connect("")) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_TABLES + _ASIDE)
        yield database


def _connect(path: str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=60, uri=uri)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the right to write. The kernel releases it when the process ends, however it ends."""
    if path.is_dir():
        raise OracleError(f"verdict store {path}", "it is a directory", "Set oracle.store to a file")
    # The lock is a file of its own: closing any handle of the database would drop the locks that SQLite holds.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock").open("a+", encoding="utf-8")  # noqa: SIM115  (entered below)
    except OSError as error:
        rule = f"it cannot be written ({error.strerror})"
        raise OracleError(f"verdict store {path}", rule, "Set oracle.store to another file") from None
    with lock:
        take(
            lock,
            lambda holder: OracleError(
                f"verdict store {path}",
                f"process {holder} is writing to it, and only one may",
                "Wait for that process to end, or set oracle.store to another file",
            ),
        )
        yield


def digest_of(*texts: str) -> bytes:
    """Return SHA-256 over texts; lengths are included, so that joins cannot collide.

    Raises:
        DataError: a text is not valid Unicode.
    """
    digest = hashlib.sha256()
    for text in texts:
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"a prompt or response holds {error.object[error.start]!r} ({text[:60]!a}…)",
                "text must be valid Unicode, and half of a surrogate pair is not",
                "Correct the text, or leave the pair out",
            ) from None
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.digest()


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or make sure that an existing one is ours."""
    tables = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if tables or database.execute("PRAGMA application_id").fetchone()[0]:
        _recognise(database, path)
    else:
        database.execute("PRAGMA journal_mode = WAL")
        # One transaction: a process that is killed here leaves an empty file, not half of the tables.
        database.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
        )
    # In WAL mode this outlives a killed process; only a power cut can lose the last answers, and never damages any.
    database.execute("PRAGMA synchronous = NORMAL")
    # A checkpoint waits for the disk; at SQLite's own 1,000 pages that is after every 200 answers, and takes as long as
    # all else that storing them does.
    database.execute("PRAGMA wal_autocheckpoint = 10000")
    database.executescript(_ASIDE)


def _recognise(database: sqlite3.Connection, path: Path) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    schema = database.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise OracleError(
            f"verdict store {path}", "it is a SQLite file of another program", "Set oracle.store to another file"
        )
    if schema != SCHEMA:
        raise OracleError(
            f"verdict store {path}: its schema is {schema}",
            f"this version of realigner reads schema {SCHEMA}",
            "Use the version that wrote it, or set oracle.store to another file",
        )


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what SQLite says into what the user can do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without its extension
        if code == sqlite3.SQLITE_FULL:
            remedy = "Free some room and give the same command again; every answer so far is kept"
            raise DiskError(f"verdict store {name} ({error})", "the disk is full", remedy) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            remedy = "Close that program and try again"
            raise OracleError(f"verdict store {name} ({error})", "another program holds it", remedy) from error
        raise OracleError(
            f"verdict store {name} ({error})",
            "it is no verdict store, or it is damaged",
            "Restore it from a copy, or set oracle.store to another file",
        ) from error
