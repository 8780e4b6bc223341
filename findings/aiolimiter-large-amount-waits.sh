#!/bin/sh
# aiolimiter 1.3.0: an acquisition of a larger amount waits until no smaller one comes, however early it asked.
#
# Those who wait are in a heap that is ordered by amount, and only then by arrival (`_waiters` in aiolimiter/leakybucket.py; the
# documentation names no order). An upload of 8 images that asks first is passed by each single image, as long as these come at the rate of
# the limiter.
#
# Expected beforehand: first come, first served, as with the locks and semaphores of asyncio.
# Seen: the 8 that asked first got their turn after all 20 single ones, which came over two seconds.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aiolimiter==1.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from aiolimiter import AsyncLimiter

order = []


async def acquire(limiter, name, amount):
    await limiter.acquire(amount)
    order.append(name)


async def main():
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    tasks = [asyncio.create_task(acquire(limiter, "upload of 8", 8))]
    for number in range(20):
        await asyncio.sleep(0.09)
        tasks.append(asyncio.create_task(acquire(limiter, number, 1)))
    await asyncio.gather(*tasks)


asyncio.run(main())
place = order.index("upload of 8")
print("served before the upload that asked first:", place, "of 20")
assert place == 20, "changed"
PYTHON
