"""The verdict store: what a judge said of a response by a rule is asked, and paid for, once.

A SQLite file in WAL mode: one process writes, any number read meanwhile, and a killed writer leaves every answer that
it had stored. The key of a vote is (rule hash, judge identity, prompt, response). Texts are found by a digest and then
compared in full, so no collision can serve the verdict on another text. Votes are only ever added.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realigner.manifest import finite, now
from realigner.oracle.judge import Fact
from realigner.oracle.store_file import SCHEMA, digest_of, explained, opened, opened_for_reading, opened_temporary
from realigner.records import Judgement, Label, RuleVerdict

AT_A_TIME = 500
"""Questions that are looked up in one statement."""
_LABELS = {label.value: label for label in Label}

Said = tuple[Label, str]
"""A label and its reason."""


class VerdictStore:
    """The file of verdicts, open. Use it as a context manager.

    Raises (every method):
        OracleError: the file is damaged.
        DiskError: the disk is full.
    """

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        self._database, self._name = database, name
        self._rules: dict[str, int] = {}
        self._judges: dict[str, int] = {}
        self._reload()

    @classmethod
    @contextmanager
    def open(cls, path: str | Path) -> Iterator[VerdictStore]:
        """Open a file for reading and writing, made if it is not there, and hold it alone.

        Raises:
            OracleError: another process writes to it, it is no verdict store, one of a newer schema, or damaged.
        """
        with opened(Path(path)) as database:
            yield cls(database, str(path))

    @classmethod
    @contextmanager
    def read(cls, path: str | Path) -> Iterator[VerdictStore]:
        """Open a file for reading only, also while another process writes to it.

        Raises:
            OracleError: no such file, no verdict store, one of a newer schema, or damaged.
        """
        with opened_for_reading(Path(path)) as database:
            yield cls(database, str(path))

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[VerdictStore]:
        """Open a private store that is deleted when it is closed; what does not fit into memory lies on disk."""
        with opened_temporary() as database:
            yield cls(database, "(temporary)")

    def find(self, judge: str, questions: Sequence[Judgement], rules: Iterable[str]) -> list[dict[str, Said]]:
        """Return, for each question, what this judge said by each rule: {rule hash: (label, reason)}, the first vote.

        Raises:
            DataError: a text is not valid Unicode.
        """
        found: list[dict[str, Said]] = [{} for _ in questions]
        wanted = {self._rules[rule]: rule for rule in rules if rule in self._rules}
        if judge not in self._judges or not wanted:
            for question in questions:
                digest_of(*_texts(question))  # refuses what could not be stored before it is asked
            return found
        for start in range(0, len(questions), AT_A_TIME):
            places: dict[int, list[int]] = {}
            for place, known in enumerate(self._ids(questions[start : start + AT_A_TIME]), start):
                if known is not None:
                    places.setdefault(known, []).append(place)
            rows = self._rows(
                "SELECT question, rule, label, reason FROM votes "
                "WHERE question IN (SELECT value FROM json_each(?)) AND judge = ? AND number = 0",
                (json.dumps(list(places)), self._judges[judge]),
            )
            for question, rule, label, reason in rows:
                if rule in wanted:
                    said = _LABELS[label], reason
                    for place in places[question]:
                        found[place][wanted[rule]] = said
        return found

    def add(
        self, judge: str, question: Judgement, verdicts: Sequence[tuple[str, RuleVerdict]], facts: Mapping[str, Fact]
    ) -> None:
        """Store what a judge said of one response by (rule hash, verdict), in one transaction, and never change it.

        Raises:
            ValueError: a verdict is `invalid`: errors, refusals and truncations are not stored.
            DataError: a text is not valid Unicode.
        """
        if any(verdict.label is Label.INVALID for _, verdict in verdicts):
            raise ValueError("an invalid verdict is never stored")
        provenance, texts = _facts(facts), _texts(question)
        with self._transaction():
            asked = self._question(*texts)
            for rule, verdict in verdicts:
                key = (asked, self._intern_judge(judge), self._intern_rule(rule, verdict.rule))
                self._database.execute(
                    "INSERT INTO votes SELECT ?1, ?2, ?3, COALESCE(MAX(number) + 1, 0), ?4, ?5, ?6, ?7 FROM votes "
                    "WHERE question = ?1 AND judge = ?2 AND rule = ?3",
                    (*key, verdict.label.value, verdict.reason, provenance, now()),
                )

    def set_aside(self, judge: str, question: Judgement, verdicts: Sequence[tuple[str, RuleVerdict]]) -> None:
        """Remember an answer that is not kept until this store is closed, so that it is not asked for twice meanwhile.

        It lies in a temporary file of this process.
        """
        digest = digest_of(*_texts(question))
        rows = [(digest, judge, rule, verdict.label.value, verdict.reason) for rule, verdict in verdicts]
        with explained(self._name):
            self._database.executemany("INSERT OR IGNORE INTO aside VALUES (?, ?, ?, ?, ?)", rows)

    def find_aside(self, judge: str, question: Judgement) -> dict[str, Said]:
        """Return what was set aside: {rule hash: (label, reason)}."""
        key = (digest_of(*_texts(question)), judge)
        rows = self._rows("SELECT rule, label, reason FROM aside WHERE digest = ? AND judge = ?", key)
        return {rule: (_LABELS[label], reason) for rule, label, reason in rows}

    def facts(self, judge: str, limit: int = 200) -> list[dict[str, Fact]]:
        """Return the provenance of some of a judge's latest votes."""
        rows = self._rows(
            "SELECT facts FROM votes WHERE question > (SELECT COALESCE(MAX(id), 0) FROM questions) - 20000 "
            "AND judge = ? ORDER BY question DESC LIMIT ?",
            (self._judges.get(judge), limit),
        )
        return [json.loads(facts) for (facts,) in rows]

    def votes(self) -> Iterator[dict[str, Any]]:
        """Yield every vote with its provenance, as plain JSON values."""
        with explained(self._name):
            rows = self._database.execute(
                "SELECT rules.name, hash, identity, messages, response, number, label, reason, facts, time FROM votes "
                " JOIN questions ON questions.id = question JOIN prompts ON prompts.id = prompt "
                "JOIN rules ON rules.id = rule JOIN judges ON judges.id = judge ORDER BY question, judge, rule, number"
            )
            for rule, hashed, judge, messages, response, number, label, reason, facts, time in rows:
                yield {
                    "rule": rule,
                    "rule_hash": hashed,
                    "judge": judge,
                    "prompt": [{"role": role, "content": content} for role, content in json.loads(messages)],
                    "response": response,
                    "number": number,
                    "label": label,
                    "reason": reason,
                    "facts": json.loads(facts),
                    "time": time,
                }

    def counts(self) -> dict[str, Any]:
        """Return how much there is: questions, votes, votes by judge and by rule, first and last time."""
        votes, first, last = self._rows("SELECT COUNT(*), MIN(time), MAX(time) FROM votes")[0]
        by_judge = "SELECT identity, COUNT(*) FROM votes JOIN judges ON judges.id = judge GROUP BY judge ORDER BY judge"
        by_rule = "SELECT name, hash, COUNT(*) FROM votes JOIN rules ON rules.id = rule GROUP BY rule ORDER BY rule"
        return {
            "schema": SCHEMA,
            "questions": self._rows("SELECT COUNT(*) FROM questions")[0][0],
            "votes": votes,
            "first": first,
            "last": last,
            "judges": dict(self._rows(by_judge)),
            "rules": [{"rule": name, "hash": hashed, "votes": count} for name, hashed, count in self._rows(by_rule)],
        }

    def compact(self, keep: Iterable[str] | None = None) -> int:
        """Give unused room back to the file system; return how many votes were dropped.

        Args:
            keep: rule hashes; votes by all other rules are dropped, with the texts that only they needed. Default:
                every vote stays.
        """
        dropped = 0
        with explained(self._name):
            if keep is not None:
                kept = set(keep)
                ids = [place for rule, place in self._rules.items() if rule not in kept]
                with self._transaction():
                    drop = "DELETE FROM votes WHERE rule IN (SELECT value FROM json_each(?))"
                    dropped = self._database.execute(drop, (json.dumps(ids),)).rowcount
                    for unused in (
                        "rules WHERE id NOT IN (SELECT rule FROM votes)",
                        "judges WHERE id NOT IN (SELECT judge FROM votes)",
                        "questions WHERE id NOT IN (SELECT question FROM votes)",
                        "prompts WHERE id NOT IN (SELECT prompt FROM questions)",
                    ):
                        self._database.execute(f"DELETE FROM {unused}")  # noqa: S608  (our own words)
                self._reload()
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return dropped

    def _reload(self) -> None:
        self._rules = dict(self._rows("SELECT hash, id FROM rules"))
        self._judges = dict(self._rows("SELECT identity, id FROM judges"))

    def _ids(self, questions: Sequence[Judgement]) -> list[int | None]:
        """Return the id of each question that is known: texts are compared in full, the digest only finds them."""
        found: list[int | None] = []
        for start in range(0, len(questions), AT_A_TIME):
            wanted = [_texts(question) for question in questions[start : start + AT_A_TIME]]
            digests = [digest_of(*texts) for texts in wanted]
            marks = ",".join("?" * len(digests))
            rows = self._rows(
                "SELECT questions.digest, questions.id, messages, response FROM questions "  # noqa: S608  (marks only)
                f"JOIN prompts ON prompts.id = prompt WHERE questions.digest IN ({marks})",
                digests,
            )
            places: dict[tuple[bytes, str, str], int] = {}
            for digest, place, messages, response in rows:
                places.setdefault((digest, messages, response), place)
            found += [places.get((digest, *texts)) for digest, texts in zip(digests, wanted, strict=True)]
        return found

    def _question(self, messages: str, response: str) -> int:
        """Return the id of a question, which is put in where it is new; inside a transaction."""
        execute, digest, whole = self._database.execute, digest_of(messages), digest_of(messages, response)
        for place, text, other in execute(
            "SELECT questions.id, messages, response FROM questions JOIN prompts ON prompts.id = prompt "
            "WHERE questions.digest = ?",
            (whole,),
        ):
            if (text, other) == (messages, response):
                return int(place)
        rows = execute("SELECT id, messages FROM prompts WHERE digest = ?", (digest,))
        prompt = next((place for place, text in rows if text == messages), None)
        if prompt is None:
            prompt = self._insert("INSERT INTO prompts (digest, messages) VALUES (?, ?)", digest, messages)
        return self._insert(
            "INSERT INTO questions (digest, prompt, response) VALUES (?, ?, ?)", whole, prompt, response
        )

    def _intern_rule(self, rule: str, name: str) -> int:
        if rule not in self._rules:
            self._rules[rule] = self._insert("INSERT INTO rules (hash, name) VALUES (?, ?)", rule, name)
        return self._rules[rule]

    def _intern_judge(self, judge: str) -> int:
        if judge not in self._judges:
            self._judges[judge] = self._insert("INSERT INTO judges (identity) VALUES (?)", judge)
        return self._judges[judge]

    def _insert(self, statement: str, *values: object) -> int:
        return int(self._database.execute(statement, values).lastrowid or 0)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self._name):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                self._reload()
                raise

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with explained(self._name):
            return self._database.execute(statement, values).fetchall()


def _texts(question: Judgement) -> tuple[str, str]:
    """Return the prompt as canonical JSON, and the response."""
    messages = [[turn["role"], turn["content"]] for turn in question.prompt]
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":")), question.response


def _facts(facts: Mapping[str, Fact]) -> str:
    """Return provenance as JSON; numbers that JSON cannot hold are null."""
    try:
        return json.dumps(facts, sort_keys=True, allow_nan=False)
    except ValueError:
        return json.dumps(finite(facts), sort_keys=True, allow_nan=False)
