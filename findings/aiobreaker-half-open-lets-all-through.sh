#!/bin/sh
# aiobreaker 1.2.0: when its time is over, an open circuit breaker lets all waiting calls through, not one.
#
# In the state half-open "the next call to the circuit breaker is allowed to execute the dangerous operation" (docstring of
# CircuitHalfOpenState). The state is half-open until that call ends, and each call that comes meanwhile is executed too. A service that
# was just about to recover gets the whole load at once. pybreaker 1.4.1, from which it comes, and opossum 9.0.0 (npm) let one through.
#
# Expected beforehand: one of 50 calls is executed, the others fail at once.
# Seen: all 50, at the same time.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aiobreaker==1.2.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from datetime import timedelta
from aiobreaker import CircuitBreaker, CircuitBreakerState

calls = running = most = 0


async def fails_at_once():
    raise OSError


async def fails_later():
    global calls, running, most
    calls, running = calls + 1, running + 1
    most = max(most, running)
    await asyncio.sleep(0.2)
    running -= 1
    raise OSError


async def main():
    breaker = CircuitBreaker(fail_max=2, timeout_duration=timedelta(seconds=0.3))
    await asyncio.gather(*(breaker.call_async(fails_at_once) for _ in range(2)), return_exceptions=True)
    assert breaker.current_state == CircuitBreakerState.OPEN
    await asyncio.sleep(0.5)
    await asyncio.gather(*(breaker.call_async(fails_later) for _ in range(50)), return_exceptions=True)


asyncio.run(main())
print("calls that were executed:", calls, "at the same time:", most)
assert (calls, most) == (50, 50), "changed"
PYTHON
