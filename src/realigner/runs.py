"""A run directory: it explains itself, resumes by stage, and is never half-written.

`manifest.json` says, for each stage, from which inputs it was computed (its key), what it wrote, how long it
took, and the facts that the stage returned. A stage whose key still holds is not run again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from realigner import atomic
from realigner.errors import DiskError, RunDirError, StaleKeyError
from realigner.locking import take
from realigner.manifest import (
    MANIFEST,
    Inputs,
    finite,
    key_of,
    new_manifest,
    now,
    read_manifest,
    stale_stages,
    versions,
)
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.spent import Spent

RECIPE, LOCK, SCRATCH = "recipe.yaml", ".lock", ".scratch"

Work = Callable[["Run"], Mapping[str, Any]]
"""A stage: reads and writes through the run, returns its facts (JSON values)."""


class Interrupted(KeyboardInterrupt):
    """SIGINT arrived during a stage. What the stage had not finished was removed."""

    def __init__(self, stage: str, directory: Path) -> None:
        self.stage, self.directory = stage, directory
        super().__init__(f"interrupted during {stage}")


class StoredRun:
    """A run directory for reading. It may be unfinished, or being written by another process."""

    def __init__(self, directory: Path, manifest: dict[str, Any], recipe: Recipe) -> None:
        self.directory, self.manifest, self.recipe = directory, manifest, recipe

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The manifest's record of each stage that was started, in order."""
        records: dict[str, dict[str, Any]] = self.manifest["stages"]
        return records

    def path(self, name: str) -> Path:
        """Return where a file of the run is or would be."""
        return self.directory / name

    def is_done(self, stage: str) -> bool:
        """Say whether a stage was finished and what it wrote is still there with the recorded sizes."""
        record = self.stages.get(stage)
        return (
            record is not None
            and record["status"] == "done"
            and all(atomic.size_of(self.path(name)) == out["bytes"] for name, out in record["outputs"].items())
        )

    def facts(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage said of itself.

        Raises:
            RunDirError: the stage has not been finished.
        """
        self.require(stage)
        facts: dict[str, Any] = self.stages[stage]["facts"]
        return facts

    def require(self, *stages: str) -> None:
        """Refuse to go on unless these stages are finished.

        Raises:
            RunDirError: it names the command to run.
        """
        for stage in stages:
            if not self.is_done(stage):
                raise RunDirError(
                    f"run {self.directory}",
                    f"its stage '{stage}' has not been finished",
                    f"First run: realigner {stage} {self.directory}",
                )

    def refuse_stale(self, inputs: Mapping[str, Inputs]) -> None:
        """Refuse to go on from results that were computed from other inputs, or that are gone.

        Raises:
            StaleKeyError: it names what changed (`loss.beta 0.3 -> 0.1`), and what `--redo` would redo.
        """
        stale = self._stale(inputs)
        if stale:
            raise _stale_error(self.directory, stale, list(self.stages))

    def _stale(self, inputs: Mapping[str, Inputs]) -> dict[str, list[str]]:
        """Return the finished stages that must be redone first, each with the reasons."""
        return stale_stages(self.stages, inputs) or self._lost()

    def _lost(self) -> dict[str, list[str]]:
        """Return the stages whose results are gone although later stages were computed from them."""
        done = [name for name, record in self.stages.items() if record["status"] == "done"]
        return {name: ["what it wrote was removed or changed"] for name in done[:-1] if not self.is_done(name)}


class Run(StoredRun):
    """A run directory for writing, held by one process at a time. Made by `Run.open`."""

    def __init__(
        self,
        directory: Path,
        manifest: dict[str, Any],
        recipe: Recipe,
        *,
        inputs: Mapping[str, Inputs],
        progress: Progress,
    ) -> None:
        super().__init__(directory, manifest, recipe)
        self.progress = progress
        self.spent = Spent()
        self._inputs = inputs
        self._current: str | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        recipe: Recipe,
        inputs: Mapping[str, Inputs] | None = None,
        *,
        progress: Progress = SILENT,
        redo: bool = False,
        force: str | None = None,
    ) -> Iterator[Run]:
        """Create or reopen `recipe.output`, and hold it until the context ends (or the process dies).

        Args:
            recipe: what to run; written to `recipe.yaml`.
            inputs: what each stage is computed from, in the order of the stages.
            progress: where the run says how far it is.
            redo: drop stages that were computed from other inputs, and all after them, instead of refusing.
            force: with `redo`, a stage to drop in any case, with all after it.

        Raises:
            RunDirError: the directory is no run directory, is in use, or cannot be written.
            StaleKeyError: a finished stage was computed from other inputs; nothing was changed.
            DiskError: the disk is full, now or at any moment until the context ends.
        """
        # A stored recipe is read from its own folder, by whoever has the run: its paths must be absolute.
        recipe = Recipe.parse(recipe.model_dump(), base=Path.cwd())
        directory = Path(recipe.output)
        inputs = {} if inputs is None else inputs
        try:
            _claim(directory)
            with _locked(directory):
                _clean(directory)
                manifest = read_manifest(directory) or new_manifest(recipe)
                run = cls(directory, manifest, recipe, inputs=inputs, progress=progress)
                run._settle(redo=redo, force=force)
                yield run
        except Exception as error:
            if atomic.is_disk_full(error) and not isinstance(error, DiskError):
                raise DiskError(
                    f"run {directory}",
                    "the disk is full; what was being written was removed",
                    "Free some room and give the same command again: it resumes at this stage",
                ) from error
            raise

    def stage(self, name: str, work: Work) -> bool:
        """Run a stage unless it is done; return whether it ran.

        Raises:
            Interrupted: SIGINT arrived. The next run redoes the stage (training resumes inside it).
        """
        if self.is_done(name):
            self.progress.say(f"{name}: already done, kept")
            return False
        inputs = self._inputs[name]
        attempts = self.stages.get(name, {}).get("attempts", 0) + 1
        record = {
            "key": key_of(inputs),
            "inputs": inputs,
            "status": "started",
            "started": now(),
            "attempts": attempts,
            "versions": versions(),
            "outputs": {},
        }
        self.stages[name] = record
        self._save()
        self._drop_scratch(keep=f"{name}-{record['key']}")
        self.progress.say(f"{name} ..." if attempts == 1 else f"{name} ... (attempt {attempts})")
        begin = time.perf_counter()
        self._current = name
        try:
            facts = finite(dict(work(self)))
        except KeyboardInterrupt as error:
            raise Interrupted(name, self.directory) from error
        finally:
            self._current = None
        record |= {"status": "done", "seconds": round(time.perf_counter() - begin, 3), "facts": facts}
        self._save()
        self._drop_scratch()
        return True

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; it becomes the run's file `name` if the block succeeds, and is removed if not."""
        with atomic.writing(self.path(name)) as temporary:
            yield temporary
        self._record_output(name)

    @contextmanager
    def writing_directory(self, name: str) -> Iterator[Path]:
        """As `writing`, for a directory: yields an empty one."""
        with atomic.writing_directory(self.path(name)) as temporary:
            yield temporary
        self._record_output(name)

    def scratch(self) -> Path:
        """Return a directory that survives an interruption of this stage, and is removed when it is done.

        It belongs to the stage's key: a checkpoint can never be resumed with other settings.
        """
        if self._current is None:
            raise RuntimeError("scratch() belongs to a running stage")
        path = self.path(SCRATCH) / f"{self._current}-{self.stages[self._current]['key']}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _settle(self, *, redo: bool, force: str | None) -> None:
        """Refuse or drop what was computed from other inputs, then store the recipe."""
        if not redo:
            self.refuse_stale(self._inputs)
        stale = self._stale(self._inputs)
        names = list(self.stages)
        first = min((names.index(name) for name in (*stale, force) if name in names), default=None)
        if redo and first is not None:
            for name in names[first:]:
                for output in self.stages.pop(name)["outputs"]:
                    atomic.remove(self.path(output))
            self.progress.say(f"redoing {', '.join(names[first:])}")
        self._save()
        atomic.write_text(self.path(RECIPE), self.recipe.to_yaml())

    def _record_output(self, name: str) -> None:
        if self._current is not None:
            path = self.path(name)
            outputs = self.stages[self._current]["outputs"]
            outputs[name] = {"bytes": atomic.size_of(path), "hash": atomic.hash_of(path)}

    def _save(self) -> None:
        atomic.write_text(self.path(MANIFEST), json.dumps(self.manifest, indent=1, allow_nan=False) + "\n")

    def _drop_scratch(self, keep: str = "") -> None:
        scratch = self.path(SCRATCH)
        if not scratch.is_dir():
            return
        for path in scratch.iterdir():
            if path.name != keep:
                atomic.remove(path)
        if not any(scratch.iterdir()):
            scratch.rmdir()


class Follower(StoredRun):
    """A run as the other processes of torchrun see it: they read what is there, and what they would write is dropped.

    The first process writes the same.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], recipe: Recipe, scratch: Path) -> None:
        super().__init__(directory, manifest, recipe)
        self.progress, self.spent, self._scratch = SILENT, Spent(), scratch

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:  # noqa: ARG002
        """Yield a path that keeps nothing."""
        yield Path(os.devnull)

    @contextmanager
    def writing_directory(self, name: str) -> Iterator[Path]:
        """Yield a directory that is removed again."""
        with TemporaryDirectory(prefix=f"realigner-{name}-") as path:
            yield Path(path)

    def scratch(self) -> Path:
        """Return the first process's directory of this stage."""
        return self._scratch


def follow_run(directory: str | Path, stage: str) -> Follower:
    """Open a run that another process has opened for writing and is in this stage of."""
    run = load_run(directory)
    scratch = run.path(SCRATCH) / f"{stage}-{run.stages[stage]['key']}"
    scratch.mkdir(parents=True, exist_ok=True)
    return Follower(run.directory, run.manifest, run.recipe, scratch)


def load_run(path: str | Path) -> StoredRun:
    """Open a run directory for reading, finished or not. It takes no lock and changes nothing.

    Its recipe's `output` is the directory itself, also if it was moved.

    Raises:
        RunDirError: there is no run there, or one of a newer layout.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise RunDirError(f"run {path}", "no such directory", "Name a run directory: the `output` of a recipe")
    manifest = read_manifest(directory)
    if manifest is None or not (directory / RECIPE).is_file():
        inside = sorted(found.parent for found in directory.glob(f"*/{MANIFEST}"))  # the demo keeps its run in `run`
        raise RunDirError(
            f"{path}",
            f"it holds no {MANIFEST} and {RECIPE}, so it is no run directory",
            f"Name the `output` of a recipe{f', such as {inside[0]}' if inside else ''}",
        )
    recipe = Recipe.load(directory / RECIPE, [f"output={json.dumps(str(directory.resolve()))}"])
    return StoredRun(directory, manifest, recipe)


def finished_stages(directory: Path) -> list[str]:
    """Return the names of the stages that a directory's manifest calls done; none where there is no run."""
    manifest = read_manifest(directory)
    records = {} if manifest is None else manifest["stages"]
    return [name for name, record in records.items() if record["status"] == "done"]


def _stale_error(directory: Path, stale: Mapping[str, list[str]], stored: list[str]) -> StaleKeyError:
    first = next(iter(stale))
    changes = list(dict.fromkeys(change for changes in stale.values() for change in changes))
    return StaleKeyError(
        f"run {directory}, stage '{first}': {'; '.join(changes) or 'an earlier stage changed'}",
        "its stored results do not belong to the inputs given now",
        f"Choose another output, or pass --redo to redo {', '.join(stored[stored.index(first) :])}",
    )


def _claim(directory: Path) -> None:
    """Make the directory, or make sure that an existing one is a run's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in directory.iterdir()}
    except OSError as error:
        if atomic.is_disk_full(error):
            raise
        raise RunDirError(
            f"output {directory}", f"it cannot be a directory ({error.strerror})", "Choose another `output`"
        ) from None
    foreign = {name for name in names if name != LOCK and not name.startswith(atomic.TEMPORARY)}
    if foreign and MANIFEST not in names:
        raise RunDirError(
            f"output {directory}",
            f"it holds files ('{min(foreign)}') but no {MANIFEST}, so it is no run directory",
            "Choose another `output`, or empty the directory",
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the run. The kernel releases it when the process ends, however it ends."""
    try:
        lock = (directory / LOCK).open("a+", encoding="utf-8")
    except PermissionError:
        raise RunDirError(
            f"output {directory}", "it cannot be written (permission denied)", "Choose another `output`"
        ) from None
    with lock:
        take(
            lock,
            lambda holder: RunDirError(
                f"run {directory}",
                f"it is in use by process {holder}",
                "Wait for that process to end, or choose another `output`",
            ),
        )
        yield


def _clean(directory: Path) -> None:
    """Remove what a killed run left unfinished."""
    for path in directory.glob(f"{atomic.TEMPORARY}*"):
        atomic.remove(path)
