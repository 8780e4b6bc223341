#!/bin/sh
# opencv 5.0.0.93: imdecode applies the orientation of JPEG, PNG, WebP and TIFF, and ignores that of AVIF.
#
# An AVIF keeps the rotation in properties of the container (irot, imir), and Pillow 13.0.0 writes both these and EXIF when it saves a picture
# with an orientation. A phone picture that is converted from JPEG to AVIF reaches a model upright through Pillow's
# exif_transpose and lying on its side through OpenCV, from the same code that was right for JPEG.
#
# Expected beforehand: all formats of imdecode behave alike.
# Seen: a picture of 64 x 40 with orientation 6 is 40 x 64 from JPEG, PNG, WebP and TIFF, and 64 x 40 from AVIF.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import cv2, numpy as np
from PIL import Image, ImageOps

picture = Image.new("RGB", (64, 40), (90, 160, 40))
exif = Image.Exif()
exif[0x112] = 6
sizes = {}
for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
    out = io.BytesIO()
    picture.save(out, kind, **({"tiffinfo": {0x112: 6}} if kind == "TIFF" else {"exif": exif.tobytes()}))
    data = out.getvalue()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    sizes[kind] = (width, height)
    print(kind, "Pillow, transposed", upright, "OpenCV", sizes[kind])
    assert upright == (40, 64), "changed: Pillow"
assert sizes.pop("AVIF") == (64, 40), "changed: AVIF is rotated"
assert set(sizes.values()) == {(40, 64)}, "changed: another format is not rotated"
PYTHON
