#!/bin/sh
# persist-queue 1.1.0: two consumers that open the same SQLite queue each get the same items.
#
# Each queue object keeps the place where it reads in memory and marks an item afterwards, so that two objects, in one process or in two,
# both receive what is at the front. The README calls the queues thread-safe and says nothing of two processes; with two worker processes on
# one SQLiteAckQueue of 200 items, 54 were handed out twice.
#
# Expected beforehand: SQLite's locks decide who gets an item, and the other gets the next.
# Seen: both get 0; for SQLiteAckQueue, SQLiteQueue and UniqueAckQ alike.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check persist-queue==1.1.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import tempfile
import persistqueue

for kind in (persistqueue.SQLiteAckQueue, persistqueue.SQLiteQueue, persistqueue.UniqueAckQ):
    path = tempfile.mkdtemp(dir=".")
    first = kind(path, multithreading=True)
    for item in range(4):
        first.put(item)
    second = kind(path, multithreading=True)
    got = first.get(), second.get()
    print(kind.__name__, "first consumer", got[0], "second consumer", got[1])
    assert got == (0, 0), "changed: the second consumer gets another item"
PYTHON
