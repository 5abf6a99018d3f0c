"""One writer at a time, held by the kernel."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import IO


def take(lock: IO[str], busy: Callable[[str], Exception]) -> None:
    """Hold an open lock file until it is closed or the process ends, however it ends, and write our id into it.

    Args:
        lock: opened for reading and appending.
        busy: makes the error that is raised where another process holds it, from that one's id.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise busy(lock.read() or "unknown") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
