"""What runs on the event loop: which request goes next, when, and what follows from how it ended."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from realigner.endpoint import Endpoint
from realigner.oracle.http.complaints import gone, hopeless, too_long, unreachable
from realigner.oracle.http.exchange import Broken, Reply
from realigner.oracle.http.pace import Pace
from realigner.oracle.http.records import Completion, NotACompletion, decode, error_text, read_completion
from realigner.oracle.http.retry import CONGESTED, Action, Patience, action_for, retry_after

if TYPE_CHECKING:
    from realigner.oracle.http.transport import Transport


class Job:
    """One caller's requests. Its queue carries (place, completion), or an error after which nothing follows."""

    def __init__(self) -> None:
        self.done: SimpleQueue[tuple[int, Completion] | BaseException] = SimpleQueue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.over = False
        self.ending: asyncio.Task[None] | None = None
        """Held here, as the loop holds its tasks only weakly."""


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way to a completion."""

    job: Job
    place: int
    body: bytes
    tokens: float
    """Estimated, prompt and answer."""
    budget: float
    """Seconds from the first attempt."""
    since: float = 0.0
    """When the first attempt began."""
    began: float = 0.0
    """When the last attempt began."""
    attempts: int = 0
    garbled: int = 0
    """Replies with status 200 that made no sense. A server that knows requests again would only repeat them."""


@dataclass(slots=True)
class Tally:
    """What a client has done so far."""

    requests: int = 0
    completions: int = 0
    retries: int = 0
    overloads: int = 0
    """Replies 429, 503 or 529."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Dispatcher:
    """Sends works as the pace allows, tries again with patience, and hands each completion to its job."""

    transport: Transport
    endpoint: Endpoint
    pace: Pace
    patience: Patience
    loop: asyncio.AbstractEventLoop
    tally: Tally
    draw: random.Random = field(default_factory=random.Random)
    waiting: deque[Work] = field(default_factory=deque)
    active: int = 0
    reached_at: float = float("-inf")
    """When the server last answered as it should."""
    proven: bytes = b""
    """The last body that was answered."""
    timer: asyncio.TimerHandle | None = None

    def add(self, works: Iterable[Work]) -> None:
        """Take over works, in order."""
        self.waiting.extend(works)
        self.pump()

    def pump(self) -> None:
        """Start what may start now; be called again when the next may."""
        while self.waiting and self.active < self.pace.concurrency:
            work = self.waiting[0]
            if work.job.over:
                self.waiting.popleft()
                continue
            now = self.loop.time()
            delay = self.pace.delay(work.tokens, now)
            if delay > 0.0:
                if self.timer is None:
                    self.timer = self.loop.call_later(delay, self._on_time)
                return
            self.waiting.popleft()
            self._start(work, now)

    def cancel(self, job: Job) -> None:
        """Drop a job: nothing of it is sent any more, and what is under way is cut off."""
        job.over = True
        for task in job.tasks:
            task.cancel()
        self.waiting = deque(work for work in self.waiting if work.job is not job)
        self.pump()

    async def close(self) -> None:
        """Cut off everything and close the connections."""
        tasks = [task for task in asyncio.all_tasks(self.loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.timer is not None:
            self.timer.cancel()
        await self.transport.close()

    def _on_time(self) -> None:
        self.timer = None
        self.pump()

    def _start(self, work: Work, now: float) -> None:
        self.pace.started(work.tokens, now)
        self.active += 1
        if work.attempts == 0:
            work.since = now
        else:
            self.tally.retries += 1
        work.attempts += 1
        work.began = now
        self.tally.requests += 1
        task = self.loop.create_task(self._run(work))
        work.job.tasks.add(task)
        task.add_done_callback(work.job.tasks.discard)

    async def _run(self, work: Work) -> None:
        try:
            result = await self.transport.post(work.body, work.garbled)
            self._settle(work, result, self.loop.time())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a fault of ours must not leave the caller waiting
            self._stop(work.job, error)
        finally:
            self.active -= 1
            self.pump()

    def _settle(self, work: Work, result: Reply | Broken, now: float) -> None:
        if isinstance(result, Broken):
            if result.unreachable and self.reached_at == float("-inf"):
                self._stop(work.job, unreachable(self.endpoint, result.why))
            else:
                work.garbled += result.garbled
                self._again(work, now, result.why, status=0)
            return
        if result.status != 200:
            self._refused(work, result, *_said(result.raw), now)
            return
        try:
            completion = read_completion(decode(result.raw))
        except NotACompletion as error:
            work.garbled += 1
            self._again(work, now, str(error), status=200)
        else:
            self._succeed(work, completion, now)

    def _succeed(self, work: Work, completion: Completion, now: float) -> None:
        counted = None
        if completion.prompt_tokens is not None and completion.completion_tokens is not None:
            self.tally.prompt_tokens += completion.prompt_tokens
            self.tally.completion_tokens += completion.completion_tokens
            counted = completion.prompt_tokens + completion.completion_tokens
        self.reached_at, self.proven = now, work.body
        self.pace.succeeded(work.tokens, counted, now)
        self._finish(work, completion, now)

    def _refused(self, work: Work, reply: Reply, code: str, message: str, now: float) -> None:
        """Act on a status other than 200."""
        said = self.endpoint.scrub(" ".join(message.split()))[:300]
        why = f"status {reply.status}" + (f": {said}" if said else "")
        if reply.status in CONGESTED:
            self.tally.overloads += 1
            self.pace.congested(work.began, now)
        action = action_for(reply.status, code)
        if action is Action.STOP:
            self._stop(work.job, hopeless(self.endpoint, reply, why))
        elif action is Action.ITEM:
            # The server works: this one question is what it does not take.
            self._finish(work, Completion("", "error", why, reply.status), now)
        else:
            wait = retry_after(reply.retry_after)
            if wait is not None:
                if wait > work.budget:
                    self._stop(work.job, too_long(self.endpoint, why, wait, work.budget, self.patience.budget))
                    return
                self.pace.pause(now + wait)
            self._again(work, now, why, reply.status, wait)

    def _again(self, work: Work, now: float, why: str, status: int, wait: float | None = None) -> None:
        """Try again later, unless the budget or the patience with garbled replies is spent."""
        delay = self.patience.backoff(work.attempts, self.draw) if wait is None else wait
        if work.garbled < self.patience.garbled and now + delay - work.since <= work.budget:
            self.loop.call_later(delay, self._requeue, work)
        elif self.reached_at >= work.since:
            self._give_up(work, now, why, status)
        else:
            # Nobody was answered since: is it the server, or was this the only question left?
            task = self.loop.create_task(self._doubt(work, why, status))
            work.job.tasks.add(task)
            task.add_done_callback(work.job.tasks.discard)

    async def _doubt(self, work: Work, why: str, status: int) -> None:
        """Send what was answered before once more: if it is again, one question is at fault, else the server."""
        for pause in (0.0, 0.5, 1.0) if self.proven else ():
            await asyncio.sleep(pause)
            result = await self.transport.post(self.proven)
            if isinstance(result, Reply) and result.status == 200:
                self.reached_at = self.loop.time()
                self._give_up(work, self.reached_at, why, status)
                return
        tried = f"{work.attempts} attempts in {self.loop.time() - work.since:.0f} s"
        self._stop(work.job, gone(self.endpoint, tried, why, was_there=self.reached_at > float("-inf")))

    def _give_up(self, work: Work, now: float, why: str, status: int) -> None:
        why = f"{why} (after {work.attempts} attempts in {now - work.since:.0f} s)"
        self._finish(work, Completion("", "error", why, status), now)

    def _requeue(self, work: Work) -> None:
        if not work.job.over:
            self.waiting.appendleft(work)
            self.pump()

    def _finish(self, work: Work, completion: Completion, now: float) -> None:
        self.tally.completions += 1
        scrub = self.endpoint.scrub
        done = replace(
            completion,
            text=scrub(completion.text),
            error=scrub(completion.error),
            model=scrub(completion.model),
            attempts=work.attempts,
            seconds=now - work.since,
        )
        work.job.done.put((work.place, done))

    def _stop(self, job: Job, error: BaseException) -> None:
        """End a job: nothing more is sent, but what is under way may still arrive, as it may be paid for."""
        if job.over:
            return
        job.over = True
        under_way = [task for task in job.tasks if task is not asyncio.current_task()]
        job.ending = self.loop.create_task(self._last(job, under_way, error))

    async def _last(self, job: Job, under_way: list[asyncio.Task[None]], error: BaseException) -> None:
        await asyncio.gather(*under_way, return_exceptions=True)
        job.done.put(error)


def _said(raw: bytes) -> tuple[str, str]:
    """Return (code, message) of an error reply; empty where it says nothing that can be read."""
    try:
        return error_text(decode(raw))
    except NotACompletion:
        return "", ""
