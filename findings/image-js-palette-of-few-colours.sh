#!/bin/sh
# image-js 1.7.0 (fast-png 8.0.0): a PNG with a palette of few colours has other pixels in each row than the file, or is refused when interlaced.
#
# Pillow, ImageMagick and pngquant store 16 colours or fewer in 4 bits or fewer. convertIndexedToRgb counts these through all rows, although each
# row of a PNG begins at a whole byte, so that every row of an odd width begins with the padding of the one before. The interlaced
# order is refused as "Unsupported filter". Diagrams, logos and screenshots are of this kind, and no error says that they are skewed.
#
# Expected beforehand: palettes of all sizes are read alike, since the usual test suite of PNG has them.
# Seen: 200 colours are right; of 16 and of 4 colours every row but the first is wrong; interlaced ones are refused.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pillow==13.0.0
npm init -y >/dev/null
npm install --silent --no-audit --no-fund image-js@1.7.0 fast-png@8.0.0
venv/bin/python - <<'PYTHON'
import struct, zlib
from PIL import Image

WIDTH, HEIGHT = 21, 8
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def rows(bits, passes):
    for left, top, right, down in passes:
        for y in range(top, HEIGHT, down):
            text = "".join(format((x * 7 + y * 3) % (1 << bits), f"0{bits}b") for x in range(left, WIDTH, right))
            text += "0" * (-len(text) % 8)
            yield b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")


for bits in (2, 4, 8):
    for name, passes in (("plain", [(0, 0, 1, 1)]), ("interlaced", PASSES)):
        head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 3, 0, 0, name == "interlaced")
        palette = b"".join(bytes([i * 37 % 256, i * 91 % 256, 255 - i * 13 % 256]) for i in range(1 << bits))
        data = zlib.compress(b"".join(rows(bits, passes)))
        file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", palette) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        open(f"{name}-{bits}.png", "wb").write(file)
        open(f"{name}-{bits}.rgb", "wb").write(Image.open(f"{name}-{bits}.png").convert("RGB").tobytes())
    assert open(f"plain-{bits}.rgb", "rb").read() == open(f"interlaced-{bits}.rgb", "rb").read(), "changed: Pillow"
PYTHON
cat >run.mjs <<'NODE'
import assert from "node:assert";
import fs from "node:fs";
import { decode } from "image-js";

function wrongRows(name) {
  const expected = fs.readFileSync(`${name}.rgb`);
  let pixels;
  try {
    pixels = decode(fs.readFileSync(`${name}.png`)).getRawImage().data;
  } catch (error) {
    return error.message.replace(/\d+|undefined/, "N");
  }
  const row = 3 * 21;
  return [...Array(8).keys()].filter((y) => !expected.subarray(y * row, (y + 1) * row).equals(Buffer.from(pixels.subarray(y * row, (y + 1) * row)))).length;
}
for (const [name, expected] of [["plain-8", 0], ["interlaced-8", 0], ["plain-4", 7], ["plain-2", 7],
  ["interlaced-4", "Unsupported filter: N"], ["interlaced-2", "Unsupported filter: N"]]) {
  const seen = wrongRows(name);
  console.log(`${name}: ${typeof seen === "number" ? `${seen} of 8 rows are wrong` : seen}`);
  assert.strictEqual(seen, expected, "changed");
}
NODE
node run.mjs
