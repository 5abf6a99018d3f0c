"""Answers in SQLite: append-only, one row for each thing that somebody did, safe under kill -9.

A step is an item in front of a person: its number is the only thing about the item that stands in an address. An
answer, its revision, its withdrawal and the look at the judge's verdict are rows of one history; the database itself
refuses to change or to delete them. What counts is derived from the history when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realigner.errors import ReviewError
from realigner.review.answers import Value, dump_value, load_value
from realigner.review.assign import next_item, quotas
from realigner.review.database import Database
from realigner.review.history import Action, Annotator, Closed, Entry, Stale, Step
from realigner.review.study import Study, Task

ANSWERS = "answers.sqlite"
LEASE = 3600.0
"""Seconds for which an item that was shown and not answered counts as being answered."""
LAYOUT = "1"
Place = tuple[str, str, int]
"""Task, annotator and number: the key of a step."""
_ID = re.compile(r"[af]-[0-9a-f]{10}")
_OF_STEP = "SELECT * FROM steps WHERE task = ? AND annotator = ? AND number = ?"
_OF_PERSON = "SELECT * FROM steps WHERE task = ? AND annotator = ? ORDER BY number"


class Store:
    """The answers of one study. Threads may share it; other processes may read and write at the same time."""

    def __init__(self, study: Study, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open the database, or make it.

        Args:
            study: whose answers these are.
            path: of the database. Default: `answers.sqlite` beside the study file.
            clock: Unix time.

        Raises:
            ReviewError: answers were given to another version of the study, or the file is no such database.
            RunDirError: it cannot be opened or made.
        """
        self.study, self._clock = study, clock
        self.path = path or study.directory / ANSWERS
        self._database = Database(self.path)
        try:
            self.key = self._settle()
        except BaseException:
            self.close()
            raise
        self._wanted = {name: quotas(self.key, task) for name, task in study.tasks.items()}

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The study

    def _settle(self) -> bytes:
        """Take the study as its own, or refuse another one; return the secret key of the orders."""
        with self._database.writing() as database:
            meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
            if meta.get("layout", LAYOUT) != LAYOUT:
                rule = f"this release reads layout {LAYOUT}"
                raise ReviewError(f"answers {self.path}: layout {meta['layout']}", rule, "Use the release it is from")
            entries = database.execute("SELECT COUNT(*) FROM history").fetchone()[0]
            if meta.get("study") != self.study.hash:
                if entries:
                    raise self._changed(json.loads(meta["files"]), entries)
                database.execute("DELETE FROM steps")
            fresh = {
                "layout": LAYOUT,
                "key": meta.get("key") or secrets.token_hex(32),
                "study": self.study.hash,
                "files": json.dumps(dict(self.study.files), sort_keys=True),
            }
            database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", (fresh.items() - meta.items()))
            return bytes.fromhex(fresh["key"])

    def _changed(self, before: Mapping[str, str], entries: int) -> ReviewError:
        now = self.study.files
        names = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
        return ReviewError(
            f"study {self.study.directory} changed ({', '.join(names)}) after {entries:,} entries",
            "answers belong to the study as it was when they were given",
            f"Restore these files, or make a new study; {self.path.name} was left as it is",
        )

    def secret(self, name: str) -> str:
        """Return a random text that belongs to the study under this name; made when first asked for."""
        with self._database.writing() as database:
            row = (f"secret:{name}", secrets.token_urlsafe(18))
            database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", row)
            return str(database.execute("SELECT value FROM meta WHERE name = ?", row[:1]).fetchone()[0])

    @property
    def unblinded(self) -> str | None:
        """When the systems' names were asked for (ISO 8601, UTC); None while the study is blind."""
        row = self._database.row("SELECT value FROM meta WHERE name = 'unblinded'")
        return row[0] if row else None

    def unblind(self) -> str:
        """Close the votes for ever, and return since when."""
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        with self._database.writing() as database:
            database.execute("INSERT OR IGNORE INTO meta VALUES ('unblinded', ?)", (now,))
        return self.unblinded or now

    # People

    def join(self, name: str) -> tuple[Annotator, str]:
        """Add a person; return them and their token, which nobody else knows."""
        token = secrets.token_hex(16)
        return self._add(f"a-{_hash(token)[:10]}", name, _hash(token)), token

    def guest(self, name: str) -> Annotator:
        """Return the person of that name whose answers come from files; they have no token."""
        return self._add(self.guest_id(name), name, None)

    @staticmethod
    def guest_id(name: str) -> str:
        """Return the id of who answers under a name in a file; an id of another copy of the study stays as it is."""
        return name if _ID.fullmatch(name) else f"f-{_hash(name)[:10]}"

    def _add(self, id_: str, name: str, token: str | None) -> Annotator:
        with self._database.writing() as database:
            row = (id_, name, token, self._clock())
            database.execute("INSERT INTO annotators VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", row)
        return Annotator(id_, name)

    def who(self, token: str) -> Annotator | None:
        """Return the person whose token this is, or None."""
        row = self._database.row("SELECT id, name FROM annotators WHERE token = ?", _hash(token))
        return Annotator(*row) if row else None

    def annotators(self) -> list[Annotator]:
        """Return all people, in the order in which they joined."""
        return [Annotator(*row) for row in self._database.rows("SELECT id, name FROM annotators ORDER BY joined, id")]

    # Steps

    def wanted(self, task: Task) -> Mapping[str, int]:
        """Return how many people are to answer each item."""
        return self._wanted[task.id]

    def current_step(self, task: Task, annotator: Annotator) -> Step | None:
        """Return the step to answer now: the first unanswered one, or a new one; None where nothing is left."""
        with self._database.writing() as database:
            mine = [self._step(row) for row in database.execute(_OF_PERSON, (task.id, annotator.id)).fetchall()]
            waiting = next((step for step in mine if not step.answered), None)
            return waiting or self._new_step(database, task, annotator, mine)

    def _new_step(
        self, database: sqlite3.Connection, task: Task, annotator: Annotator, mine: list[Step]
    ) -> Step | None:
        of_others = (
            "SELECT item, COUNT(*) FROM steps WHERE task = ? AND annotator != ? AND occasion = 1 "
            "AND (answered OR shown > ?) GROUP BY item"
        )
        taken = database.execute(of_others, (task.id, annotator.id, self._clock() - LEASE)).fetchall()
        revealed = (
            "SELECT s.item FROM steps s JOIN history h USING (task, annotator, number) "
            "WHERE task = ? AND annotator = ? AND action = 'reveal'"
        )
        spoilt = {row[0] for row in database.execute(revealed, (task.id, annotator.id))}
        first, again = ([step.item for step in mine if step.occasion == occasion] for occasion in (1, 2))
        wanted = self._wanted[task.id]
        after = next_item(self.key, task, annotator.id, wanted, dict(taken), first, again, spoilt)
        if after is None:
            return None
        step = Step(task.id, annotator.id, len(mine) + 1, after.item, after.occasion, self._clock())
        _insert_step(database, step)
        return step

    def add_step(self, task: Task, annotator: Annotator, item: str, occasion: int = 1) -> Step:
        """Return the step in which a person answered an item elsewhere, made if it is not there."""
        with self._database.writing() as database:
            mine = [self._step(row) for row in database.execute(_OF_PERSON, (task.id, annotator.id)).fetchall()]
            found = next((step for step in mine if (step.item, step.occasion) == (item, occasion)), None)
            if found is None:
                found = Step(task.id, annotator.id, len(mine) + 1, item, occasion, self._clock())
                _insert_step(database, found)
            return found

    def step(self, task: Task, annotator: Annotator, number: int) -> Step | None:
        """Return a step that this person has been shown, or None."""
        row = self._database.row(_OF_STEP, task.id, annotator.id, number)
        return self._step(row) if row else None

    def steps(self, task: Task, annotator: Annotator | None = None) -> list[Step]:
        """Return the steps of a task, of one person or of all, in order."""
        if annotator:
            rows = self._database.rows(_OF_PERSON, task.id, annotator.id)
        else:
            rows = self._database.rows("SELECT * FROM steps WHERE task = ? ORDER BY annotator, number", task.id)
        return [self._step(row) for row in rows]

    def counts(self, task: Task) -> dict[str, int]:
        """Return how many people have answered each item, repetitions aside; items without an answer are left out."""
        query = "SELECT item, COUNT(*) FROM steps WHERE task = ? AND occasion = 1 AND answered GROUP BY item"
        return dict(self._database.rows(query, task.id))

    def answered(self, task: Task, annotator: Annotator) -> int:
        """Return how many steps of a task a person has answered."""
        query = "SELECT COUNT(*) FROM steps WHERE task = ? AND annotator = ? AND answered"
        return int(self._database.row(query, task.id, annotator.id)[0])

    # The history

    def save(
        self,
        step: Step,
        value: Value,
        *,
        revision: int,
        once: str,
        places: tuple[int, ...] = (),
        seconds: float | None = None,
        source: str = "page",
        at: float | None = None,
    ) -> Step:
        """Write an answer, once, and return the step as it is then.

        Args:
            step: what is answered.
            value: the answer.
            revision: `Step.revision` as the page showed it.
            once: names this one act. The same name with the same answer is the same act and writes nothing.
            places: for a choice, the number of the response in each place.
            seconds: from the moment the page was asked for.
            source: where it comes from.
            at: Unix time; now by default.

        Raises:
            Stale: the step has another revision by now, or the name was used for something else.
            Closed: it is a vote, and the study was un-blinded.
        """
        shown = json.dumps(places) if places else None
        return self._append(step, "answer", revision, once, (dump_value(value), shown, seconds, at, source))

    def withdraw(self, step: Step, *, revision: int, once: str) -> Step:
        """Take an answer back; the step is unanswered again. Raises as `save`."""
        return self._append(step, "withdraw", revision, once, (None, None, None, None, "page"))

    def _append(self, step: Step, action: Action, revision: int, once: str, rest: tuple[Any, ...]) -> Step:
        place = (step.task, step.annotator, step.number)
        with self._database.writing() as database:
            now = self._step(database.execute(_OF_STEP, place).fetchone())
            known = "SELECT task, annotator, number, action, value FROM history WHERE once = ?"
            before = database.execute(known, (once,)).fetchone()
            if before is not None:
                if tuple(before) != (*place, action, rest[0]):
                    raise Stale(now)
                return now
            if now.revision != revision:
                raise Stale(now)
            closed = database.execute("SELECT 1 FROM meta WHERE name = 'unblinded'").fetchone()
            if closed and self.study.tasks[step.task].kind == "preference":
                raise Closed
            self._insert(database, place, action, once, rest)
            return self._step(database.execute(_OF_STEP, place).fetchone())

    def reveal(self, step: Step, *, once: str) -> None:
        """Note that the judge's verdict was looked at; what is answered after that is not blind."""
        place = (step.task, step.annotator, step.number)
        seen = "SELECT 1 FROM history WHERE task = ? AND annotator = ? AND number = ? AND action = 'reveal'"
        with self._database.writing() as database:
            if not database.execute(seen, place).fetchone():
                self._insert(database, place, "reveal", once, (None, None, None, None, "page"))

    def is_revealed(self, step: Step) -> bool:
        """Whether this person has looked at the judge's verdict on the step's item, in this step or another."""
        query = (
            "SELECT 1 FROM history JOIN steps s USING (task, annotator, number) "
            "WHERE action = 'reveal' AND task = ? AND annotator = ? AND item = ?"
        )
        return self._database.row(query, step.task, step.annotator, step.item) is not None

    def history(self, task: Task) -> Iterator[Entry]:
        """Return everything that was done in a task, in order."""
        query = (
            "SELECT seq, task, annotator, number, item, occasion, action, h.value, places, seconds, at, study, source "
            "FROM history h JOIN steps USING (task, annotator, number) WHERE task = ? ORDER BY seq"
        )
        for row in self._database.rows(query, task.id):
            seq, name, annotator, number, item, occasion, action, value, places, seconds, at, study, source = row
            held, shown = value and load_value(task.kind, value), tuple(json.loads(places or "[]"))
            yield Entry(seq, name, annotator, number, item, occasion, action, held, shown, seconds, at, study, source)

    def _insert(
        self, database: sqlite3.Connection, place: Place, action: Action, once: str, rest: tuple[Any, ...]
    ) -> None:
        value, places, seconds, at, source = rest
        at = self._clock() if at is None else at
        seq = database.execute(
            "INSERT INTO history (task, annotator, number, action, value, places, seconds, at, once, study, source) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*place, action, value, places, seconds, at, once, self.study.hash, source),
        ).lastrowid
        if action != "reveal":
            database.execute(
                "UPDATE steps SET revision = ?, answered = ?, value = COALESCE(?, value) "
                "WHERE task = ? AND annotator = ? AND number = ?",
                (seq, action == "answer", value, *place),
            )

    def _step(self, row: Any) -> Step:
        task, annotator, number, item, occasion, shown, revision, answered, value = row
        held = load_value(self.study.tasks[task].kind, value) if value else None
        return Step(task, annotator, number, item, occasion, shown, revision, bool(answered), held)


def _insert_step(database: sqlite3.Connection, step: Step) -> None:
    row = (step.task, step.annotator, step.number, step.item, step.occasion, step.shown)
    columns = "task, annotator, number, item, occasion, shown"
    database.execute(f"INSERT INTO steps ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - constant


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
