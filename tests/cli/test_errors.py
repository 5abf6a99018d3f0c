"""What a user can get wrong: one line that names value, rule and remedy, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realigner import pipeline
from realigner.errors import GateNotMet, TrainingDiverged

from .conftest import Say, write_pairs


def assert_refused(spoken: object, message: str) -> None:
    assert spoken.code == 2  # type: ignore[attr-defined]
    assert spoken.out == ""  # type: ignore[attr-defined]
    assert message in spoken.error  # type: ignore[attr-defined]
    assert spoken.error.startswith("error: ")  # type: ignore[attr-defined]
    assert "Traceback" not in spoken.err  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument 'RECIPE'. See: realigner run --help"),
        (["run", "r.yaml", "--rdo"], "No such option: --rdo"),
        (["demo", "--seed", "x"], "Invalid value for '--seed'"),
        (["run", "absent.yaml"], "recipe absent.yaml: no such file. Check the path"),
        (["triage", "recipe.yaml", "--set", "data.limit"], "--set data.limit: an override reads a.b=value"),
        (["triage", "recipe.yaml", "--set", "data.limt=3"], "unknown key 'data.limt'. Did you mean 'limit'?"),
        (["triage", "recipe.yaml", "--set", "loss.beta=-1"], "'loss.beta' = -1: Input should be greater than 0"),
        (["triage", "recipe.yaml", "--set", "seed.x=1"], "'seed': Input should be a valid integer"),
        (["triage", "recipe.yaml", "--set", "data.path=gone.jsonl"], "data gone.jsonl: no such file"),
        (["triage", "recipe.yaml", "--set", "policy.path=gone.yaml"], "gone.yaml"),
        (["triage", "recipe.yaml", "--set", "oracle={kind: scripted, path: gone.jsonl}"], "gone.jsonl"),
        (["triage", "recipe.yaml", "--set", "corrections.path=gone.jsonl"], "there is no such file"),
        (["weigh", "recipe.yaml"], "nothing has been run that 'weigh' could follow. First run: realigner triage"),
        (
            ["run", "recipe.yaml", "--set", "model.path=path/to/none"],
            "model.path = 'path/to/none': its model cannot be",
        ),
        (["triage", "."], "it holds no manifest.json and recipe.yaml, so it is no run directory"),
        (["replay", "gone"], "run gone: no such directory"),
        (["export", "gone", "out"], "run gone: no such directory"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_and_writes_nothing(
    folder: Path, say: Say, arguments: list[str], message: str
) -> None:
    before = sorted(folder.iterdir())
    assert_refused(say(*arguments), message)
    assert sorted(folder.iterdir()) == before


def test_no_command_shows_the_help_and_is_an_error(say: Say) -> None:
    spoken = say()
    assert spoken.code == 2
    assert "Usage: realigner" in spoken.out


def test_an_output_directory_of_other_files_is_refused(folder: Path, say: Say) -> None:
    assert_refused(say("triage", "recipe.yaml", "--set", "output=."), "but no manifest.json, so it is no run directory")


def test_a_base_model_without_a_template_is_refused_before_triage(
    folder: Path, say: Say, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import tiny

    model = tiny.saved_tiny("llama", tmp_path_factory.mktemp("base") / "model")
    (model / "chat_template.jinja").unlink()
    assert_refused(
        say("run", "recipe.yaml", "--set", f"model.path={model}"), "has no chat template: text.format 'chat'"
    )
    assert not (folder / "run").exists()


def test_no_conflicts_at_all_is_refused_before_anything_expensive(folder: Path, say: Say) -> None:
    write_pairs(folder / "old.jsonl", 40, chosen="Let us see.")
    assert_refused(say("triage", "recipe.yaml"), "no conflicts: nothing to re-align. Check the policy's rules")
    assert not (folder / "run" / "triage.parquet").exists()


def test_data_of_which_nothing_is_held_out_are_refused(folder: Path, say: Say) -> None:
    write_pairs(folder / "old.jsonl", 2)
    spoken = say("triage", "recipe.yaml", "--set", "data.eval_fraction=0.001")
    assert_refused(spoken, "no prompt was held out, so nothing could be measured. Raise data.eval_fraction")


def test_a_changed_setting_is_refused_by_name_and_redone_on_request(folder: Path, say: Say) -> None:
    assert say("triage", "recipe.yaml").code == 0
    spoken = say("triage", "recipe.yaml", "--set", "data.eval_fraction=0.2")
    assert_refused(spoken, "stage 'triage': data.eval_fraction 0.1 -> 0.2: ")
    assert spoken.error.endswith("Choose another output, or pass --redo to redo triage")
    assert say("triage", "recipe.yaml", "--set", "data.eval_fraction=0.2", "--redo").code == 0


def test_a_changed_file_is_refused_as_a_changed_setting_is(folder: Path, say: Say) -> None:
    assert say("triage", "recipe.yaml").code == 0
    policy = (folder / "policy.yaml").read_text()
    (folder / "policy.yaml").write_text(policy.replace('version: "1"', 'version: "2"'))
    assert_refused(say("triage", "run"), "policy.version 1 -> 2; policy.hash ")
    (folder / "policy.yaml").write_text(policy)
    assert say("triage", "run").code == 0
    write_pairs(folder / "old.jsonl", 41)
    assert_refused(say("triage", "run"), "data.content sha256:")


def test_a_stage_of_a_run_that_is_not_ready_names_the_command_to_give(folder: Path, say: Say) -> None:
    say("triage", "recipe.yaml")
    for verb in ("weigh", "report"):
        assert_refused(say(verb, "run"), f"'reference' has not been finished. First run: realigner reference {folder}")
    assert_refused(say("export", "run", "out"), "'train' has not been finished. First run: realigner train run")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TrainingDiverged("step 3: loss nan", "a loss is finite", "Lower it"), 1, "error: step 3: loss nan: a loss is"),
        (GateNotMet("agreement 0.4", "at least 0.5 was asked", "Train longer"), 3, "error: agreement 0.4: at least"),
        (
            ZeroDivisionError("oops"),
            1,
            "error: ZeroDivisionError: oops (unexpected; give the command again with --debug",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_line(
    folder: Path, say: Say, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    spoken = say("run", "recipe.yaml")
    assert spoken.code == code
    assert spoken.err.startswith(line)
    assert spoken.err.count("\n") == 1
    assert "Traceback" in say("run", "recipe.yaml", "--debug").err


def test_an_error_is_a_json_object_too(folder: Path, say: Say) -> None:
    spoken = say("triage", "recipe.yaml", "--json", "--set", "data.path=gone.jsonl")
    answer = json.loads(spoken.out)
    assert (answer["ok"], answer["exit_code"], answer["error"]["kind"]) == (False, 2, "DataError")
    assert answer["error"]["given"] == "data gone.jsonl"
    assert spoken.error.startswith("error: data gone.jsonl")


def test_text_of_others_in_an_error_cannot_control_the_terminal(folder: Path, say: Say) -> None:
    (folder / "old.jsonl").write_text('{"prompt": "p", "chosen": "", "rejected": "r", "id": "\\u001b[2J\\u202e"}\n')
    spoken = say("triage", "recipe.yaml")
    assert spoken.code == 2
    assert "\x1b" not in spoken.err
    assert "\u202e" not in spoken.err
