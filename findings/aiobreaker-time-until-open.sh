#!/bin/sh
# aiobreaker 1.2.0: `time_until_open` of a breaker that is open for 60 seconds is 60 seconds in London and five hours in New York.
#
# The breaker opens at a time of UTC, and `opens_at` and `time_until_open` compare that with the local time (`datetime.now` in
# aiobreaker/circuitbreaker.py, `datetime.utcnow` in `open`). `sleep_until_open` sleeps as long. East of London `opens_at` is None at once.
# The state itself uses UTC on both sides and is right.
#
# Expected beforehand: at most 60 seconds in each time zone.
# Seen: with TZ=UTC 60 s, with a zone 5 hours west 18,060 s, with one 1 hour east no time at all.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aiobreaker==1.2.0
cat >"$folder/run.py" <<'PYTHON'
from datetime import timedelta
from aiobreaker import CircuitBreaker

breaker = CircuitBreaker(timeout_duration=timedelta(seconds=60))
breaker.open()
print("never" if breaker.opens_at is None else round(breaker.time_until_open.total_seconds()))
PYTHON
# Zones by their offset, so that neither summer time nor the machine's list of zones matters.
for zone in UTC0 WEST5 EAST-1; do
    seen=$(TZ=$zone "$folder/venv/bin/python" -W ignore "$folder/run.py")
    echo "$zone: seconds until the breaker lets a call through: $seen"
    case "$zone $seen" in
    "UTC0 60" | "WEST5 18060" | "EAST-1 never") ;;
    *) echo changed && exit 1 ;;
    esac
done
