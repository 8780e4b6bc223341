"""Ends what the emulator started, also when the emulator itself was killed: a process of its own that holds a pipe.

When the pipe closes, because the emulator leaves or because it is gone, every process of an instance gets SIGTERM, and
SIGKILL a few seconds later; it is known by the scratch folder in its environment, whatever session or group it moved to.
Containers are not seen like that: the emulator says over the pipe, in lines of JSON, how each is ended.

    {"add": "KEY", "command": ["SCRIPT", "down", "NAME"]}    {"forget": "KEY"}

Standard library only; it is started without site-packages, to be quick.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

MARK = "EMULATOR_SCRATCH"
INSTANCE = "EMULATOR_INSTANCE_ID"
PATIENCE = 3.0


def main(scratch: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for the emulator, whose end is then seen here
    left: dict[str, list[str]] = {}
    for line in sys.stdin:
        note = json.loads(line)
        if "forget" in note:
            left.pop(note["forget"], None)
        else:
            left[note["add"]] = note["command"]
    ending = [subprocess.Popen(each, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for each in left.values()]
    sweep(f"{MARK}={scratch}")
    for each in ending:
        each.wait()
    shutil.rmtree(scratch, ignore_errors=True)


def sweep(mark: str) -> None:
    signalled: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while left := processes(mark):
        late = time.monotonic() > deadline
        for pid in left:
            if late or pid not in signalled:
                signalled.add(pid)
                send(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)


def processes(*marks: str) -> list[int]:
    """Those that have all these NAME=VALUE in the environment that they were started with. Zombies have none."""
    wanted = {mark.encode() for mark in marks}
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted <= set(file.read().split(b"\0")):
                        found.append(int(name))
            except OSError:
                continue  # it has ended, or is somebody else's
    return found


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


if __name__ == "__main__":
    main(sys.argv[1])
