"""A judge server with a fixed latency and a fixed number of slots, as lean as Python makes it: its ceiling is known.

python -m benchmarks.judge_server [--latency 0.05] [--slots 64]    prints its port, and serves until it is ended.

It answers POST /v1/chat/completions with a verdict for every rule that the request names, after `latency` seconds in
one of the slots; requests beyond the slots wait in line. GET /stats gives what it counted since the last GET.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
from collections import deque

KEYS = re.compile(rb'\\"(rule_\d+)\\": \{')


class Slots:
    """The slots, and the line before them."""

    def __init__(self, count: int, latency: float) -> None:
        self.free, self.latency = count, latency
        self.line: deque[Connection] = deque()
        self.loop = asyncio.get_running_loop()
        self.served = 0
        self.started = 0.0
        self.ended = 0.0

    def take(self, connection: Connection) -> None:
        """Give a slot to a request, or put it in line."""
        if self.free:
            self.free -= 1
            self.begin(connection)
        else:
            self.line.append(connection)

    def begin(self, connection: Connection) -> None:
        """Hold a slot for one request for as long as an answer takes."""
        self.started = self.started or self.loop.time()
        self.loop.call_later(self.latency, self.end, connection)

    def end(self, connection: Connection) -> None:
        """Answer, and give the slot to the next in line."""
        connection.answer()
        self.served += 1
        self.ended = self.loop.time()
        if self.line:
            self.begin(self.line.popleft())
        else:
            self.free += 1

    def stats(self) -> bytes:
        """Return what was counted, and begin anew."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = self.ended - self.started
        found = {"served": self.served, "seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime}
        self.served, self.started = 0, 0.0
        return json.dumps(found).encode()


class Connection(asyncio.Protocol):
    """One client's connection: one request at a time, kept alive."""

    def __init__(self, slots: Slots) -> None:
        self.slots, self.data = slots, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect a request; act when it is whole."""
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET /stats"):
            self.data = b""
            self.send(self.slots.stats())
            return
        length = re.search(rb"[Cc]ontent-[Ll]ength: *(\d+)", head)
        if length is not None and len(body) >= int(length.group(1)):
            self.data = b""
            self.reply = reply_to(body)
            self.slots.take(self)

    def answer(self) -> None:
        """Send what was prepared."""
        if not self.transport.is_closing():
            self.send(self.reply)

    def send(self, raw: bytes) -> None:
        """Send one reply."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw)
        self.transport.write(head + raw)


_REPLIES: dict[bytes, bytes] = {}


def reply_to(body: bytes) -> bytes:
    """Return a reply that judges every rule of the request compliant."""
    keys = b",".join(dict.fromkeys(KEYS.findall(body)))
    if keys not in _REPLIES:
        entry = {"reason": "Nothing in the response breaks this rule as it is written.", "verdict": "compliant"}
        text = json.dumps(dict.fromkeys(keys.decode().split(","), entry))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}
        _REPLIES[keys] = json.dumps({"model": "bench", "choices": [choice], "usage": usage}).encode()
    return _REPLIES[keys]


async def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--slots", type=int, default=64)
    arguments = parser.parse_args()
    slots = Slots(arguments.slots, arguments.latency)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(slots), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
