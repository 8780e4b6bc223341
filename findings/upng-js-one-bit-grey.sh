#!/bin/sh
# upng-js 2.1.0: a grey PNG of one bit whose width is no multiple of 8 comes out skewed.
#
# The rows of a PNG begin at whole bytes. toRGBA8 counts the bits of such a picture through all rows, so that each row begins where the last
# one's padding does. Two bits, and widths in steps of 8, are right. Scans and fax pages are of this kind.
#
# Expected beforehand: all widths are read alike.
# Seen: the second row begins with the padding of the first.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund upng-js@2.1.0
cat >run.cjs <<'NODE'
const assert = require("assert"), zlib = require("zlib");
const UPNG = require("upng-js");

function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name), data]), ends = Buffer.alloc(8);
  ends.writeUInt32BE(data.length, 0);
  ends.writeUInt32BE(zlib.crc32(body), 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
}

// All white, two rows.
function page(width) {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(2, 4);
  head[8] = 1;
  const bytes = Math.ceil(width / 8), row = Buffer.alloc(1 + bytes, 255);
  row[0] = 0;
  row[bytes] = (255 << (8 * bytes - width)) & 255;
  const file = Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), chunk("IHDR", head),
    chunk("IDAT", zlib.deflateSync(Buffer.concat([row, row]))), chunk("IEND", Buffer.alloc(0))]);
  const rgba = new Uint8Array(UPNG.toRGBA8(UPNG.decode(new Uint8Array(file).buffer))[0]);
  return [0, 1].map((y) => Array.from({ length: width }, (_, x) => (rgba[4 * (y * width + x)] ? "#" : ".")).join(""));
}
for (const [width, expected] of [[8, ["########", "########"]], [5, ["#####", "...##"]]]) {
  const seen = page(width);
  console.log(`a white page of ${width} columns: ${seen.join(" ")}`);
  assert.deepStrictEqual(seen, expected, "changed");
}
NODE
node run.cjs
