"""Corrections from a server that fails 30 times in 100, killed twice: nothing is lost, nothing written again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fault_server
from fault_server import FaultServer

PAIRS, CANDIDATES, CONCURRENCY = 150, 2, 8
COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main())"


def write_recipe(folder: Path, server: FaultServer) -> Path:
    rows = [
        {"id": f"pair-{n}", "prompt": f"item-{n}", "chosen": f"You fool {n}.", "rejected": f"Old fool {n}."}
        for n in range(PAIRS)
    ]
    fields = {name: name for name in ("id", "prompt", "chosen", "rejected")}
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = [{"id": "kind", "text": "Be kind.", "forbid": {"words": ["fool"]}}]
    (folder / "policy.yaml").write_text(json.dumps({"id": "p-1", "version": "1", "title": "t", "rules": rules}))
    writer = {"kind": "http", "url": server.url, "model": "mixed-7", "concurrency": CONCURRENCY}
    recipe = {
        "output": "run",
        "model": {"path": "never-loaded"},
        "data": {"path": "old.jsonl", "fields": fields},
        "policy": {"path": "policy.yaml"},
        "corrections": {"generate": {"writer": writer, "candidates": CANDIDATES}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def start(recipe: Path) -> subprocess.Popen[bytes]:
    arguments = ["correct", str(recipe), "--output", str(recipe.parent / "c.jsonl"), "--quiet"]
    return subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.DEVNULL)


def remembered(folder: Path) -> dict[tuple[str, int], str]:
    """Return the text of each candidate in the journal; an unfinished last line counts for nothing."""
    raw = (folder / "candidates.jsonl").read_bytes().splitlines(keepends=True)
    entries = [json.loads(line) for line in raw if line.endswith(b"\n")]
    found = {(entry["id"], entry["candidate"]): entry["draft"]["text"] for entry in entries}
    assert len(found) == len(entries), "a candidate is in the journal twice"
    return found


def test_every_pair_is_settled_once_and_what_was_written_is_not_written_again(tmp_path: Path) -> None:
    with fault_server.running() as server:
        recipe = write_recipe(tmp_path, server)
        safe: dict[tuple[str, int], str] = {}
        moments: list[tuple[int, set[str]]] = []
        for answers in (60, 150):
            process = start(recipe)
            while server.count() < answers:
                assert process.poll() is None, "the run ended before it was to be killed"
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            now = remembered(tmp_path)
            assert safe.items() <= now.items(), "a candidate was lost or changed"
            safe = now
            assert not (tmp_path / "c.jsonl").exists()
            whole = {f"pair-{n}" for n in range(PAIRS) if {(f"pair-{n}", k) for k in range(CANDIDATES)} <= set(now)}
            assert whole
            moments.append((len(server.log()["order"]), whole))
        assert start(recipe).wait() == 0
        order = server.log()["order"]
    for length, whole in moments:
        later = {f"pair-{item.rpartition('/')[2]}" for kind, item, _ in order[length:] if kind == "asked"}
        assert not whole & later, "what was written was asked for again"
    assert safe.items() <= remembered(tmp_path).items()
    every = [json.loads(line) for line in (tmp_path / "c.candidates.jsonl").read_text().splitlines()]
    expected = [(f"pair-{n}", number) for n in range(PAIRS) for number in range(CANDIDATES)]
    assert [(line["id"], line["candidate"]) for line in every] == expected
    accepted = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in accepted}) == len(accepted) > PAIRS // 2
    assert all(line["correction"].strip() for line in accepted)
    assert {line["id"]: line["text"] for line in every if line["chosen"]} == {
        line["id"]: line["correction"] for line in accepted
    }
