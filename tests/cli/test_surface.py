"""The surface: verbs, flags and public names are a promise; help is fast and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import realigner
from realigner.cli.main import app

COMMON = {"--quiet", "--json", "--debug", "--help"}
STAGE = {"RECIPE", "--set", "--redo", *COMMON}
JUDGING = {"--dry-run", "--max-calls", "--max-cost"}
SURFACE = {
    "init": {"DIR", *COMMON},
    "check": {"RECIPE", "--set", *COMMON},
    "run": STAGE | JUDGING,
    "demo": {"--output", "--seed", "--redo", *COMMON},
    "triage": STAGE | JUDGING,
    "reference": STAGE,
    "weigh": STAGE,
    "train": STAGE,
    "generate": STAGE,
    "evaluate": STAGE | JUDGING | {"--before", "--after", "--policy", "--prompts", "--column", "--out"},
    "measure": STAGE,
    "report": {"RUN...", "--compare", "--out", "--set", "--redo", *COMMON},
    "gate": {"RUN", "[GATE]", *COMMON},
    "card": {"RUN", "--out", *COMMON},
    "calibrate": {"RECIPE", "--output", "--examples", "--method", "--judge", "--set", *COMMON},
    "discover": {
        *("DATA", "--out", "--seed", "--pairs", "--new", "--allow-code", "--llm", "--max-calls", "--skip-invalid"),
        *COMMON,
    },
    "estimate": {
        "RECIPE",
        "--pairs",
        "--lengths",
        "--tflops",
        "--bandwidth",
        "--devices",
        "--set",
        *COMMON,
    },
    "correct": {"RECIPE", "--output", "--redo", "--max-calls", "--max-cost", "--set", *COMMON},
    "replay": {"RUN", *COMMON},
    "export": {"RUN", "OUT", "--merge", *COMMON},
    "version": COMMON,
    "win-rate": {"ANSWERS...", "--judge", "--policy", "--criterion", "--out", "--seed", "--max-calls", *COMMON},
    "lab build": {"--shift", "--preset", "--output", "--seed", "--pairs", "--mix", *COMMON},
    "study": {"STUDY", "--quick", "--jobs", "--block", "--tables", *COMMON},
    "audit sample": {"RUN", "--of", "--n", "--seed", "--out", *COMMON},
    "audit score": {"RUN", "SHEET...", "--partial", *COMMON},
    "batch export": {"RECIPE", "DIR", "--max-requests", "--max-mb", "--set", *COMMON},
    "batch import": {"RECIPE", "RESULTS...", "--errors", "--set", *COMMON},
    "review serve": {"STUDY", "--port", "--host", "--name", *COMMON},
    "review status": {"STUDY", *COMMON},
    "migrate": {"RUN", "POLICY", "--out", "--set", *JUDGING, *COMMON},
    "review new": {
        *("STUDY", "--run", "--audit", "--audit-answers", "--preference", "--against", "--responses"),
        *("--corrections", "--undecided", "--policy", "--annotators", "--seed", *COMMON),
    },
    "review export": {"STUDY", "OUT", "--as", "--history", *COMMON},
    "review import": {"STUDY", "FILE", "--task", "--annotator", *COMMON},
    "review unblind": {"STUDY", "--early", *COMMON},
    "review score": {"STUDY", "--run", "--partial", *COMMON},
    "verdicts info": {"STORE", *COMMON},
    "verdicts export": {"STORE", *COMMON},
    "verdicts compact": {"STORE", "--keep", *COMMON},
    "policy list": COMMON,
    "policy lint": {"POLICY", "--allow-code", *COMMON},
    "policy diff": {"OLD", "NEW", "--allow-code", *COMMON},
    "policy show": {"POLICY", "--rule", "--for", "--allow-code", *COMMON},
}
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "matplotlib", "scipy", "pyarrow", "numpy", "pandas")


def verbs(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_the_verbs_and_their_flags_are_these() -> None:
    found = {}
    for name, command in verbs(typer.main.get_command(app)):
        context = command.make_context(name, [], resilient_parsing=True)
        parameters = command.get_params(context)
        found[name] = {p.opts[0] if p.opts[0].startswith("-") else p.metavar for p in parameters}
        assert command.help, name
    assert found == SURFACE


def test_every_public_name_can_be_imported() -> None:
    assert realigner.__all__ == sorted(realigner.__all__)
    for name in realigner.__all__:
        assert getattr(realigner, name) is not None
    assert set(realigner.__all__) >= {
        "Policy",
        "Recipe",
        "run",
        "triage",
        "impact_weights",
        "TraceTrainer",
        "TraceConfig",
    }


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tracer'"):
        _ = realigner.Tracer


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["version"], ["policy", "list"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from realigner.cli.main import main; "
        f"code = main({arguments!r}); "
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_takes_under_400_milliseconds_of_a_processor() -> None:
    """The command's own time: how long it waits for a busy machine is not its doing."""
    program = (
        "import sys, time; from realigner.cli.main import main; main(['--help']);"
        "sys.stderr.write(str(time.process_time()))"
    )

    def seconds() -> float:
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        return float(done.stderr)

    assert min(seconds() for _ in range(3)) < 0.4
