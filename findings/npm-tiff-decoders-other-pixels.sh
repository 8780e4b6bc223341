#!/bin/sh
# utif2 4.1.0 and tiff 7.1.3: files of scanners and microscopes come out as other pixels, without an error.
#
# utif2 reads a file whose red, green and blue are stored one after the other (PlanarConfiguration 2) as if they were interleaved. tiff puts
# the samples of tiles to their places as if a pixel had one: grey tiles are right, colours are not.
#
# Expected beforehand: both are read, or refused.
# Seen: the first of four pixels is (1, 2, 3) instead of (1, 5, 9); the first of the second row in colour is
# (5, 0, 0) instead of (1, 0, 9).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check tifffile==2026.3.3 numpy==2.4.6
npm init -y >/dev/null
npm install --silent --no-audit --no-fund utif2@4.1.0 tiff@7.1.3
venv/bin/python - <<'PYTHON'
import numpy as np
import tifffile

tifffile.imwrite("planes.tif", np.uint8(range(1, 13)).reshape(3, 2, 2), photometric="rgb", planarconfig="separate")
down, across = np.mgrid[:32, :32].astype("u1")
tifffile.imwrite("grey.tif", down, photometric="minisblack", tile=(16, 16))
tifffile.imwrite("colour.tif", np.stack([down, across, across * 0 + 9], -1), photometric="rgb", tile=(16, 16))
PYTHON
cat >run.mjs <<'NODE'
import assert from "assert";
import fs from "fs";
import { decode } from "tiff";
import UTIF from "utif2";

const planes = fs.readFileSync("planes.tif"), [page] = UTIF.decode(planes);
UTIF.decodeImage(planes, page);
const first = [...UTIF.toRGBA8(page).subarray(0, 3)].join();
const second = (file, samples) => [...decode(fs.readFileSync(file))[0].data.subarray(32 * samples, 32 * samples + samples)].join();
console.log(`utif2, three planes: the first pixel is ${first}`);
console.log(`tiff, tiles: the second row begins with ${second("grey.tif", 1)} in grey, with ${second("colour.tif", 3)} in colour`);
assert.strictEqual(first, "1,2,3", "changed");
assert.strictEqual(second("grey.tif", 1), "1", "changed");
assert.notStrictEqual(second("colour.tif", 3), "1,0,9", "changed");
NODE
node run.mjs
