#!/bin/sh
# opencv 5.0.0.93: IMREAD_COLOR of a TIFF with alpha returns colours multiplied by alpha, where PNG and WebP lose only the alpha.
#
# The same pixels, half transparent, saved by Pillow 13.0.0 as PNG, lossless WebP and TIFF: from PNG and WebP imdecode returns the colour, from
# TIFF half of it, that is the picture on black. A model gets two pictures of one scan, depending on the file's format.
#
# Expected beforehand: the alpha channel is dropped, as documented for IMREAD_COLOR, whatever the format.
# Seen: (10, 10, 250) from PNG and WebP, (5, 5, 125) from TIFF.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import cv2, numpy as np
from PIL import Image

picture = Image.new("RGBA", (64, 40), (10, 10, 250, 128))
for kind, expected in (("PNG", (10, 10, 250)), ("WEBP", (10, 10, 250)), ("TIFF", (5, 5, 125))):
    out = io.BytesIO()
    picture.save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    b, g, r = cv2.imdecode(np.frombuffer(out.getvalue(), np.uint8), cv2.IMREAD_COLOR)[20, 30]
    print(kind, (int(r), int(g), int(b)))
    assert (r, g, b) == expected, "changed"
PYTHON
