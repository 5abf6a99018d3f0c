"""Chat completions from ordinary code: requests in, completions out as they arrive. The layer below every HTTP judge.

    client = ChatClient(open_endpoint("http://localhost:8000/v1"), ModelSettings("my-model"))
    for place, completion in client.complete([ChatRequest([{"role": "user", "content": "Hello"}])]):
        print(place, completion.text if completion.ok else completion.error)

The requests run on an event loop in a thread of the client's own, so it can be used anywhere, also in a notebook.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from queue import Empty

from realigner.endpoint import Endpoint
from realigner.oracle.http.dispatch import Dispatcher, Job, Tally, Work
from realigner.oracle.http.pace import Limits, Pace
from realigner.oracle.http.records import ChatRequest, Completion, ModelSettings, encode
from realigner.oracle.http.retry import Patience

FollowUp = Callable[[int, Completion], ChatRequest | None]

CHARACTERS_A_TOKEN = 4
"""For the estimate that tokens_per_minute needs before the server has counted."""


class ChatClient:
    """Asks one model of one server, within limits and with patience. Safe to use from several threads.

    Args:
        endpoint: where, and with which key.
        model: the model, and what every request says to it.
        limits: requests at a time and a minute, tokens a minute.
        patience: how failures are tried again.
        timeout: seconds that one attempt may take, from connection to the last byte.
        connect_timeout: seconds until a connection must stand.
        idempotency_header: header for keys by which the server knows a request again; None: none are sent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: ModelSettings,
        *,
        limits: Limits = Limits(),  # noqa: B008
        patience: Patience = Patience(),  # noqa: B008
        timeout: float = 120.0,
        connect_timeout: float = 10.0,
        idempotency_header: str | None = None,
    ) -> None:
        self.endpoint, self.model, self.limits, self.patience = endpoint, model, limits, patience
        self.idempotency_header = idempotency_header
        self.tally = Tally()
        self._timeouts = timeout, connect_timeout
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, Dispatcher] | None = None
        self._closer: Callable[[], object] | None = None

    def complete(
        self, requests: Iterable[ChatRequest], *, again: FollowUp | None = None, budget: float | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (place in `requests`, completion) exactly once a request, in the order in which they arrive.

        Requests are taken from the iterable in the caller's thread as there is room, and at most twice
        `limits.concurrency` of them are unfinished or not yet taken by the caller: so much can be lost, and no more,
        when a process is killed whose caller stores each completion before it asks for the next.

        Args:
            requests: any number; they need not be in memory together.
            again: called with each completion before it is yielded; a request that it returns is asked instead, and
                its completion takes the place (a repair turn).
            budget: seconds that a request may be tried, if not the patience's.

        Raises:
            OracleError: the key is not set; the server cannot be reached, or refuses whatever is asked: wrong key,
                unknown model.
            JudgeError: it stopped answering, or asks to wait longer than the budget.
        """
        loop, dispatcher = self._start()
        job = Job()
        source = enumerate(requests)
        room, source_ended = 2 * self.limits.concurrency, False
        seconds = self.patience.budget if budget is None else budget
        fresh: list[Work] = []
        try:
            while True:
                while room and not source_ended:
                    following = next(source, None)
                    if following is None:
                        source_ended = True
                        break
                    fresh.append(self._work(job, *following, seconds))
                    room -= 1
                if fresh:
                    loop.call_soon_threadsafe(dispatcher.add, fresh)
                    fresh = []
                if room == 2 * self.limits.concurrency:
                    return
                for place, completion in _taken(job):
                    request = None if again is None else again(place, completion)
                    if request is not None:
                        fresh.append(self._work(job, place, request, seconds))
                        continue
                    room += 1
                    yield place, completion
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(dispatcher.cancel, job)

    def close(self) -> None:
        """Close the connections and end the thread; the next call starts them again. Not needed at exit."""
        with self._lock:
            if self._closer is not None:
                self._closer()
            self._running = self._closer = None

    def _work(self, job: Job, place: int, request: ChatRequest, budget: float) -> Work:
        body = encode(self.model.body(request))
        tokens = 0.0
        if self.limits.tokens_per_minute is not None:
            tokens = len(body) / CHARACTERS_A_TOKEN + (request.max_tokens or self.model.max_tokens)
        return Work(job, place, body, tokens, budget)

    def _start(self) -> tuple[asyncio.AbstractEventLoop, Dispatcher]:
        self.endpoint.require_key()
        with self._lock:
            if self._running is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="realigner-http", daemon=True)
                thread.start()
                made = asyncio.run_coroutine_threadsafe(self._make(loop), loop)
                self._running = loop, made.result()
                # No reference to self: an unused client is collected, and its thread ends with it.
                self._closer = weakref.finalize(self, _shut_down, loop, thread, self._running[1])
            return self._running

    async def _make(self, loop: asyncio.AbstractEventLoop) -> Dispatcher:
        # Whoever only needs a judge's identity does not wait for the HTTP library.
        from realigner.oracle.http.transport import Transport

        transport = Transport(self.endpoint, self.limits.concurrency, *self._timeouts, self.idempotency_header)
        pace = Pace(self.limits, loop.time())
        return Dispatcher(transport, self.endpoint, pace, self.patience, loop, self.tally)


def _taken(job: Job) -> Iterator[tuple[int, Completion]]:
    """Yield what has arrived, waiting for the first; raise the error that ended the job."""
    item = job.done.get()
    while True:
        if isinstance(item, BaseException):
            raise item
        yield item
        try:
            item = job.done.get_nowait()
        except Empty:
            return


def _shut_down(loop: asyncio.AbstractEventLoop, thread: threading.Thread, dispatcher: Dispatcher) -> None:
    if threading.current_thread() is thread:  # the garbage collector may call from any thread, also from this one
        loop.create_task(dispatcher.close()).add_done_callback(lambda _: loop.stop())
        return
    closing = asyncio.run_coroutine_threadsafe(dispatcher.close(), loop)
    try:
        closing.result(timeout=2.0)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2.0)
        if not thread.is_alive():
            loop.close()
