"""The example of a policy that changes, on real data, as the README shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realigner.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "migrate"
pytestmark = pytest.mark.shared


def test_one_rule_of_ten_edited_on_hh_rlhf_is_computed_alone_and_the_readme_shows_what_is_printed(
    shared_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared_path / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    settings = ["--set", f"output={tmp_path / 'run'}", "--set", f"data.path={data}", "--quiet"]
    assert main(["triage", str(EXAMPLE / "recipe.yaml"), *settings]) == 0
    assert main(["migrate", str(tmp_path / "run"), str(EXAMPLE / "policy-v2.yaml")]) == 0
    printed = capsys.readouterr().out
    shown = "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("wrote "))
    assert f"```\n{shown}```\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    [written] = (tmp_path / "run").glob("migrate-*/migrate.json")
    verdicts = json.loads(written.read_text(encoding="utf-8"))["verdicts"]
    assert verdicts.pop("brief") == {"carried": 0, "computed": 4606, "reused": 0, "asked": 0}
    assert len(verdicts) == 9
    assert all(counts == {"carried": 4606, "computed": 0, "reused": 0, "asked": 0} for counts in verdicts.values())
