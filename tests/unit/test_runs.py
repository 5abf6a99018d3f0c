"""The run directory: one holder, resume by stage, keys that name what changed, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realigner.errors import DiskError, RunDirError, StaleKeyError
from realigner.manifest import MANIFEST, key_of
from realigner.recipe import Recipe
from realigner.runs import Interrupted, Run, load_run

INPUTS = {
    "triage": {"seed": 0, "policy": {"hash": "aa"}, "after": {}},
    "weigh": {"loss": {"beta": 0.3}, "after": {"triage": "k1"}},
}


def recipe_for(directory: Path, **changes: object) -> Recipe:
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
    return Recipe.parse({"output": str(directory), **sections, **changes})


def write(run: Run, name: str, text: str = "x") -> None:
    with run.writing(name) as temporary:
        temporary.write_text(text)


def triage(run: Run) -> dict[str, object]:
    write(run, "triage.parquet", "rows")
    return {"counts": {"INVERT": 3}}


def weigh(run: Run) -> dict[str, object]:
    write(run, "weights.parquet")
    return {"mean": 1.0}


def finish(directory: Path) -> None:
    with Run.open(recipe_for(directory), INPUTS) as run:
        run.stage("triage", triage)
        run.stage("weigh", weigh)


def visible(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


class Told:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, label: str, total: int | None) -> Iterator[None]:
        raise NotImplementedError


# What a run leaves behind


def test_a_run_explains_itself(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert set(manifest["versions"]) >= {"python", "realigner", "torch", "transformers", "peft"}
    assert manifest["seed"] == 0
    record = manifest["stages"]["triage"]
    assert record["status"] == "done"
    assert record["key"] == key_of(INPUTS["triage"])
    assert record["outputs"]["triage.parquet"]["bytes"] == 4
    assert record["outputs"]["triage.parquet"]["hash"].startswith("sha256:")
    assert record["facts"] == {"counts": {"INVERT": 3}}
    assert record["seconds"] >= 0


def test_a_stored_run_gives_recipe_and_facts_without_the_lock(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "run", seed=7)
    with Run.open(recipe, INPUTS) as run:
        run.stage("triage", triage)
        stored = load_run(tmp_path / "run")
        assert stored.recipe == run.recipe
        assert stored.recipe.seed == 7
        assert stored.facts("triage") == {"counts": {"INVERT": 3}}
        with pytest.raises(RunDirError, match=r"'weigh' has not been finished\. First run: realigner weigh"):
            stored.facts("weigh")


def test_a_stored_recipe_holds_absolute_paths_and_follows_a_moved_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").touch()
    with Run.open(recipe_for(Path("run")), INPUTS):
        pass
    (tmp_path / "run").rename(tmp_path / "moved")
    recipe = load_run("moved").recipe
    assert recipe.output == str(tmp_path / "moved")
    assert recipe.data.path == str(tmp_path / "d")
    assert recipe.model.path == "m"


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    with Run.open(recipe_for(tmp_path / "run"), INPUTS) as run:
        run.stage("triage", lambda _: {"kl": [float("nan"), 1.0], "ppl": float("inf")})
    assert load_run(tmp_path / "run").facts("triage") == {"kl": [None, 1.0], "ppl": None}


# Resuming


def test_a_done_stage_is_kept_and_said_so(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    told = Told()
    with Run.open(recipe_for(tmp_path / "run"), INPUTS, progress=told) as run:
        assert not run.stage("triage", lambda _: pytest.fail("it ran again"))
    assert told.lines == ["triage: already done, kept"]


def test_a_failed_stage_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    def fail(run: Run) -> dict[str, object]:
        with run.writing("triage.parquet") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
        return {}

    with pytest.raises(ZeroDivisionError), Run.open(recipe_for(tmp_path / "run"), INPUTS) as run:
        run.stage("triage", fail)
    assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}
    with Run.open(recipe_for(tmp_path / "run"), INPUTS) as run:
        assert run.stage("triage", triage)
    assert load_run(tmp_path / "run").stages["triage"]["attempts"] == 2


def test_a_stage_whose_output_was_removed_runs_again_if_nothing_followed(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    (tmp_path / "run" / "weights.parquet").unlink()
    with Run.open(recipe_for(tmp_path / "run"), INPUTS) as run:
        assert not run.stage("triage", triage)
        assert run.stage("weigh", weigh)


def test_an_output_that_later_stages_used_is_not_replaced_silently(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    (tmp_path / "run" / "triage.parquet").write_text("other rows")
    with (
        pytest.raises(StaleKeyError, match=r"stage 'triage': what it wrote was removed or changed.* triage, weigh"),
        Run.open(recipe_for(tmp_path / "run"), INPUTS),
    ):
        pass


def test_scratch_survives_an_interruption_but_not_another_key(tmp_path: Path) -> None:
    def checkpoint(run: Run) -> dict[str, object]:
        (run.scratch() / "step-1").touch()
        raise ZeroDivisionError

    def look(run: Run) -> dict[str, object]:
        return {"found": [path.name for path in run.scratch().iterdir()]}

    recipe = recipe_for(tmp_path / "run")
    other = {**INPUTS, "triage": {"seed": 1}}
    for inputs, found in ((INPUTS, ["step-1"]), (other, [])):
        with pytest.raises(ZeroDivisionError), Run.open(recipe, INPUTS) as run:
            run.stage("triage", checkpoint)
        with Run.open(recipe, inputs) as run:
            run.stage("triage", look)
            assert run.facts("triage") == {"found": found}
        assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}
        (tmp_path / "run" / "manifest.json").unlink()
        (tmp_path / "run" / "recipe.yaml").unlink()


# Stale keys


def test_a_stale_key_names_the_changed_value_and_changes_nothing(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    before = (tmp_path / "run" / "manifest.json").read_text()
    changed = {**INPUTS, "weigh": {**INPUTS["weigh"], "loss": {"beta": 0.1}}}
    with (
        pytest.raises(StaleKeyError, match=r"stage 'weigh': loss\.beta 0\.3 -> 0\.1: .*--redo to redo weigh$"),
        Run.open(recipe_for(tmp_path / "run", loss={"beta": 0.1}), changed),
    ):
        pass
    assert (tmp_path / "run" / "manifest.json").read_text() == before
    assert load_run(tmp_path / "run").recipe.loss.beta == 0.3


def test_redo_drops_the_stale_stage_and_all_after_it(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    changed = {"triage": {**INPUTS["triage"], "policy": {"hash": "bb"}}, "weigh": INPUTS["weigh"]}
    with Run.open(recipe_for(tmp_path / "run"), changed, redo=True) as run:
        assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}
        assert run.stages == {}
        assert run.stage("triage", triage)


def test_redo_without_a_change_keeps_everything(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with Run.open(recipe_for(tmp_path / "run"), INPUTS, redo=True) as run:
        assert run.is_done("triage")
        assert run.is_done("weigh")


def test_redo_of_a_named_stage_drops_it_in_any_case(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with Run.open(recipe_for(tmp_path / "run"), INPUTS, redo=True, force="weigh") as run:
        assert run.is_done("triage")
        assert not run.is_done("weigh")


# Directories that are no runs


def test_a_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(RunDirError, match=r"holds files \('thesis.tex'\) but no manifest.json"),
        Run.open(recipe_for(tmp_path)),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_is_accepted(tmp_path: Path) -> None:
    with Run.open(recipe_for(tmp_path), INPUTS) as run:
        assert run.stage("triage", triage)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(
                RunDirError, match=r"cannot be a directory \((File exists|Not a directory)\)\. Choose another"
            ),
            Run.open(recipe_for(output)),
        ):
            pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no manifest of realigner"),
        ("[]", "it is no manifest of realigner"),
        ('{"format": "x", "stages": {}}', "it is no manifest of realigner"),
        ('{"format": 99, "stages": {}}', "its format is 99, this version of realigner reads 1"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunDirError, match=message), Run.open(recipe_for(tmp_path)):
        pass


def test_reading_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such directory"):
        load_run(tmp_path / "absent")
    with pytest.raises(RunDirError, match=r"no manifest.json and recipe.yaml, so it is no run directory"):
        load_run(tmp_path)


def test_who_names_the_folder_around_a_run_is_told_where_the_run_is(tmp_path: Path) -> None:
    inner = tmp_path / "demo" / "run"
    inner.mkdir(parents=True)
    (inner / MANIFEST).write_text("{}")
    with pytest.raises(RunDirError, match=r"such as .*demo/run"):
        load_run(tmp_path / "demo")


# Full disks


def test_a_full_disk_in_a_stage_is_one_clear_error_and_nothing_is_half_written(tmp_path: Path) -> None:
    def fill(run: Run) -> dict[str, object]:
        with run.writing("triage.parquet") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return {}

    with (
        pytest.raises(DiskError, match=r"the disk is full; .* Free some room and give the same command again"),
        Run.open(recipe_for(tmp_path / "run"), INPUTS) as run,
    ):
        run.stage("triage", fill)
    assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("writer", ["python", "parquet", "safetensors"])
def test_a_disk_that_really_fills_up_is_refused_and_left_clean(small_disk: Path, writer: str) -> None:
    def fill(run: Run) -> dict[str, object]:
        with run.writing("triage.parquet") as temporary:
            noise = os.urandom(1 << 20)
            if writer == "python":
                temporary.write_bytes(noise)
            elif writer == "parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.table({"x": [noise]}), temporary)
            else:
                import numpy
                from safetensors.numpy import save_file

                save_file({"x": numpy.frombuffer(noise, dtype=numpy.uint8)}, temporary)
        return {}

    with (
        pytest.raises(DiskError, match="the disk is full"),
        Run.open(recipe_for(small_disk / "run"), INPUTS) as run,
    ):
        run.stage("triage", fill)
    assert visible(small_disk / "run") == {"manifest.json", "recipe.yaml"}
    with Run.open(recipe_for(small_disk / "run"), INPUTS) as run:
        assert run.stage("triage", triage)


# Other processes


HOLDER = """
import sys, time
from pathlib import Path
from realigner.recipe import Recipe
from realigner.runs import Interrupted, Run

