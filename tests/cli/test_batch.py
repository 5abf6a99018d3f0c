"""`realigner batch` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realigner.cli.main import main


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    pairs = ({"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    rules = [{"id": "kind", "by": "llm", "text": "The response is kind."}]
    (tmp_path / "policy.yaml").write_text(json.dumps({"id": "p", "version": "1", "title": "t", "rules": rules}))
    llm = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m", "output": "json_schema"}
    content = {
        "output": "run",
        "model": {"path": "never-loaded"},
        "data": {"path": "pairs.jsonl"},
        "policy": {"path": "policy.yaml"},
        "oracle": {"kind": "judges", "llm": llm},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    return tmp_path / "recipe.yaml"


def test_export_answer_import(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "export", str(recipe), str(tmp_path / "out"), "--max-requests", "30"]) == 0
    said = capsys.readouterr().out
    assert "40 requests" in said
    assert f"wrote {tmp_path / 'out' / 'm-00002.jsonl'}" in said
    answer = json.dumps({"rule_1": {"reason": "it is", "verdict": "compliant"}})
    body = {"choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]}
    requests = (tmp_path / "out" / "m-00001.jsonl").read_text().splitlines()
    results = [
        {"custom_id": json.loads(r)["custom_id"], "response": {"status_code": 200, "body": body}} for r in requests
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    given = [
        "batch",
        "import",
        str(recipe),
        str(tmp_path / "results.jsonl"),
        "--errors",
        str(tmp_path / "errors.jsonl"),
    ]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "30 answers: 30 verdicts stored" in said
    assert "10 questions are still open: export again, or let triage ask them" in said
    assert (tmp_path / "errors.jsonl").read_text() == ""
    assert main([*given, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["ok"], again["stored"], again["unasked"], again["open"]) == (True, 0, 30, 10)


def test_wrong_input_has_its_exit_code(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "import", str(recipe), str(tmp_path / "none.jsonl")]) == 2
    assert "it cannot be read" in capsys.readouterr().err
    assert main(["batch", "export", str(recipe), str(tmp_path)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
