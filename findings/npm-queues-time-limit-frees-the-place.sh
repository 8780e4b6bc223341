#!/bin/sh
# p-queue 9.3.5, bottleneck 2.19.5: with a concurrency of one and a time limit, three jobs run at the same time.
#
# A job that passes its limit (`timeout`, `expiration`) is reported as failed. Nothing can stop a promise, so it goes on, and its place is
# given to the next one meanwhile. The limit of concurrency, which is there for the memory of a model, holds no longer just when the model
# is slow. bottleneck asks to set an expiration on each job of a cluster. Pass an AbortSignal, and count the places in the job itself.
#
# Expected beforehand: the place is free when the job has ended.
# Seen: three jobs of 300 ms with a limit of 50 ms run side by side.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund p-queue@9.3.5 bottleneck@2.19.5
cat >run.mjs <<'NODE'
import assert from "assert";
import Bottleneck from "bottleneck";
import PQueue from "p-queue";

async function run(name, add) {
  let running = 0, most = 0;
  const job = async () => {
    most = Math.max(most, ++running);
    await new Promise((done) => setTimeout(done, 300));
    running--;
  };
  const ends = await Promise.allSettled([1, 2, 3].map(() => add(job)));
  console.log(`${name}: failed ${ends.filter((end) => end.status === "rejected").length} of 3, at the same time ${most}`);
  assert.strictEqual(most, 3, "changed");
}

const queue = new PQueue({ concurrency: 1, timeout: 50 });
await run("p-queue", (job) => queue.add(job));
const limiter = new Bottleneck({ maxConcurrent: 1 });
await run("bottleneck", (job) => limiter.schedule({ expiration: 50 }, job));
NODE
node run.mjs
