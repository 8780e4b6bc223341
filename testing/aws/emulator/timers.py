"""What happens later, on one thread: states that change, messages that become visible, deliveries that time out.

One thread and a heap instead of a `threading.Timer` each, because a test may start a thousand instances.
"""

import heapq
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable


class Timers:
    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()  # equal times run in the order in which they were asked for
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="timers", daemon=True).start()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs `action` once, later. It must not block: everything else that is due waits for it."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            self._next()()

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return guarded(heapq.heappop(self._due)[2])
                self._changed.wait(self._due[0][0] - now if self._due else None)


def guarded(action: Callable[[], None]) -> Callable[[], None]:
    """A failure here has no caller that could report it, so it is told where a test's reader looks."""

    def run() -> None:
        try:
            action()
        except Exception:
            traceback.print_exc(file=sys.stderr)

    return run


def in_background(action: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=guarded(action), name=name, daemon=True)
    thread.start()
    return thread
