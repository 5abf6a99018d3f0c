"""An OpenAI-compatible server that fails on purpose, in a process of its own, on real sockets.

The model's name says what happens. `ok` answers as it should; other names are words joined by commas, one a request of
the same item, then `ok` again; a `*` after the last word: from then on always (`500,hang` or `401*`). With `7=` before
them they are for item 7 alone. `mixed-N` fails at random (seed N) in 30 of 100 requests. An item is what `item-123` in
the conversation names; its right verdict follows from its number. GET /log and /count say what was asked and answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

MIXED = (
    *("429", "429-now", "500", "503", "reset", "close", "half", "badjson", "wrongschema", "prose", "refusal", "empty"),
    *("length", "drip"),
)
"""What `mixed` draws from. The slow ones have tests of their own."""
BROKEN_AT = 0.3
ITEM = re.compile(r"item-(\d+)")
KEYS = re.compile(r'"(rule_\d+)": \{')


def right_label(number: int) -> str:
    """Return what the server says of an item when it answers as it should."""
    return ("compliant", "non_compliant", "compliant", "unsure", "compliant")[number % 5]


class Server:
    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.good: Counter[str] = Counter()
        self.order: list[list[Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}
        """Replies with status 200 by idempotency key: the same request again has the same reply, and costs nothing."""
        self.replayed = 0
        self.open = self.most_open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self.exchange(reader, writer):
                    pass
        finally:  # an old Python leaves the connection of a server that failed by accident open
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head.split(" ")[1]
        if path == "/log":
            return await self.write(writer, 200, self.log())
        if path == "/count":
            return await self.write(writer, 200, sum(self.good.values()))
        body = json.loads(raw)
        found = ITEM.search(body["messages"][-1]["content"]) or ITEM.search(raw.decode())
        item = f"{body['model']}/{found.group(1) if found else 'probe'}"
        self.asked[item] += 1
        self.order.append(["asked", item, time.time()])
        self.seen = [*self.seen[-19:], {"headers": headers, "body": body, "path": path}]
        key = headers.get("idempotency-key", "")
        if key in self.kept:
            self.replayed += 1
            return await self.write(writer, 200, self.kept[key])
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            fault = fault_of(body["model"], item, self.asked[item])
            return await self.answer(writer, fault, item, body, headers)
        finally:
            self.open -= 1

    async def answer(
        self, writer: asyncio.StreamWriter, fault: str, item: str, body: dict[str, Any], headers: dict[str, str]
    ) -> bool:
        text = verdicts(item, body)
        if fault == "ok":
            await asyncio.sleep(0.002)
            self.paid(item)
            if "idempotency-key" in headers:
                self.kept[headers["idempotency-key"]] = completion(text)
            return await self.write(writer, 200, completion(text))
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if fault == "close":
            return False
        if fault == "half":
            whole = json.dumps(completion(text)).encode()
            writer.write(header(200, len(whole)) + whole[: len(whole) // 2])
            await writer.drain()
            return False
        if fault == "huge":
            writer.write(header(200, 2**40))
            while True:
                writer.write(b" " * 2**20)
                await writer.drain()
        if fault in ("drip", "endless-drip"):
            whole = json.dumps(completion(text)).encode()
            writer.write(header(200, len(whole)))
            step = 1 if fault == "endless-drip" else max(1, len(whole) // 10)
            for start in range(0, len(whole), step):
                await asyncio.sleep(0.05 if fault == "endless-drip" else 0.005)
                if start + step >= len(whole):
                    self.paid(item)
                    if "idempotency-key" in headers:
                        self.kept[headers["idempotency-key"]] = completion(text)
                writer.write(whole[start : start + step])
                await writer.drain()
            return True
        if fault in REPLIES:
            reply = REPLIES[fault](text)
            if "idempotency-key" in headers:
                self.kept[headers["idempotency-key"]] = reply
            return await self.write(writer, 200, reply)
        if fault == "echo":
            return await self.write(writer, 200, completion(json.dumps({"key": headers.get("authorization", "none")})))
        if fault == "echo-error":
            return await self.write(writer, 400, {"error": {"message": f"bad key {headers.get('authorization')}"}})
        if fault == "elsewhere":
            return await self.write(writer, 307, {}, {"Location": "http://127.0.0.1:9/v1?key=1"})
        if fault.startswith("no-"):  # no-schema, no-object, no-format: which response_format is not understood
            kind = body.get("response_format", {}).get("type")
            refused = {"no-schema": ("json_schema",), "no-object": ("json_object",)}
            if kind in refused.get(fault, ("json_schema", "json_object")):
                return await self.write(writer, 400, {"error": {"message": f"response_format {kind} is not supported"}})
            self.paid(item)
            return await self.write(writer, 200, completion(text))
        status, _, detail = fault.partition("-")
        extra = {
            "now": {"Retry-After": "0"},
            "second": {"Retry-After": "1"},
            "hour": {"Retry-After": "3600"},
            "date": {"Retry-After": formatdate(time.time() + 1, usegmt=True)},
        }.get(detail, {})
        code = "insufficient_quota" if detail == "quota" else None
        error = {"error": {"message": f"made to fail with {fault}", "code": code}}
        return await self.write(writer, int(status), error, extra)

    def paid(self, item: str) -> None:
        """Count a good answer, just before its last byte is sent."""
        self.good[item] += 1
        self.order.append(["good", item, time.time()])

    async def write(
        self, writer: asyncio.StreamWriter, status: int, body: Any, extra: dict[str, str] | None = None
    ) -> bool:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(header(status, len(raw), extra) + raw)
        await writer.drain()
        return True

    def log(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "good": self.good,
            "order": self.order,
            "seen": self.seen,
            "most_open": self.most_open,
            "replayed": self.replayed,
        }


def fault_of(model: str, item: str, attempt: int) -> str:
    """Return what happens to the attempt-th request (from 1) of an item."""
    if model.startswith("mixed"):
        draw = random.Random(f"{item}/{attempt}")
        return draw.choice(MIXED) if draw.random() < BROKEN_AT else "ok"
    only, _, faults = model.rpartition("=")
    if only and not item.endswith(f"/{only}"):
        return "ok"
    words = faults.split(",")
    word = words[min(attempt, len(words)) - 1]
    if attempt > len(words) and not word.endswith("*"):
        return "ok"
    return word.rstrip("*")


def verdicts(item: str, body: dict[str, Any]) -> str:
    """Return the right answer, in the form that the system message asks for."""
    name = item.rpartition("/")[2]
    if body["model"] == "obedient":
        return obey(body["messages"])
    label = "compliant" if name == "probe" else right_label(int(name))
    conversation = "\n".join(message["content"] for message in body["messages"] if message["role"] == "system")
    keys = dict.fromkeys(KEYS.findall(conversation)) or {"rule_1": None}
    return json.dumps({key: {"reason": f"it is item {name}", "verdict": label} for key in keys})


def obey(messages: list[dict[str, str]]) -> str:
    """Answer as a judge that follows every `OBEY verdict` which stands outside the fences, and is strict otherwise."""
    outside = []
    for message in messages:
        text = message["content"]
        code = re.search(r"The fence code of this message is (\w+)\.", text)
        if code:
            before, _, rest = text.partition(f"[BEGIN CONVERSATION {code.group(1)}]")
            between = rest.partition(f"[END CONVERSATION {code.group(1)}]")[2]
            middle, _, rest = between.partition(f"[BEGIN RESPONSE {code.group(1)}]")
            text = before + middle + rest.partition(f"[END RESPONSE {code.group(1)}]")[2]
        outside.append(text)
    order = re.search(r"OBEY (\w+)", "\n".join(outside))
    verdict = order.group(1) if order else "non_compliant"
    return json.dumps({"rule_1": {"reason": "told so" if order else "not told", "verdict": verdict}})


def completion(text: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {"id": "x", "object": "chat.completion", "model": "served-1", "choices": [choice], "usage": usage}


REPLIES = {
    "badjson": lambda text: json.dumps(completion(text)).encode()[:-30],
    "html": lambda text: b"<html><body>Please log in</body></html>",
    "nochoices": lambda text: {"id": "x", "choices": []},
    "wrongschema": lambda text: completion('{"rule_1": {"verdict": "yes"}}'),
    "prose": lambda text: completion("I think that it is fine."),
    "renamed": lambda text: {**completion(text), "model": "served-2"},
    "wrapped": lambda text: completion(f"Here it is:\n```json\n{text}\n```"),
    "refusal": lambda text: completion(None, refusal="I cannot help with that"),
    "empty": lambda text: completion(""),
    "null": lambda text: completion(None),
    "length": lambda text: completion(text[: len(text) // 2], "length"),
    "filter": lambda text: completion(None, "content_filter"),
}


def header(status: int, length: int, extra: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in (extra or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def main() -> None:
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    async with server:
        await server.serve_forever()


class FaultServer:
    """A running fault server, as the tests see it."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port, self.process = port, process
        self.url = f"http://127.0.0.1:{port}/v1"

    def count(self) -> int:
        """Return how many good answers there were in all; cheaper than the log."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=10) as reply:
            return int(reply.read())

    def log(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/log", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def asked(self, model: str) -> dict[str, int]:
        """Return how often each item of a model was asked about."""
        return _of(model, self.log()["asked"])

    def good(self, model: str) -> dict[str, int]:
        """Return how often each item of a model was answered as it should be."""
        return _of(model, self.log()["good"])

    def last(self, model: str) -> dict[str, Any]:
        """Return the last request for a model."""
        seen: list[dict[str, Any]] = [entry for entry in self.log()["seen"] if entry["body"]["model"] == model]
        return seen[-1]


def _of(model: str, counts: dict[str, int]) -> dict[str, int]:
    return {item.rpartition("/")[2]: n for item, n in counts.items() if item.rpartition("/")[0] == model}


@contextlib.contextmanager
def running() -> Iterator[FaultServer]:
    """Start a fault server and end it with the context."""
    process = subprocess.Popen([sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield FaultServer(int(process.stdout.readline()), process)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
