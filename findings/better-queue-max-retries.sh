#!/bin/sh
# better-queue 3.8.12: `maxRetries: 1` retries nothing.
#
# "You can set tasks to retry maxRetries times if they fail" (README). The number is compared with the tries, the first one included, so
# that 0 and 1 are the same (`_retries` and `maxRetries` in lib/queue.js). A job that should get a second chance after a lost connection
# fails for good.
#
# Expected beforehand: one try more than the setting.
# Seen: 1, 1, 2 and 3 tries for 0, 1, 2 and 3.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund better-queue@3.8.12
cat >run.cjs <<'NODE'
const assert = require("assert");
const Queue = require("better-queue");

(async () => {
  const seen = [];
  for (const maxRetries of [0, 1, 2, 3]) {
    let tries = 0;
    const queue = new Queue((job, done) => (tries++, done("connection lost")), { maxRetries });
    await new Promise((failed) => queue.push({ id: "image" }).on("failed", failed));
    seen.push(tries);
  }
  console.log(`tries with maxRetries of 0, 1, 2, 3: ${seen.join(", ")}`);
  assert.deepStrictEqual(seen, [1, 1, 2, 3], "changed");
})();
NODE
node run.cjs
