#!/bin/sh
# backoff 2.2.1: a call that takes longer than `max_time` is made a second time.
#
# `max_time` is "the maximum total amount of time to try for before giving up" (docstring of `on_exception`). The time is looked at before
# each call and compared after it (`elapsed` in backoff/_sync.py; _async.py does the same). A request that times out after 30 s, with a
# `max_time` of 10 s, is sent again, and the caller waits for over 60 s; the image is classified twice.
#
# Expected beforehand: a call of 0.6 s that fails is not repeated with a `max_time` of 0.3 s.
# Seen: two calls, the second one begun after 0.6 s and more, and an end after 1.2 s and more.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check backoff==2.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import time
import backoff

begun = []


@backoff.on_exception(backoff.constant, OSError, interval=0.01, max_time=0.3, jitter=None)
def call():
    begun.append(time.monotonic())
    time.sleep(0.6)
    raise OSError


@backoff.on_exception(backoff.constant, OSError, interval=0.01, max_time=0.3, jitter=None)
async def call_async():
    begun.append(time.monotonic())
    await asyncio.sleep(0.6)
    raise OSError


for run in (call, lambda: asyncio.run(call_async())):
    begun.clear()
    try:
        run()
    except OSError:
        pass
    second = begun[1] - begun[0] if len(begun) > 1 else None
    print("calls", len(begun), "the second after", second, "all ended after", time.monotonic() - begun[0])
    assert len(begun) == 2 and second > 0.3, "changed"
PYTHON
