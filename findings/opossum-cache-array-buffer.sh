#!/bin/sh
# opossum 9.0.0: with `cache: true`, each picture that is given as an ArrayBuffer or a Blob gets the result of the first one.
#
# The key of the cache is JSON.stringify of the arguments (default of `cacheGetKey` in lib/circuit.js), and that is `{}` for an
# ArrayBuffer, which `fetch` and FormData return, for a Blob, a File, a Map and a stream. A circuit breaker around a classifier then says
# "cat" for the dog. The same key is used by `coalesce`. A Buffer has the right key. Give `cacheGetKey` a hash of the bytes.
#
# Expected beforehand: other bytes, another entry; or an error that this argument makes no key.
# Seen: the second picture's result is the first one's, and the classifier was called once.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund opossum@9.0.0
cat >run.cjs <<'NODE'
const assert = require("assert");
const CircuitBreaker = require("opossum");

// A classifier whose label is the size of the picture.
async function run(name, first, second, expected) {
  let calls = 0;
  const classify = async (picture) => (calls++, picture.byteLength ?? picture.size);
  const breaker = new CircuitBreaker(classify, { cache: true });
  const seen = [await breaker.fire(first), await breaker.fire(second), calls];
  breaker.shutdown();
  console.log(`${name}: results ${seen[0]} and ${seen[1]}, calls ${seen[2]}`);
  assert.deepStrictEqual(seen, expected, "changed");
}

(async () => {
  await run("ArrayBuffer", new ArrayBuffer(100), new ArrayBuffer(200), [100, 100, 1]);
  await run("Blob", new Blob(["a".repeat(100)]), new Blob(["b".repeat(200)]), [100, 100, 1]);
  await run("Buffer", Buffer.alloc(100), Buffer.alloc(200), [100, 200, 2]);
})();
NODE
node run.cjs
