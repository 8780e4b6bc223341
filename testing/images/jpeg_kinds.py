"""More JPEG files: unusual samplings, orders of progressive scans, tables that change, metadata in odd places."""

import struct
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from jpeg_writer import Layout, segment, write
from parts import ADOBE, JFIF, XMP, exif, picture, planes, saved, xmp

SAMPLINGS = [
    "12 12 12", "22 22 22", "21 21 21", "22 12 12", "22 21 21", "44 11 11", "24 11 11", "24 22 11", "42 21 12", "44 22 11",
    "13 11 11", "33 11 11", "31 31 11", "32 11 11", "41 21 11", "11 12 11", "11 21 12", "11 44 11", "12 21 11", "14 12 11",
]

# What libjpeg's own scripts and encoders of the web write, and some that only the standard allows.
SCRIPTS = {
    "planes-apart": "0: 0-0, 0, 0; 1: 0-0, 0, 0; 2: 0-0, 0, 0; 0: 1-63, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;",
    "bands": "0 1 2: 0-0, 0, 0; 0: 1-2, 0, 0; 0: 3-9, 0, 0; 0: 10-63, 0, 0; 2: 1-63, 0, 0; 1: 1-5, 0, 0; 1: 6-63, 0, 0;",
    "bits": "0 1 2: 0-0, 0, 3; 0: 1-63, 0, 3; 1: 1-63, 0, 2; 2: 1-63, 0, 2; 0 1 2: 0-0, 3, 2; 0: 1-63, 3, 2; 0 1 2: 0-0, 2, 1; "
    "0: 1-63, 2, 1; 1: 1-63, 2, 1; 2: 1-63, 2, 1; 0 1 2: 0-0, 1, 0; 2: 1-63, 1, 0; 1: 1-63, 1, 0; 0: 1-63, 1, 0;",
    "colour-late": "0: 0-0, 0, 0; 0: 1-63, 0, 0; 1 2: 0-0, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;",
    "no-refinement": "0 1 2: 0-0, 0, 1; 0: 1-63, 0, 2; 1: 1-63, 0, 1; 2: 1-63, 0, 1;",
    "only-means": "0 1 2: 0-0, 0, 0;",
}


