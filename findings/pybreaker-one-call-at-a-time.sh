#!/bin/sh
# pybreaker 1.4.1: threads that share a circuit breaker make their calls one after another.
#
# `call` holds the breaker's lock while the guarded function runs (`CircuitBreaker.call` in pybreaker/__init__.py). The README asks for one
# breaker for the whole program and calls it thread-safe; that it lets one call run at a time is not said. A web server with eight threads
# in front of a model server has one, once it is guarded, also while all is well.
#
# Expected beforehand: the lock guards the breaker's counters, and eight calls of 0.2 s take 0.2 s.
# Seen: 1.6 s, and never two calls at the same time.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pybreaker==1.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import threading
import time
import pybreaker

running = most = 0
lock = threading.Lock()


def classify():
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.2)
    with lock:
        running -= 1


def run(call):
    global most
    most = 0
    threads = [threading.Thread(target=call) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("at the same time", most, "seconds", round(time.monotonic() - began, 1))
    return most


breaker = pybreaker.CircuitBreaker(fail_max=5)
assert run(classify) > 1
assert run(lambda: breaker.call(classify)) == 1, "changed"
PYTHON
