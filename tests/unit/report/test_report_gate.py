"""A gate passes what is shown to hold, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report_run import write_index

from realigner.errors import InputError
from realigner.evaluate.statistics import mean_interval
from realigner.report.figures import FigureError, read_figures
from realigner.report.gate import Condition, GateError, check_gate, read_gate
from realigner.report.rundir import RunFiles


def gate_file(folder: Path, text: str) -> Path:
    path = folder / "gate.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def held(run: Path, folder: Path, text: str) -> list[tuple[bool, str]]:
    verdict = check_gate(run, read_gate(gate_file(folder, f"gate: {{{text}}}")))
    assert verdict.met == all(check.met for check in verdict.checked)
    return [(check.met, check.words) for check in verdict.checked]


def test_each_sign_is_held_against_the_field_that_is_named(run_dir: Path, tmp_path: Path) -> None:
    figure = read_figures(RunFiles(run_dir))["utility.mmlu.diff"]
    low = figure.interval.low
    assert low == pytest.approx(-0.018)
    for text, met in {
        f'">= {low!r}"': True,
        f'"> {low!r}"': False,
        f'"<= {low!r}"': True,
        f'"< {low!r}"': False,
        '">= -0.02"': True,
        '"> -1e-2"': False,
        '[">= -0.02", "<= 0"]': True,
        '[">= -0.02", "> 0"]': False,
    }.items():
        verdict = check_gate(run_dir, read_gate(gate_file(tmp_path, f"gate: {{utility.mmlu.diff.lower: {text}}}")))
        assert verdict.met is met, text


def test_every_field_can_be_named(run_dir: Path, tmp_path: Path) -> None:
    text = """agreement.after.value: "> 0.5", agreement.after.upper: "<= 1", agreement.after.n: ">= 120",
        stress.role_play.change.p_holm: "< 0.01", utility.mmlu.diff.p: "< 0.05", kl.upper: "< 10",
        audit.evaluation.accuracy.lower: "> 0.5", agreement.corrected.lower: "> 0.3",
        over_refusal.xstest.after.upper: "<= 0.4" """
    assert [met for met, _ in held(run_dir, tmp_path, text)] == [True] * 9


def test_what_was_not_measured_does_not_pass_and_says_why(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "audit.json").unlink()
    (copy / "evidence" / "utility.json").write_text("{}", encoding="utf-8")
    found = held(
        copy,
        tmp_path,
        """agreement.corrected.lower: ">= 0", utility.mmlu.diff.lower: ">= -1", stress.rol_play.change.upper: "<= 1",
        agreement.rule.no-diagnosys.after.lower: ">= 0", win_rate.after.p: "<= 1" """,
    )
    assert [met for met, _ in found] == [False] * 5
    words = [words for _, words in found]
    assert words == [
        "not measured: the run directory has no audit.json",
        "not measured: evidence/utility.json is not what the stage 'measure' wrote",
        "not measured: 'stress' was measured, but has no figure of that name. Did you mean 'stress.role_play.change'?",
        "not measured: the run has no figure of that outcome, rule or topic. Did you mean "
        "'agreement.rule.no-diagnosis.after'?",
        "not measured: it was not given",
    ]
    shutil.rmtree(copy / "evidence")
    assert held(copy, tmp_path, 'values.x.change.lower: "> 0"') == [
        (False, "not measured: the stage 'measure' has not been finished")
    ]
    (copy / "recipe.yaml").unlink()
    assert held(copy, tmp_path, 'values.x.change.lower: "> 0"') == [
        (False, "not measured: the recipe does not ask for it (evaluate.values)")
    ]


def test_an_edited_figure_is_not_believed(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    path = copy / "evidence" / "utility.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["figures"]["utility.mmlu.diff"]["low"] = 0.5
    path.write_text(json.dumps(content), encoding="utf-8")
    assert held(copy, tmp_path, 'utility.mmlu.diff.lower: ">= 0"')[0][0] is False
    write_index(copy)
    assert held(copy, tmp_path, 'utility.mmlu.diff.lower: ">= 0"')[0][0] is True


def test_a_figure_without_an_interval_does_not_pass_by_its_value(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    summary["agreement"]["after"] = {"value": 0.99, "low": None, "high": None, "n": 3, "method": "none"}
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    found = held(copy, tmp_path, 'agreement.after.lower: ">= 0.1", agreement.after.value: ">= 0.9"')
    assert found[0] == (False, "not measured: it has no interval") and found[1][0] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gate: {agreement.aftr.lower: '>= 0.5'}", r"figure 'agreement.aftr'.*Did you mean 'agreement.after'\?"),
        ("gate: {utlity.mmlu.diff.lower: '>= 0.5'}", "figure 'utlity.mmlu.diff'"),
        ("gate: {agreement.after.lowr: '>= 0.5'}", r"value, lower, upper, n, p, p_holm\..*Did you mean 'lower'\?"),
        ("gate: {kl: '<= 0.5'}", "'kl': a condition names a figure and one of its fields"),
        (
            "gate: {agreement.after.lower: 0.5}",
            "agreement.after.lower: 0.5: a condition is >=, <=, > or < and a number",
        ),
        ("gate: {agreement.after.lower: '>= 85 %'}", "'>= 85 %'"),
        ("gate: {agreement.after.lower: '=> 0.85'}", "'=> 0.85'"),
        ("gate: {agreement.after.lower: '>= nan'}", "'>= nan'"),
        ("gate: {agreement.after.lower: '>= 1e999'}", "'>= 1e999'"),
        ("gate: {agreement.after.lower: []}", r"\[\]"),
        ("gate: {agreement.after.lower: ['>= 0.5', null]}", "None"),
        ("gate: {}", "one mapping `gate:`"),
        ("agreement.after.lower: '>= 0.5'", "one mapping `gate:`"),
        ("gate: {agreement.after.lower: '>= 0.5'}\nmore: 1", "one mapping `gate:`"),
        ("gate:\n  kl.upper: '< 1'\n  kl.upper: '< 9'", "line 3: it is not valid .* 'kl.upper' is given twice"),
        ("gate: {", "not valid YAML"),
        ("gate: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((GateError, FigureError), match=message) as caught:
        read_gate(gate_file(tmp_path, text))
    assert isinstance(caught.value, InputError) and caught.value.exit_code == 2


def test_a_missing_or_unreadable_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="cannot be read"):
        read_gate(tmp_path / "none.yaml")
    (tmp_path / "gate.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(GateError, match="not UTF-8"):
        read_gate(tmp_path / "gate.yaml")


@pytest.mark.parametrize("text", ["<= 5", ">= 85", "< -3"])
def test_a_bound_that_no_share_can_reach_is_refused(run_dir: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(GateError, match="a share lies between 0 and 1"):
        held(run_dir, tmp_path, f'stress.role_play.after.upper: "{text}"')


def test_an_interval_without_width_is_no_evidence(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    alike = mean_interval([0.0] * 3, 0)
    assert alike is not None and alike["low"] == alike["high"] == 0
    summary["agreement"]["change"] |= alike
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    found = held(copy, tmp_path, 'agreement.change.lower: ">= -0.01", agreement.change.value: ">= 0"')
    assert [met for met, _ in found] == [False, True]
    assert found[0][1] == "not measured: all 3 items came out alike, so that its interval says nothing of others"


def test_a_condition_reads_as_the_file_has_it() -> None:
    assert Condition("kl", "upper", "<=", 0.05).text == "kl.upper <= 0.05"
