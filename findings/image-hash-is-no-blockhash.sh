#!/bin/sh
# image-hash 7.0.1: its hash of a picture is not the one of blockhash, which it calls itself a wrapper around.
#
# A bit of a blockhash says whether a block is brighter than the median of its band. For the median of an even number of blocks, which is
# each band's number, image-hash takes the two values after the middle instead of the two around it (`median` in lib/block-hash.js). Fewer
# bits are set, and hashes of this library do not match those that blockhash-core or the tools of blockhash.io have made of the same
# pictures.
#
# Expected beforehand: the hash of blockhash-core 0.1.0, bit for bit.
# Seen: 4 of 64 bits differ, one in each band; half of the bits are set in blockhash's, 28 in this one's.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund image-hash@7.0.1 blockhash-core@0.1.0 pngjs@7.0.0
cat >run.cjs <<'NODE'
const assert = require("assert");
const { promisify } = require("util");
const { bmvbhash } = require("blockhash-core");
const { imageHash } = require("image-hash");
const { PNG } = require("pngjs");

const picture = new PNG({ width: 64, height: 64 });
for (let y = 0; y < 64; y++)
  for (let x = 0; x < 64; x++) {
    // 8 by 8 blocks, each of another grey.
    const grey = (((x >> 3) + 8 * (y >> 3)) * 37 % 64) * 4;
    picture.data.set([grey, grey, grey, 255], 4 * (y * 64 + x));
  }
const set = (hash) => BigInt("0x" + hash).toString(2).replaceAll("0", "").length;

promisify(imageHash)({ data: PNG.sync.write(picture), ext: "image/png" }, 8, true).then((seen) => {
  const right = bmvbhash(picture, 8);
  const differ = (BigInt("0x" + right) ^ BigInt("0x" + seen)).toString(2).replaceAll("0", "").length;
  console.log(`blockhash-core ${right} bits set ${set(right)}, image-hash ${seen} bits set ${set(seen)}, bits that differ ${differ}`);
  assert.deepStrictEqual([set(right), set(seen), differ], [32, 28, 4], "changed");
});
NODE
node run.cjs
