#!/bin/sh
# bmp-js 0.1.0 and decode-bmp 0.2.1: bitmaps that Windows and browsers show come out as other pixels, without an error.
#
# bmp-js leaves the bottom row of a bitmap with run lengths (RLE8) blank. decode-bmp takes the codes of the runs for pixels, takes colour masks
# for the first pixels and the bytes of 32 bits for blue, green and red whatever the masks say, and makes every pixel of 32 bits without alpha transparent (its fourth byte is
# unused where the header has no mask for it, and mostly zero).
#
# Expected beforehand: a decoder that does not know a compression, or masks, refuses the file.
# Seen: four answers that differ from the bitmap.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund bmp-js@0.1.0 decode-bmp@0.2.1
cat >run.cjs <<'NODE'
const assert = require("assert");
const bmpjs = require("bmp-js"), decodeBmp = require("decode-bmp");

// A bitmap of 2 x 2: red and green above, blue and white below. Rows are stored from the bottom.
function bitmap(bits, compression, masks, palette, pixels) {
  const head = Buffer.alloc(54);
  const offset = 54 + masks.length + palette.length;
  head.write("BM");
  head.writeUInt32LE(offset + pixels.length, 2);
  head.writeUInt32LE(offset, 10);
  [40, 2, 2].forEach((value, place) => head.writeUInt32LE(value, 14 + 4 * place));
  head.writeUInt16LE(1, 26);
  head.writeUInt16LE(bits, 28);
  head.writeUInt32LE(compression, 30);
  head.writeUInt32LE(pixels.length, 34);
  head.writeUInt32LE(palette.length / 4, 46);
  return Buffer.concat([head, Buffer.from(masks), Buffer.from(palette), Buffer.from(pixels)]);
}
const palette = [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0];
const runs = bitmap(8, 1, [], palette, [1, 2, 1, 3, 0, 0, 1, 0, 1, 1, 0, 1]);
const plain = bitmap(32, 0, [], [], [255, 0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 0, 0, 255, 0, 0]);
const masks = bitmap(32, 3, [255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0], [],
  [0, 0, 255, 0, 255, 255, 255, 0, 255, 0, 0, 0, 0, 255, 0, 0]);
const expected = "255,0,0 0,255,0 0,0,255 255,255,255";

const pixels = (data, order) => [0, 4, 8, 12].map((at) => order.map((place) => data[at + place]).join()).join(" ");
const withBmpJs = (file) => pixels(bmpjs.decode(file).data, [3, 2, 1]);
const decoded = (file, order = [0, 1, 2]) => pixels(decodeBmp(file).data, order);
for (const [name, seen, is] of [
  ["bmp-js, 32 bits", withBmpJs(plain), expected],
  ["bmp-js, RLE8", withBmpJs(runs), "255,0,0 0,255,0 255,255,255 255,255,255"],
  ["decode-bmp, 32 bits", decoded(plain), expected],
  ["decode-bmp, 32 bits, alpha", decoded(plain, [3]), "0 0 0 0"],
  ["decode-bmp, 32 bits with masks", decoded(masks), "255,0,0 255,0,0 0,0,255 0,255,0"],
]) {
  console.log(`${name}: ${seen}`);
  assert.strictEqual(seen, is, "changed");
}
const coded = decoded(runs);
console.log(`decode-bmp, RLE8: ${coded}`);
assert.notStrictEqual(coded, expected, "changed");
NODE
node run.cjs
