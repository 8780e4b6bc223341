#!/bin/sh
# jpeg-js 0.4.4: a JPEG whose components are red, green and blue is converted from YCbCr, and black is green.
#
# The Adobe segment says with transform 0 that the three components are no YCbCr, as Photoshop and Pillow (keep_rgb) write it. jpeg-js heeds
# the segment only where it says another number than 0. Browsers, libjpeg and Pillow obey it.
#
# Expected beforehand: black is black.
# Seen: black is read as 0, 134, 0; with colorTransform: false it is right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pillow==13.0.0
npm init -y >/dev/null
npm install --silent --no-audit --no-fund jpeg-js@0.4.4
venv/bin/python -c 'from PIL import Image; Image.new("RGB", (8, 8)).save("black.jpg", keep_rgb=True, quality=100)'
cat >run.cjs <<'NODE'
const assert = require("assert"), fs = require("fs"), jpeg = require("jpeg-js");
const pixel = (options) => [...jpeg.decode(fs.readFileSync("black.jpg"), options).data.subarray(0, 3)].join();
console.log(`black: ${pixel({})}; with colorTransform: false ${pixel({ colorTransform: false })}`);
assert.notStrictEqual(pixel({}), "0,0,0", "changed");
assert.strictEqual(pixel({ colorTransform: false }), "0,0,0", "changed");
NODE
node run.cjs
