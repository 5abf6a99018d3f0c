"""A model that proposes rules and votes on pairs, behind the fault server's sockets, in a process of its own.

It knows one truth: naming a source is good. Started with `ends=True`, the process ends after 150 answers. The model
`biased` always chooses what it sees first; `prose` never answers in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_server

SOURCE = "according to"
RULES = [
    {"select": "names a source", "avoid": "a claim without a source", "when": ""},
    {"select": "names a source for it", "avoid": "a claim without a source", "when": ""},
    {"select": "uses the word amber", "avoid": "leaving amber out", "when": ""},
]


def answer(item: str, body: dict[str, Any]) -> str:
    system, user = body["messages"][0]["content"], body["messages"][-1]["content"]
    if "prose" in body["model"]:
        return "I would rather talk about it."
    if "Propose up to" in system:
        return json.dumps({"rules": RULES})
    wanted = "amber" if "amber" in system else SOURCE
    if "which of two responses" in system:
        first, second = user.split("RESPONSE B (fence code")
        found = wanted in first, wanted in second
        choice = "neither" if found[0] == found[1] else "AB"[found.index(True)]
        return json.dumps({"reason": "looked", "choice": "A" if "biased" in body["model"] else choice})
    kept = wanted in user or "colour" in system
    return json.dumps({"rule_1": {"reason": "looked", "verdict": "compliant" if kept else "non_compliant"}})


class Server(fault_server.Server):
    async def answer(self, writer: Any, fault: str, item: str, body: dict[str, Any], headers: dict[str, str]) -> bool:
        if sys.argv[2] == "ends" and sum(self.good.values()) >= 150:
            os._exit(1)
        return await super().answer(writer, "ok", item, body, headers)


async def main() -> None:
    fault_server.verdicts = answer
    server = await asyncio.start_server(Server().serve, "127.0.0.1", int(sys.argv[1]), limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextlib.contextmanager
def running(port: int = 0, ends: bool = False) -> Iterator[fault_server.FaultServer]:
    """Start the server and end it with the context."""
    command = [sys.executable, str(Path(__file__)), str(port), "ends" if ends else "stays"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield fault_server.FaultServer(int(process.stdout.readline()), process)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
