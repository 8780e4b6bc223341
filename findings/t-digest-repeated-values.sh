#!/bin/sh
# tdigest 0.5.2.2, pytdigest 0.1.4 (PyPI), tdigest 0.1.3 (npm): a median of 109 ms where nine of ten requests took 10 ms, and a quartile of
# -386 ms.
#
# A t-digest keeps means with counts, and says what is between two means by a line. Equal values go into one mean whatever their number, so
# that 900 times 10 and 100 times 1000 are two means and one line (`TDigest.percentile` of both packages called tdigest, `inverse_cdf` of
# pytdigest). The one of PyPI draws the line on below the first mean. Times in whole milliseconds and confidences with two digits are such
# values. Use a histogram or the sorted values for them.
#
# Expected beforehand: 10 up to the 90th percentile, which these digests are to meet within a few percent.
# Seen: the median is 109 with all three, the 75th percentile 604; the 25th of tdigest (PyPI) is -386.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check tdigest==0.5.2.2 pytdigest==0.1.4
npm init -y >/dev/null
npm install --silent --no-audit --no-fund tdigest@0.1.3
cat >run.py <<'PYTHON'
import numpy
import pytdigest
import tdigest

times = ([10.0] * 9 + [1000.0]) * 100
first = tdigest.TDigest()
first.batch_update(times)
second = pytdigest.TDigest.compute(numpy.array(times))
exact = [float(v) for v in numpy.quantile(times, (0.25, 0.5, 0.75))]
seen = [round(first.percentile(p), 6) for p in (25, 50, 75)], [round(second.inverse_cdf(q), 6) for q in (0.25, 0.5, 0.75)]
print("25th, 50th and 75th percentile: exact", exact, "tdigest (PyPI)", seen[0], "pytdigest", seen[1])
assert exact == [10, 10, 10]
assert seen == ([-386, 109, 604], [10, 109, 604]), "changed"
PYTHON
cat >run.cjs <<'NODE'
const assert = require("assert");
const { TDigest } = require("tdigest");

const digest = new TDigest();
for (let i = 0; i < 1000; i++) digest.push(i % 10 === 9 ? 1000 : 10);
digest.compress();
const seen = [0.25, 0.5, 0.75].map((q) => digest.percentile(q));
console.log("tdigest (npm)", seen.join(" "));
assert.deepStrictEqual(seen, [10, 109, 604], "changed");
NODE
venv/bin/python run.py
node run.cjs
