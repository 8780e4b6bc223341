#!/bin/sh
# SQLite 3.54.1 (apsw 3.54.1.0): a prepared statement with `LIMIT ?`, or with `column = ?` and ORDER BY, is parsed at each run.
#
# The planner looks at the value of such a parameter, and then each binding marks the statement as out of date, as a changed schema would,
# also when the value is the same. The documentation names LIKE and GLOB, and comparisons once ANALYZE was run; neither is here. With
# `LIMIT ?` it is so since 3.47.0 (not in 3.46.1), with an ordered `column = ?` since 3.54.0. A queue in SQLite takes "the N oldest of
# this queue" by exactly such a statement. `SQLITE_DBCONFIG_ENABLE_QPSG` keeps the plan.
#
# Expected beforehand: a prepared statement is parsed once, whatever is bound to it; without ANALYZE values do not count.
# Seen: 101 parses in 100 runs with a bound limit and with an ordered comparison, 1 with neither, 1 with QPSG.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check apsw==3.54.1.0
cd "$folder"
cat >parses.py <<'PYTHON'
import apsw


def parses(sql, values, stable=False):
    """How often a statement was parsed in 100 runs: the authorizer is asked at each parse."""
    database = apsw.Connection(":memory:")
    database.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, int(stable))
    database.execute("CREATE TABLE m (id INTEGER PRIMARY KEY, queue, body); CREATE INDEX i ON m (queue, id)")
    database.executemany("INSERT INTO m (queue, body) VALUES (?, ?)", [(n % 3, "x") for n in range(300)])
    parsed = []

    def authorize(operation, *_):
        if operation == apsw.SQLITE_SELECT:
            parsed.append(sql)
        return apsw.SQLITE_OK

    database.authorizer = authorize
    for n in range(100):
        database.execute(sql, values(n)).fetchall()
    return len(parsed)


print("SQLite", apsw.sqlite_lib_version())
seen = {
    "bound limit, always the same value": parses("SELECT id FROM m ORDER BY id LIMIT ?", lambda n: (5,)),
    "bound limit, other values": parses("SELECT id FROM m ORDER BY id LIMIT ?", lambda n: (n,)),
    "column = ? with ORDER BY": parses("SELECT id FROM m WHERE queue = ? ORDER BY id", lambda n: (n % 3,)),
    "column = ? without ORDER BY": parses("SELECT id FROM m WHERE queue = ?", lambda n: (n % 3,)),
    "all three, with QPSG": parses("SELECT id FROM m WHERE queue = ? ORDER BY id LIMIT ?", lambda n: (1, n), stable=True),
}
for what, count in seen.items():
    print(f"{what}: parsed {count} times in 100 runs")
assert list(seen.values()) == [101, 101, 101, 1, 1], seen
PYTHON
"$folder/venv/bin/python" parses.py
