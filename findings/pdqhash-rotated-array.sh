#!/bin/sh
# pdqhash 0.2.8: a picture that numpy has rotated has another hash than the same pixels in a fresh array.
#
# PDQ finds pictures that look alike; a distance of 31 or less of 256 bits counts as the same. `compute` takes any array, but reads the
# memory of its grey copy row by row (`&gray[0, 0]` in pdqhash/bindings.pyx), and the copy keeps the order of its source. Of an array that
# was transposed, or rotated by a quarter as cameras' orientations ask for, the columns are taken for rows. The quality shows nothing. Pass
# numpy.ascontiguousarray(picture).
#
# Expected beforehand: equal arrays, equal hashes.
# Seen: over 100 bits differ for rot90, the transpose and an array in Fortran's order, none for a flip or a crop.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pdqhash==0.2.8 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
import pdqhash

y, x = numpy.mgrid[0:240, 0:320] / 240
planes = [numpy.sin(7 * x + 3 * y * y), numpy.cos(5 * y - 2 * x * x), numpy.sin(4 * x * y + 1)]
picture = numpy.stack([127 + 120 * plane for plane in planes], axis=2).astype("uint8")
for name, view, far in (
    ("rot90", numpy.rot90(picture), True),
    ("transpose", picture.transpose(1, 0, 2), True),
    ("Fortran order", numpy.asfortranarray(picture), True),
    ("flip", picture[:, ::-1], False),
    ("crop", picture[20:200, 50:250], False),
):
    fresh = numpy.ascontiguousarray(view)
    assert numpy.array_equal(fresh, view)
    (first, _), (second, quality) = pdqhash.compute(fresh), pdqhash.compute(view)
    bits = int((first != second).sum())
    print(name, "bits that differ", bits, "quality", quality)
    assert (bits > 60) if far else (bits == 0), "changed"
PYTHON