def work(run):
    with run.writing("triage.parquet") as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
    return {}

sections = {"model": {"path": "m"}, "data": {"path": "d"}, "policy": {"path": "p"}}
recipe = Recipe.parse({"output": sys.argv[1], **sections})
try:
    with Run.open(recipe, {"triage": {"seed": 0}}) as run:
        run.stage("triage", work)
except Interrupted as error:
    print(error.stage, flush=True)
    sys.exit(130)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the middle of the stage triage of `tmp_path/run`."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_run_in_use_is_refused_with_the_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(RunDirError, match=rf"in use by process {holder.pid}\. Wait for that process"),
        Run.open(recipe_for(tmp_path / "run")),
    ):
        pass
    assert (tmp_path / "run" / ".tmp-triage.parquet").exists()


def test_after_kill_9_the_lock_is_free_leftovers_are_gone_and_the_stage_runs(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml", ".tmp-triage.parquet"}
    with Run.open(recipe_for(tmp_path / "run"), {"triage": {"seed": 0}}) as run:
        assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}
        assert run.stage("triage", triage)
    assert (tmp_path / "run" / "triage.parquet").read_text() == "rows"


def test_sigint_leaves_nothing_half_written_and_names_the_stage(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert holder.wait() == 130
    assert time.monotonic() - begin < 5
    assert holder.stdout is not None
    assert holder.stdout.read() == "triage\n"
    assert visible(tmp_path / "run") == {"manifest.json", "recipe.yaml"}


def test_an_interruption_is_a_keyboard_interrupt_for_python_users() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)
