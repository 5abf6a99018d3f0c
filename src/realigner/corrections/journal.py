"""Every candidate that was written, in a file that only grows: what is in it is never written, or paid for, again.

JSON Lines, one candidate each, flushed before the next is awaited; a line that a killed process left unfinished is
cut off by the next one. One process writes at a time. Only where each line stands is held in memory.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from realigner.errors import OracleError
from realigner.manifest import now
from realigner.records import Prompt, prompt_key, text_hash

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer made of one request."""

    text: str
    """As it came; empty where nothing did."""
    finish: str
    """`stop`; `length`: cut; `refusal`, `content_filter`: withheld by the server; `error`: nothing came."""
    error: str = ""
    model: str = ""
    """The model as the server named it."""
    seed: int | None = None
    attempts: int = 1
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0

    @property
    def keep(self) -> bool:
        """Whether it is remembered: errors and what was withheld are asked for again."""
        return self.finish in ("stop", "length")


def candidate_key(writer: str, prompt: Prompt, number: int) -> str:
    """Return the identity of a candidate: who wrote under which policy, to which prompt, and its number from 0."""
    return text_hash(writer, prompt_key(prompt), str(number))


class Journal:
    """The file of candidates, open for reading and adding. Made by `Journal.open`."""

    def __init__(self, file: IO[bytes], places: dict[str, int]) -> None:
        self._file, self._places = file, places

    @classmethod
    @contextmanager
    def open(cls, path: str | Path) -> Iterator[Journal]:
        """Open a journal and hold it alone; made if it is not there.

        Raises:
            OracleError: another process writes to it, it cannot be written, or it is no journal.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise OracleError(
                f"journal {path}", f"it cannot be written ({error.strerror})", "Set corrections.generate.journal"
            ) from None
        with file:
            _take(file, path)
            yield cls(file, _scan(file, path))

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str) -> Draft | None:
        """Return the candidate of a key, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place)
        return Draft(**json.loads(self._file.readline())["draft"])

    def add(self, key: str, draft: Draft, facts: Mapping[str, Any]) -> None:
        """Remember a candidate; it is on its way to the disk when this returns.

        Args:
            key: of `candidate_key`.
            draft: what was written.
            facts: provenance for readers: pair, writer, policy, number.
        """
        line = {"format": FORMAT, "key": key, **facts, "draft": asdict(draft), "time": now()}
        self._file.seek(0, 2)
        self._places[key] = self._file.tell()
        # JSON escapes: half of a surrogate pair in a text must not make the file unreadable.
        self._file.write(json.dumps(line).encode("ascii") + b"\n")
        self._file.flush()


def _take(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OracleError(
            f"journal {path}",
            "another process writes to it",
            "Wait for that process, or set corrections.generate.journal to another file",
        ) from None


def _scan(file: IO[bytes], path: Path) -> dict[str, int]:
    """Return where each candidate stands; cut an unfinished last line off."""
    places: dict[str, int] = {}
    place = 0
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            file.truncate(place)
            break
        try:
            content = json.loads(line)
            if content["format"] != FORMAT:
                raise ValueError
            Draft(**content["draft"])
            places.setdefault(str(content["key"]), place)
        except (ValueError, KeyError, TypeError):
            raise OracleError(
                f"journal {path}, line {number}",
                "it is no line of a journal of candidates of this version",
                "Move the file away, or set corrections.generate.journal to another file",
            ) from None
        place += len(line)
    return places
