"""Which calls came, and how they ended."""

import collections
import threading
import time
from datetime import datetime, timezone
from typing import Any

LOG_LENGTH = 500


class Journal:
    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._objects: collections.Counter[tuple[str, str]] = collections.Counter()
        self._log: collections.deque[dict[str, Any]] = collections.deque(maxlen=LOG_LENGTH)
        self._lock = threading.Lock()

    def note(
        self, account: str, operation: str, key: str | None, principal: str, status: int, seconds: float
    ) -> None:
        with self._lock:
            self._counts[account, operation] += 1
            if key:
                self._objects[account, key.partition("/")[0]] += 1
            self._log.append(
                {
                    "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                    "op": operation,
                    "account": account,
                    "principal": principal,
                    "status": status,
                    "seconds": round(seconds, 4),
                }
            )

    def counts(self, account: str | None) -> dict[str, int]:
        return self._found(self._counts, account)

    def objects(self, account: str | None) -> dict[str, int]:
        """By the first part of the key that they are about."""
        return self._found(self._objects, account)

    def _found(self, counts: collections.Counter[tuple[str, str]], account: str | None) -> dict[str, int]:
        found: collections.Counter[str] = collections.Counter()
        with self._lock:
            for (of, name), count in counts.items():
                if account in (None, of):
                    found[name] += count
        return dict(sorted(found.items()))

    def log(self, account: str | None) -> list[dict[str, Any]]:
        with self._lock:
            return [each for each in self._log if account in (None, each["account"])]

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()
            self._objects.clear()
            self._log.clear()


def call_line(call: str, account: str, principal: str, status: int, seconds: float) -> str:
    """A line of --verbose."""
    return f"{time.strftime('%H:%M:%S')} {call} {status} {seconds * 1000:.0f} ms {account} {principal}"