def run(program, arguments, file):
    """What a program of libjpeg makes of a file; `None` where it is not there or refuses."""
    try:
        return subprocess.run([program, *map(str, arguments)], input=file, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def samplings():
    for width, height in [(53, 37), (33, 49)]:
        colours = planes(picture(width, height).convert("YCbCr"))
        for sampling in SAMPLINGS:
            pairs = [(int(pair[0]), int(pair[1])) for pair in sampling.split()]
            for scans in ([[1], [0], [2]], [[0, 1, 2]]):
                name = f"sampling-{width}-{sampling.replace(' ', '-')}"
                file = write(colours, width, height, Layout(sampling=pairs, scans=scans, restart=2))
                # libjpeg refuses units of more than ten blocks.
                is_large = len(scans) == 1 and sum(across * down for across, down in pairs) > 10
                yield f"{name}-{len(scans)}.jpg", file, *([f"{name}-3.jpg"] if is_large else [])


def scans():
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "scans"
        for name, text in SCRIPTS.items():
            script.write_text(text)
            for sampling in (0, 1, 2):
                for restart in ("0", "1B", "1"):
                    plain = saved(picture(61, 43), "jpeg", quality=85, subsampling=sampling)
                    made = run("jpegtran", ["-scans", script, "-restart", restart], plain)
                    if made:
                        yield f"script-{name}-{sampling}-{restart}.jpg", made
                        if restart == "0":
                            yield f"script-{name}-{sampling}-cut.jpg", made[: len(made) * 2 // 3]
                            yield f"script-{name}-{sampling}-ends.jpg", made[: len(made) * 2 // 3] + b"\xff\xd9"
                    grey = run("jpegtran", ["-grayscale", "-progressive", "-restart", restart], plain)
                    if grey:
                        yield f"grey-progressive-{sampling}-{restart}.jpg", grey


def tables():
    image = picture(53, 37)
    out = Path(tempfile.mkdtemp()) / "t"
    out.write_text("\n".join(" ".join(["300"] * 8) for _ in range(8)))
    source = saved(image, "ppm")
    for name, arguments in {
        "wide-quantisation": ["-qtables", out], "quality-1": ["-quality", "1"], "quality-100": ["-quality", "100"],
        "float": ["-dct", "float"], "fast": ["-dct", "fast"], "optimised": ["-optimize"], "smooth": ["-smooth", "50"],
        "rgb": ["-rgb"], "rgb-sampled": ["-rgb", "-sample", "2x2"], "grey": ["-grayscale"],
        "arithmetic": ["-arithmetic"], "lossless": ["-lossless", "1"], "lossless-7": ["-lossless", "7,2"],
        "twelve": ["-precision", "12"], "rows": ["-restart", "1"],
    }.items():
        made = run("cjpeg", arguments, source)
        if made:
            yield f"cjpeg-{name}.jpg", made
    out.unlink()
    plain = saved(image, "jpeg", quality=90, subsampling=0)
    # All tables in one segment each.
    merged, rest, kinds = b"", plain[2:], {0xDB: b"", 0xC4: b""}
    while rest[1] != 0xDA:
        length = int.from_bytes(rest[2:4], "big") + 2
        if rest[1] in kinds:
            kinds[rest[1]] += rest[4:length]
        else:
            merged += rest[:length]
        rest = rest[length:]
    joined = b"".join(segment(kind, body) for kind, body in kinds.items())
    yield "joined-tables.jpg", plain[:2] + joined + merged + rest
    yield "tables-twice.jpg", plain[:2] + segment(0xDB, b"\0" + bytes([9] * 64)) + joined + merged + rest
    yield "restart-of-zero.jpg", plain[:2] + segment(0xDD, b"\0\0") + plain[2:]
    yield "unknown-segments.jpg", plain[:2] + segment(0xEF, b"x" * 300) + segment(0xF0, b"y") + segment(0xE5, b"") + plain[2:]
    yield "two-images.jpg", plain + saved(picture(20, 20), "jpeg")
    yield "image-in-the-middle.jpg", plain[:-2] + saved(picture(20, 20), "jpeg")
    yield "no-end.jpg", plain[:-2]
    yield "spaces.jpg", plain[:2] + plain[2:].replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1)
    # What is damaged, and no picture any more.
    middle = plain.index(b"\xff\xda") + (len(plain) - plain.index(b"\xff\xda")) // 2
    for marker in (0x02, 0x3E, 0xBF, 0xC1, 0xC5, 0xCE, 0xD8, 0xDE, 0xF5, 0xFD):
        yield f"broken-off-{marker:02x}.jpg", plain[:middle] + bytes([0xFF, marker]) + plain[middle:]
    yield "table-class.jpg", plain.replace(b"\xff\xc4" + plain[plain.index(b"\xff\xc4") + 2 :][:2] + b"\0", b"\xff\xc4" + plain[plain.index(b"\xff\xc4") + 2 :][:2] + b"\x20", 1)
    yield "restart-too-long.jpg", plain[:2] + segment(0xDD, b"\0\3\0") + plain[2:]
    scan = plain.index(b"\xff\xda")
    yield "scan-too-long.jpg", plain[:scan] + segment(0xDA, plain[scan + 4 : scan + 14] + b"\0") + plain[scan + 14 :]
    frame = plain.index(b"\xff\xc0")
    yield "frame-too-long.jpg", plain[:frame] + segment(0xC0, plain[frame + 4 : frame + 19] + b"\0") + plain[frame + 19 :]
    yield "no-meaning.jpg", plain[:frame] + segment(0x42, b"xyz") + plain[frame:]
    yield "table-number.jpg", plain[: scan + 6] + b"\x40" + plain[scan + 7 :]
    # Codes that there are not, and values beyond a band.
    gone = saved(image, "jpeg", quality=60, progressive=True)
    for place in range(40):
        at = len(gone) // 2 + place * (len(gone) // 90)
        changed = bytes([gone[at] ^ (1 << place % 8)])
        yield f"flipped-{place}.jpg", gone[:at] + changed + gone[at + 1 :]
    # The components of a scan in another order than those of the frame.
    colours = planes(image.convert("YCbCr"))
    yield "scan-order.jpg", write(colours, 53, 37, Layout(scans=[[2], [1], [0]], sampling=[(2, 1), (1, 1), (1, 1)]))


def metadata():
    image = picture(40, 27)
    plain = saved(image, "jpeg", quality=90)
    with_segments = lambda *segments: plain[:2] + b"".join(segments) + plain[2:]
    whole = lambda data: segment(0xE1, b"Exif\0\0" + data)
    for kind, size in ((1, "B"), (3, "H"), (4, "I"), (6, "b"), (7, "B"), (8, "h"), (9, "i"), (13, "I")):
        for order, mark in (("<", b"II\x2a\0"), (">", b"MM\0\x2a")):
            value = struct.pack(order + size, 6).ljust(4, b"\0")
            data = mark + struct.pack(order + "IHHHI", 8, 1, 0x112, kind, 1) + value + bytes(4)
            yield f"exif-kind-{kind}-{mark[:1].decode()}.jpg", with_segments(whole(data))
    # Another number of values, within the entry or outside of it.
    for kind, size in ((3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i"), (13, "I")):
        for count in (0, 1, 2, 3):
            values = struct.pack("<" + size, 6) * count
            within = values if len(values) <= 4 else struct.pack("<I", 26)
            data = b"II\x2a\0" + struct.pack("<IHHHI", 8, 1, 0x112, kind, count) + within.ljust(4, b"\0") + bytes(4) + values
            yield f"exif-count-{kind}-{count}.jpg", with_segments(whole(data))
    # Several entries, and a directory at another place.
    entries = struct.pack("<HHII", 0x10F, 2, 4, 0x00434241) + struct.pack("<HHIHH", 0x112, 3, 1, 8, 0) + struct.pack("<HHIHH", 0x128, 3, 1, 2, 0)
    yield "exif-far.jpg", with_segments(whole(b"II\x2a\0" + struct.pack("<I", 40) + bytes(32) + struct.pack("<H", 3) + entries + bytes(4)))
    yield "exif-twice.jpg", with_segments(whole(exif(6)), whole(exif(3)))
    yield "exif-after-xmp.jpg", with_segments(segment(0xE1, XMP + xmp(3)), segment(0xE1, b"other\0"), whole(exif(6)))
    yield "exif-double-name.jpg", with_segments(segment(0xE1, b"Exif\0\0Exif\0\0" + exif(6)))
    yield "exif-broken.jpg", with_segments(whole(b"II\x2a\0\xff\xff\0\0"))
    yield "exif-empty.jpg", with_segments(whole(b""))
    yield "exif-broken-and-xmp.jpg", with_segments(whole(b"II\x2a\0\xff\xff\0\0"), segment(0xE1, XMP + xmp(6)))
    yield "xmp-twice.jpg", with_segments(segment(0xE1, XMP + xmp(6)), segment(0xE1, XMP + xmp(3)))
    yield "xmp-zero-and-digit.jpg", with_segments(segment(0xE1, XMP + xmp("06")))
    frame = plain.index(b"\xff\xc0")
    yield "exif-after-tables.jpg", plain[:frame] + whole(exif(6)) + plain[frame:]
    scan = plain.index(b"\xff\xda")
    yield "exif-before-scan.jpg", plain[:scan] + whole(exif(8)) + plain[scan:]
    yield "exif-at-end.jpg", plain[:-2] + whole(exif(8)) + plain[-2:]
    for transform in (0, 1, 2, 7):
        yield f"adobe-{transform}.jpg", with_segments(ADOBE(transform))
    yield "adobe-after-jfif.jpg", plain[:2] + JFIF + ADOBE(0) + plain[2:]
    yield "profile.jpg", with_segments(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)))
    yield "several-pictures.jpg", saved(image, "mpo", save_all=True, append_images=[image.rotate(180)])
    yield "turned-pictures.jpg", saved(image, "mpo", save_all=True, append_images=[image.rotate(180)], exif=b"Exif\0\0" + exif(6))


ALL = (samplings, scans, tables, metadata)
