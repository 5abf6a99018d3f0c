"""A run over a judge that fails 30 times in 100, killed twice without warning, loses nothing and asks nothing again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fault_server
import pyarrow.parquet as pq
from fault_server import FaultServer, right_label

from realigner.oracle import VerdictStore
from realigner.runs import load_run

PAIRS = 2000
CONCURRENCY = 32
COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main())"


def write_recipe(
    folder: Path, server: FaultServer, model: str = "mixed-1", pairs_in_all: int = PAIRS, **more: Any
) -> Path:
    numbers = range(pairs_in_all)
    pairs = ({"prompt": f"q{n}", "chosen": f"item-{n}", "rejected": f"item-{n + PAIRS}"} for n in numbers)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    rules = [{"id": "kind", "by": "llm", "text": "The response is kind."}]
    (folder / "policy.yaml").write_text(json.dumps({"id": "p", "version": "1", "title": "t", "rules": rules}))
    llm = {"kind": "http", "url": server.url, "model": model, "output": "json_schema", **more}
    llm["concurrency"] = CONCURRENCY
    recipe = {
        "output": str(folder / "run"),
        "model": {"path": "never-loaded"},
        "data": {"path": str(folder / "pairs.jsonl")},
        "policy": {"path": str(folder / "policy.yaml")},
        "oracle": {"kind": "judges", "llm": llm},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def start(recipe: Path, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, "triage", str(recipe), "--quiet"], **more)


def stored(folder: Path) -> dict[str, str]:
    """Return the stored label of every item, read while the store may still hold a dead writer's journal."""
    with VerdictStore.read(folder / "verdicts.sqlite") as store:
        votes = list(store.votes())
    found = {vote["response"].removeprefix("item-"): vote["label"] for vote in votes}
    assert len(found) == len(votes), "an item has two votes"
    return found


def killed_after(answers: int, recipe: Path, server: FaultServer) -> None:
    """Run until the server has given so many good answers in all, then kill -9."""
    process = start(recipe)
    while server.count() < answers:
        assert process.poll() is None, "the run ended before it was to be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_every_item_has_one_verdict_or_is_invalid_and_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    with fault_server.running() as server:
        recipe = write_recipe(tmp_path, server)
        lost: Counter[str] = Counter()
        safe: dict[str, str] = {}
        moments: list[tuple[int, set[str]]] = []
        for answers in (1000, 2200):
            killed_after(answers, recipe, server)
            time.sleep(0.1)
            now = stored(tmp_path)
            assert safe.items() <= now.items(), "a stored verdict was lost or changed"
            safe = now
            log = server.log()
            moments.append((len(log["order"]), set(safe)))
            paid = {item.rpartition("/")[2] for item in log["good"]} - {"probe"}
            # Only what was under way when the process died can have been answered without being stored.
            assert len(paid - set(safe) - set(lost)) <= 2 * CONCURRENCY
            lost.update(paid - set(safe))
        assert start(recipe).wait() == 0
        log = server.log()

    for length, known in moments:
        asked_later = {item.rpartition("/")[2] for kind, item, _ in log["order"][length:] if kind == "asked"}
        assert not known & asked_later, "what was stored was asked again"
    again = {item.rpartition("/")[2]: count for item, count in log["good"].items() if count > 1}
    again.pop("probe", None)
    assert all(count <= 1 + lost[item] for item, count in again.items()), "an answer was paid for twice"

    final = stored(tmp_path)
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "run" / "triage.parquet").to_pylist()
    assert len(rows) == PAIRS
    said = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            said[row[side].removeprefix("item-")] = row[f"{side}_verdict"]
    assert len(said) == 2 * PAIRS
    for item, label in said.items():
        assert label == (right_label(int(item)) if item in final else "invalid")
    assert {item: label for item, label in said.items() if label != "invalid"} == final
    invalid = 2 * PAIRS - len(final)
    assert 0 < invalid < 0.12 * 2 * PAIRS
    asked = load_run(tmp_path / "run").stages["triage"]["facts"]["asked"]
    assert asked["rules"]["kind"]["invalid"] == invalid


def test_a_server_that_takes_idempotency_keys_is_paid_once_for_every_answer(tmp_path: Path) -> None:
    with fault_server.running() as server:
        recipe = write_recipe(tmp_path, server, "mixed-2", 300, idempotency_header="Idempotency-Key")
        for answers in (150, 350):
            killed_after(answers, recipe, server)
        assert start(recipe).wait() == 0
        log = server.log()
    paid = {item.rpartition("/")[2]: count for item, count in log["good"].items()}
    assert paid.pop("probe") == 1
    assert set(paid.values()) == {1}
    assert log["replayed"] >= 2  # the probe, twice; and what was under way when the process died
    final = stored(tmp_path)
    assert final == {item: right_label(int(item)) for item in paid}


def test_ctrl_c_ends_a_run_at_once_and_quietly_and_keeps_what_was_answered(tmp_path: Path) -> None:
    with fault_server.running() as server:
        recipe = write_recipe(tmp_path, server, "7=hang*", 40)
        process = start(recipe, stderr=subprocess.PIPE)
        while server.count() < 80:  # 79 items and the probe; item 7 hangs
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said.decode().splitlines() == [
        f"interrupted during 'triage', nothing is half-written; resume with: realigner run {tmp_path / 'run'}"
    ]
    assert len(stored(tmp_path)) == 79
