"""A local judge on two real processes of torchrun says what it says alone, and every question is asked once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tiny import saved_tiny, tiny_tokenizer

from realigner.oracle.calibration import Calibration
from realigner.oracle.judge import RuleQuestion
from realigner.oracle.local import LocalJudge
from realigner.policy import Policy
from realigner.recipe_judges import LocalJudgeSettings
from realigner.records import Judgement, user_prompt
from realigner.triaging import read_triage

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
POLICY = {"id": "p", "version": "1", "title": "t", "rules": [{"id": "r", "by": "llm", "text": "Be kind."}]}
PAIRS = 11
"""No multiple of processes, batches or rounds."""


def saved(directory: Path) -> Path:
    """A tiny model whose vocabulary has yes and no as tokens, so that a question is one forward pass."""
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_tokens(["yes", "no"])
    saved_tiny("llama", directory, vocab_size=len(tokenizer), max_position_embeddings=2048, layers=1)
    tokenizer.save_pretrained(directory)
    return directory


def test_triage_on_two_processes_asks_each_question_once_and_finds_what_one_process_finds(tmp_path: Path) -> None:
    given = {"kind": "local", "path": str(saved(tmp_path / "model")), "least_mass": 0.0, "batch_size": 2}
    plain = LocalJudge(LocalJudgeSettings.model_validate(given))
    rows = [{"prompt": f"q{n}", "chosen": "word " * (n * 7 % 11 + 1), "rejected": f"other {n}"} for n in range(PAIRS)]
    [rule] = Policy.parse(POLICY).rules
    questions = [Judgement(user_prompt(row["prompt"]), row[side]) for row in rows for side in ("chosen", "rejected")]
    odds = plain.log_odds([(rule, question) for question in questions])
    # A random model leans one way; the scale makes half of its verdicts compliant, so that there is a conflict.
    Calibration(1.0, -sorted(odds)[PAIRS], judge=plain.uncalibrated).save(tmp_path / "c.json")
    given |= {"unsure": [0.5, 0.5], "calibration": str(tmp_path / "c.json")}
    alone = LocalJudge(LocalJudgeSettings.model_validate(given)).answer([RuleQuestion((rule,), q) for q in questions])
    expected = {place: answer.verdicts[0].reason for place, answer in alone}

    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY))
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"output": "run", "model": {"path": "m"}, "policy": {"path": "policy.yaml"}}
    data = {"data": {"path": "old.jsonl", "eval_fraction": 0.4}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, **data, "oracle": {"kind": "judges", "llm": given}}))
    program = Path(__file__).resolve().parents[1] / "two_judges.py"
    command = [*RUN, str(program), str(tmp_path), "triage", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    triaged = list(read_triage(tmp_path / "run" / "triage.parquet"))
    verdicts = [verdict for item in triaged for verdict in (item.chosen_verdict, item.rejected_verdict)]
    found = [float(verdict.rules[0].reason.rpartition(" ")[2]) for verdict in verdicts]
    wanted = [float(expected[place].rpartition(" ")[2]) for place in range(2 * PAIRS)]
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 1e-3
    scored = [json.loads((tmp_path / f"scored-{rank}.json").read_text()) for rank in (0, 1)]
    counts = Counter(tuple(prompt) for rank in scored for prompt in rank)
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * PAIRS
    assert [len(prompts) for prompts in scored] == [PAIRS, PAIRS]
