"""When the process serves, and when it ends: with its parent, however that one ended."""

import os
import signal
import sys
import threading
from pathlib import Path


def write_address(file: Path, address: str) -> None:
    """The file appears complete or not at all: one that waits for it may read it the moment that it is there."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(address)
    partial.replace(file)


class End:
    """Is waited for by the main thread: a signal, or the end of standard input."""

    def __init__(self, watch_stdin: bool) -> None:
        self._came = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._came.set())
        if watch_stdin:
            threading.Thread(target=self._read_stdin, name="stdin", daemon=True).start()

    def wait(self) -> None:
        # A wait with a time-out lets the main thread run signal handlers; one without it would not on every platform.
        while not self._came.wait(timeout=0.5):
            pass

    def _read_stdin(self) -> None:
        # The parent holds the other end of this pipe. When it dies, by whatever, the kernel closes it.
        try:
            while os.read(sys.stdin.fileno(), 4096):
                pass
        except (OSError, ValueError):
            pass
        self._came.set()
