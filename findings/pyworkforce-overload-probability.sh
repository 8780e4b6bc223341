#!/bin/sh
# pyworkforce 0.5.1: the Erlang C waiting probability is 1.42 for nine positions under a load of ten.
#
# A queue that gets more work than it can do has everybody wait: the probability is 1. At exactly ten positions the library says 1.0, and
# below that it goes on by the formula for stable queues, which is no probability there. The service level beside it is 0, as it should be.
#
# Expected beforehand: 1.0, or an error that names the overload.
# Seen: ten positions 1.0, nine 1.4196.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyworkforce==0.5.1
"$folder/venv/bin/python" - <<'PYTHON'
from pyworkforce.queuing import ErlangC

# 100 transactions of 3 minutes in 30 minutes: a load of 10 Erlang.
queue = ErlangC(transactions=100, aht=3, interval=30, asa=20 / 60)
at_load, below = queue.waiting_probability(10), queue.waiting_probability(9)
print("ten positions", at_load, "nine positions", below, "service level", queue.service_level(9))
assert at_load == 1.0 and queue.service_level(9) == 0, "changed"
assert 1.41 < below < 1.43, "changed: the probability of an overloaded queue"
PYTHON
