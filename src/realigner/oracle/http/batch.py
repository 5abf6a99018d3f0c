"""Batch files: the requests that a judge would send, written instead; answers from files, read instead.

A line of a request file is what a live call sends, with a `custom_id` (`HttpJudge.custom_id`) that names the question
and the judge. So an answer finds its question whatever the order of the lines and however many of them came back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from realigner.errors import OracleError
from realigner.oracle.http.judge import HttpJudge
from realigner.oracle.http.records import Completion, NotACompletion, batch_line, error_text, read_completion
from realigner.oracle.judge import RuleAnswer, RuleQuestion
from realigner.oracle.store_file import opened_temporary
from realigner.records import Label, RuleVerdict

MOST_REQUESTS = 50_000
MOST_MEGABYTES = 200
"""What vendors take in one file."""


class RequestFiles:
    """Writes requests into files of limited length, numbered from 1; one model a file, as batch APIs want it.

    Args:
        folder: where; it exists and is empty.
        most_requests: lines of one file, at most.
        most_bytes: bytes of one file, at most (a single longer line makes a file of its own).
    """

    def __init__(
        self, folder: Path, most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_MEGABYTES * 10**6
    ) -> None:
        self._folder, self._most_requests, self._most_bytes = folder, most_requests, most_bytes
        self._open: dict[str, BinaryIO] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self.files: list[str] = []
        self.requests = 0
        self.bytes = 0

    def __enter__(self) -> RequestFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def write(self, model: str, line: str) -> None:
        """Write one request."""
        raw = line.encode("ascii") + b"\n"
        requests, size = self._sizes.get(model, (self._most_requests, 0))
        if requests >= self._most_requests or (requests and size + len(raw) > self._most_bytes):
            self._next(model)
            requests, size = 0, 0
        self._open[model].write(raw)
        self._sizes[model] = requests + 1, size + len(raw)
        self.requests += 1
        self.bytes += len(raw)

    def _next(self, model: str) -> None:
        if model in self._open:
            self._open[model].close()
        name = f"{_slug(model)}-{len(self.files) + 1:05}.jsonl"
        self._open[model] = (self._folder / name).open("xb")
        self.files.append(name)


class StandIn:
    """Stands for an HTTP judge: each question goes to a function, at once, instead of to the server.

    Raises:
        OracleError: the judge's output mode would have to be asked from a server.
    """

    def __init__(self, judge: HttpJudge, answer: Callable[[HttpJudge, RuleQuestion], RuleAnswer]) -> None:
        refuse_unknown_mode(judge)
        self._judge, self._answer = judge, answer

    @property
    def identity(self) -> str:
        """The judge's own."""
        return self._judge.identity

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield what the function says of each question."""
        for place, question in enumerate(questions):
            yield place, self._answer(self._judge, question)


def exporting(judge: HttpJudge, files: RequestFiles) -> StandIn:
    """Return a judge that writes every question as a line of a file, and has no answer yet."""

    def write(judge: HttpJudge, question: RuleQuestion) -> RuleAnswer:
        files.write(judge.client.model.model, batch_line(judge.custom_id(question), judge.request(question)))
        return _unanswered(question, "exported, and not answered yet")

    return StandIn(judge, write)


def importing(judge: HttpJudge, results: Results) -> StandIn:
    """Return a judge whose answers come from files."""

    def look_up(judge: HttpJudge, question: RuleQuestion) -> RuleAnswer:
        custom_id = judge.custom_id(question)
        completion = results.take(custom_id)
        if completion is None:
            return _unanswered(question, "no answer in the files")
        answer = judge.read(question, completion)
        results.settle(custom_id, "" if answer.keep else answer.verdicts[0].reason)
        return answer

    return StandIn(judge, look_up)


class Results:
    """The answers of batch files by custom_id, in a temporary file of this process: memory does not grow with them.

    Use it as a context manager.
    """

    def __init__(self) -> None:
        self._opened = opened_temporary()
        self.tally: Counter[str] = Counter()
        """Lines by what became of them: `answers`, `failed`, `unreadable lines`, `repeated`."""

    def __enter__(self) -> Results:
        self._database = self._opened.__enter__()
        self._database.execute(
            "CREATE TEMP TABLE results (id TEXT PRIMARY KEY, ok INTEGER, source TEXT, reply TEXT, fate TEXT)"
        )
        self._database.execute("CREATE TEMP TABLE bad_lines (source TEXT, why TEXT)")
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def read(self, path: Path) -> None:
        """Take in one file of results. Of several answers to one question the first whole one stands.

        Raises:
            OracleError: it cannot be read, holds requests, or not one line of results.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise OracleError(f"results {path}", f"it cannot be read ({error.strerror})", "Check the path") from None
        taken = 0
        with file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    taken += self._line(raw, f"{path}:{number}")
        if not taken:
            raise OracleError(
                f"results {path}",
                "it holds no line with a custom_id and a response",
                "Give the output file of the batch: JSON Lines of {custom_id, response: {status_code, body}}",
            )

    def take(self, custom_id: str) -> Completion | None:
        """Return the completion for a question; None where the files have none."""
        found = self._database.execute("SELECT reply FROM results WHERE id = ?", (custom_id,)).fetchone()
        return None if found is None else Completion(**json.loads(found[0]))

    def settle(self, custom_id: str, why: str) -> None:
        """Note that a question was asked for this answer, and why it gave no verdict (empty: it gave one)."""
        self._database.execute("UPDATE results SET fate = ? WHERE id = ?", (why, custom_id))

    def count(self) -> int:
        """Return how many questions the files have an answer to, failed ones included."""
        return self._count("1")

    def stored(self) -> int:
        """Return how many answers gave a verdict."""
        return self._count("fate = ''")

    def unasked(self) -> int:
        """Return how many answers belong to no question that is open."""
        return self._count("fate IS NULL")

    def faults(self) -> Iterator[dict[str, str]]:
        """Yield what could not be used: custom_id (empty where a line has none), the line's place, and why."""
        failed = self._database.execute(
            "SELECT id, source, COALESCE(fate, 'belongs to no open question of this recipe') FROM results "
            "WHERE fate IS NULL OR fate != '' ORDER BY rowid"
        )
        for custom_id, source, why in failed:
            yield {"custom_id": custom_id, "line": source, "why": why}
        for source, why in self._database.execute("SELECT source, why FROM bad_lines ORDER BY rowid"):
            yield {"custom_id": "", "line": source, "why": why}

    def _count(self, condition: str) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM results WHERE {condition}").fetchone()[0])  # noqa: S608

    def _line(self, raw: bytes, source: str) -> bool:
        try:
            custom_id, completion = read_result(raw)
        except NotACompletion as error:
            self.tally["unreadable lines"] += 1
            self._database.execute("INSERT INTO bad_lines VALUES (?, ?)", (source, str(error)))
            return False
        ok = completion.finish != "error"
        known = self._database.execute("SELECT ok FROM results WHERE id = ?", (custom_id,)).fetchone()
        self.tally["repeated"] += known is not None
        self.tally["answers" if ok else "failed"] += 1
        if known is None or (ok and not known[0]):
            row = (custom_id, ok, source, json.dumps(asdict(completion)))
            self._database.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, NULL)", row)
        return True


