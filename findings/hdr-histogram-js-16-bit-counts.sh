#!/bin/sh
# hdr-histogram-js 3.0.1: with counts of 16 bits the median of 71,000 times between 5 and 900 ms is 0.
#
# `bitBucketSize` may be 8, 16, 32 or 64 according to the README, which says nothing of a limit. The 65,536th equal value sets its count
# back to 0 without an error (`incrementCountAtIndex` in TypedArrayHistogram waits for a negative number, which an unsigned array has not).
# The total goes on, so that a percentile is never reached, and 0 is returned. A load test at one steady time has that number of values
# soon.
#
# Expected beforehand: an error at the limit, or counts that stay at it.
# Seen: median 0 and 99th percentile 0 with 16 bits; 5 and 900 with 32.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund hdr-histogram-js@3.0.1
cat >run.cjs <<'NODE'
const assert = require("assert");
const { build } = require("hdr-histogram-js");

for (const [bits, expected] of [[16, [71000, 0, 0]], [32, [71000, 5, 900]]]) {
  const histogram = build({ bitBucketSize: bits });
  for (let i = 0; i < 70000; i++) histogram.recordValue(5);
  for (let i = 0; i < 1000; i++) histogram.recordValue(900);
  const seen = [histogram.totalCount, histogram.getValueAtPercentile(50), histogram.getValueAtPercentile(99)];
  console.log(`${bits} bits: values ${seen[0]}, median ${seen[1]}, 99th percentile ${seen[2]}`);
  assert.deepStrictEqual(seen, expected, "changed");
}
NODE
node run.cjs
