"""How a verb speaks: progress to stderr, its answer to stdout, an error as one line and an exit code."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from types import TracebackType
from typing import Any, TextIO

from realigner.atomic import is_disk_full
from realigner.cli.console import LineProgress, RichProgress, safe_text, silence_libraries, warnings_shown
from realigner.errors import DiskError, RealignerError
from realigner.progress import SILENT, Progress

DONE, FAILED, WRONG_INPUT, GATE, INTERRUPTED = 0, 1, 2, 3, 130


class Voice:
    """The surroundings of a verb. Errors inside the context become messages; `code` is what to exit with.

    Args:
        quiet: no progress and no text; warnings and errors still show.
        as_json: the answer, or the error, is one JSON object on stdout.
        debug: an error shows its traceback.
    """

    def __init__(self, quiet: bool, as_json: bool, debug: bool) -> None:
        self.code = DONE
        self._quiet, self._json, self._debug = quiet, as_json, debug
        self._stdout = sys.stdout
        # Whatever a library prints must not mix with the answer.
        self._stray = redirect_stdout(sys.stderr)
        self._lines = RichProgress(sys.stderr) if sys.stderr.isatty() else LineProgress(sys.stderr)
        self._warnings = warnings_shown(self._lines)
        self.progress: Progress = SILENT if quiet else self._lines

    def __enter__(self) -> Voice:
        if not self._debug:
            silence_libraries()
        self._warnings.__enter__()
        self._stray.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stray.__exit__(None, None, None)
        self._warnings.__exit__(None, None, None)
        if error is None:
            return True
        if isinstance(error, BrokenPipeError):
            return False
        if self._debug:
            traceback.print_exception(error, file=sys.stderr)
        if is_disk_full(error) and not isinstance(error, DiskError):
            error = DiskError("the output", "the disk is full", "Free some room and give the same command again")
        self.code = exit_code(error)
        message = explain(error)
        complain(message)
        if self._json:
            _put_json(sys.stdout, {"ok": False, "exit_code": self.code, "error": _parts(error, message)})
        return True

    def answer(self, facts: Mapping[str, Any], text: Callable[[TextIO], None], *, code: int = DONE) -> None:
        """Give the verb's answer: `facts` with --json, else `text` writes it for people."""
        self.code = code
        if self._json:
            _put_json(self._stdout, {"ok": code == DONE, "exit_code": code, **facts})
        elif not self._quiet:
            text(self._stdout)
        self._stdout.flush()


def exit_code(error: BaseException) -> int:
    """Return what the command exits with after an error."""
    if isinstance(error, RealignerError):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def explain(error: BaseException) -> str:
    """Return an error as one line for people."""
    if isinstance(error, RealignerError):
        return f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        stage, directory = getattr(error, "stage", None), getattr(error, "directory", None)
        if stage is None:
            return "interrupted"
        return f"interrupted during '{stage}', nothing is half-written; resume with: realigner run {directory}"
    return f"error: {type(error).__name__}: {error} (unexpected; give the command again with --debug for the traceback)"


def complain(message: str) -> None:
    """Print one line to stderr."""
    print(safe_text(message), file=sys.stderr, flush=True)  # noqa: T201


def _parts(error: BaseException, message: str) -> dict[str, str]:
    if isinstance(error, RealignerError):
        parts = {"given": error.given, "rule": error.rule, "remedy": error.remedy}
        return {"kind": type(error).__name__, **parts}
    return {"kind": type(error).__name__, "message": message}


def _put_json(stream: TextIO, value: Mapping[str, Any]) -> None:
    stream.write(json.dumps(value, default=str) + "\n")


def write_lines(out: TextIO, *lines: str) -> None:
    """Write lines that are safe to show on a terminal."""
    out.writelines(safe_text(line) + "\n" for line in lines)