def read_result(raw: bytes) -> tuple[str, Completion]:
    """Return the custom_id and the completion of one line of results.

    Raises:
        NotACompletion: it is not JSON, a request, or no line of results.
    """
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        raise NotACompletion("it is not JSON") from None
    custom_id = line.get("custom_id") if isinstance(line, dict) else None
    if not isinstance(custom_id, str) or not custom_id:
        raise NotACompletion("it has no custom_id")
    if "body" in line and "response" not in line:
        raise NotACompletion("it is a request, not its answer")
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, dict):
        return custom_id, _failed(0, error)
    status, body = response.get("status_code", 200), response.get("body")
    if status != 200 or error:
        return custom_id, _failed(status if isinstance(status, int) else 0, error or body)
    try:
        return custom_id, read_completion(body)
    except NotACompletion as fault:
        return custom_id, Completion("", "error", str(fault))


def refuse_unknown_mode(judge: HttpJudge) -> None:
    """Refuse a judge whose output mode would have to be asked from a server: a batch has none to ask.

    Raises:
        OracleError: with the setting to make.
    """
    if judge.known_mode is None:
        raise OracleError(
            f"judge {judge.client.model.model} with output: auto",
            "a batch file has no server to find the output mode with, and the mode is part of every question's id",
            "Set output to json_schema (vLLM and most vendors), json_object or plain",
        )


def _failed(status: int, error: Any) -> Completion:
    code, message = error_text(error)
    said = " ".join((message or code).split())[:300]
    failed = f"the request failed with status {status}" if status else "the request failed"
    return Completion("", "error", failed + (f": {said}" if said else ""), status)


def _unanswered(question: RuleQuestion, why: str) -> RuleAnswer:
    verdicts = tuple(RuleVerdict(rule.id, Label.INVALID, why) for rule in question.rules)
    return RuleAnswer(verdicts, False, {"calls": 0, "input_tokens": 0, "output_tokens": 0})


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[-60:] or "model"


def write_faults(faults: Iterable[dict[str, str]], path: Path) -> None:
    """Write what could not be used as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(fault) + "\n" for fault in faults)
