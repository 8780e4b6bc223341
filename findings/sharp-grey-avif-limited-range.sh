#!/bin/sh
# sharp 0.35.5 (libheif 1.23.5): a grey AVIF with the levels of television (16 to 235) keeps them, so that black is dark grey and white is light grey.
#
# AVIF says whether its levels span 0 to 255 or 16 to 235. libheif expands those of colours and returns the only plane of grey as it is stored.
# Video tools write the latter range by default. A model sees a picture with less contrast.
#
# Expected beforehand: grey is read like colours, with black as 0 and white as 255, as Pillow (libavif) does.
# Seen: the same picture is 0 and 255 in colour, and 16 and 235 in grey.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pillow==13.0.0
npm init -y >/dev/null
npm install --silent --no-audit --no-fund sharp@0.35.5
venv/bin/python - <<'PYTHON'
from PIL import Image

half = Image.new("L", (64, 32))
half.paste(255, (32, 0, 64, 32))
for mode, subsampling in (("L", "4:0:0"), ("RGB", "4:4:4")):
    half.convert(mode).save(f"{mode}.avif", range="limited", subsampling=subsampling, quality=100)
    seen = Image.open(f"{mode}.avif").convert("L").getextrema()
    print(f"Pillow, {mode}: black {seen[0]}, white {seen[1]}")
    assert seen[0] <= 1 and seen[1] >= 254, "changed: Pillow"
PYTHON
cat >run.cjs <<'NODE'
const assert = require("assert"), sharp = require("sharp");
(async () => {
  const seen = {};
  for (const mode of ["RGB", "L"]) {
    const data = await sharp(`${mode}.avif`).greyscale().raw().toBuffer();
    seen[mode] = [Math.min(...data), Math.max(...data)];
    console.log(`sharp, ${mode}: black ${seen[mode][0]}, white ${seen[mode][1]}`);
  }
  assert.ok(seen.RGB[0] <= 1 && seen.RGB[1] >= 254, "changed: colours");
  assert.ok(seen.L[0] >= 15 && seen.L[1] <= 236, "changed: grey is expanded");
})();
NODE
node run.cjs
