#!/usr/bin/env python3
"""Makes several hundred picture files as cameras, scanners, editors and web services write them, and says what Pillow
reads in each: `python3 variants.py FOLDER`.

For each file there is a line of JSON in FOLDER/list.jsonl: its name, and either the size of the upright picture, whose
pixels (red, green, blue) are in NAME.rgb, or why Pillow refuses it. A kind that gives the name of another file means: the
pixels are those that Pillow reads there.
"""

import json
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

from PIL import Image, ImageOps, PngImagePlugin

import jpeg_kinds
import other_kinds
import png_kinds
import tiff_kinds
from jpeg_writer import Layout, segment, write
from parts import (
    ADOBE, JFIF, XMP, bitmap, bitmap_rows, chunk, exif, lzw, picture, planes, saved, tiff, value, xmp,
)

SIZES = [(53, 37), (16, 16), (1, 1), (3, 2), (17, 33), (64, 8), (5, 40)]


def jpegs():
    for width, height in SIZES:
        image = picture(width, height)
        size = f"{width}x{height}"
        for quality in (10, 75, 97):
            for subsampling in (0, 1, 2):
                for progressive in (False, True):
                    options = dict(quality=quality, subsampling=subsampling, progressive=progressive)
                    name = f"{size}-{quality}-{subsampling}-{'progressive' if progressive else 'baseline'}"
                    yield f"pillow-{name}.jpg", saved(image, "jpeg", **options)
                    if width == 53:
                        restarts = dict(options, restart_marker_blocks=2)
                        yield f"restarts-{name}.jpg", saved(image, "jpeg", **restarts)
                        yield f"cmyk-{name}.jpg", saved(image.convert("CMYK"), "jpeg", **options)
        yield f"grey-{size}.jpg", saved(image.convert("L"), "jpeg")
        yield f"rgb-{size}.jpg", saved(image, "jpeg", keep_rgb=True)

    parted = [[[0, 1, 2]], [[0], [1], [2]], [[0], [1, 2]], [[2], [0, 1]]]
    for width, height in [(53, 37), (16, 16), (9, 30)]:
        colours = planes(picture(width, height).convert("YCbCr"))
        for sampling in ["11 11 11", "21 11 11", "12 11 11", "22 11 11", "41 11 11", "42 11 11", "14 11 11", "22 21 12", "11 22 11", "31 11 11"]:
            pairs = [(int(pair[0]), int(pair[1])) for pair in sampling.split()]
            for index, scans in enumerate(parted):
                for restart in (0, 3):
                    layout = Layout(sampling=pairs, scans=scans, restart=restart)
                    name = f"own-{width}x{height}-{sampling.replace(' ', '-')}-scans{index}-restart{restart}.jpg"
                    yield name, write(colours, width, height, layout)
    width, height = 37, 29
    image = picture(width, height)
    colours = planes(image.convert("YCbCr"))
    yield "no-tables.jpg", write(colours, width, height, Layout(tables=False))
    avi = segment(0xE0, b"AVI1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
    yield "no-tables-avi.jpg", write(colours, width, height, Layout(tables=False, segments=avi))
    yield "no-tables-scans.jpg", write(colours, width, height, Layout(tables=False, scans=[[0], [1], [2]]))
    yield "extended.jpg", write(colours, width, height, Layout(frame=0xC1))
    # Whether three components are red, green and blue is guessed from what is there.
    for name, segments in [("bare", b""), ("jfif", JFIF), ("adobe0", ADOBE(0)), ("adobe1", ADOBE(1)), ("both", JFIF + ADOBE(0))]:
        for ids in (b"\x01\x02\x03", b"RGB", b"\x00\x01\x02", b"abc"):
            layout = Layout(segments=segments, ids=ids, sampling=[(1, 1)] * 3)
            yield f"guess-{name}-{ids.hex()}.jpg", write(colours, width, height, layout)
    four = planes(image.convert("CMYK").point(lambda x: 255 - x))
    for name, segments in [("bare", b""), ("adobe0", ADOBE(0)), ("adobe2", ADOBE(2))]:
        for sampling in ([(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)], [(2, 1), (1, 1), (1, 1), (2, 1)], [(2, 2), (2, 1), (1, 2), (1, 1)]):
            for scans in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[0, 3], [1], [2]]):
                layout = Layout(segments=segments, sampling=sampling, scans=scans)
                shape = "-".join(f"{a}{b}" for a, b in sampling)
                yield f"four-{name}-{shape}-{len(scans)}.jpg", write(four, width, height, layout)
    yield "grey-22.jpg", write(planes(image.convert("L")), width, height, Layout(sampling=[(2, 2)], scans=[[0]]))

    plain = saved(image, "jpeg", quality=90)
    with_segments = lambda *segments: plain[:2] + b"".join(segments) + plain[2:]
    for order in ("II", "MM"):
        for orientation in range(10):
            yield f"exif-{order}-{orientation}.jpg", with_segments(segment(0xE1, b"Exif\0\0" + exif(orientation, order)))
    for form in ("attribute", "element"):
        for orientation in range(1, 9):
            yield f"xmp-{form}-{orientation}.jpg", with_segments(segment(0xE1, XMP + xmp(orientation, form)))
    yield "exif-and-xmp.jpg", with_segments(segment(0xE1, XMP + xmp(3)), segment(0xE1, b"Exif\0\0" + exif(6)))
    yield "exif-without-and-xmp.jpg", with_segments(segment(0xE1, b"Exif\0\0II\x2a\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"), segment(0xE1, XMP + xmp(8)))
    yield "thumbnail.jpg", with_segments(segment(0xE1, b"Exif\0\0" + exif(6) + saved(picture(8, 8), "jpeg")))
    yield "garbage-behind.jpg", plain + b"what a camera adds\xff\xd8\xff\xda" * 20
    yield "comment.jpg", with_segments(segment(0xFE, b"\xff\xda\xff\xd9 no markers, but text"))
    yield "fill-bytes.jpg", plain[:2] + b"\xff\xff\xff" + plain[2:]
    # Damage, a missing end, what is not read.
    for part in (0.3, 0.6, 0.9):
        yield f"cut-{part}.jpg", plain[: int(len(plain) * part)]
    yield "ends-early.jpg", plain[: int(len(plain) * 0.7)] + b"\xff\xd9"
    lost = saved(image, "jpeg", quality=95, restart_marker_blocks=1)
    third = lost.index(b"\xff\xd2")
    yield "lost-restart.jpg", lost[:third] + lost[lost.index(b"\xff\xd3"):]
    # A file cut between or within restart intervals.
    for name, options in {"blocks": dict(restart_marker_blocks=1), "rows": dict(restart_marker_rows=1)}.items():
        intervals = saved(picture(53, 90), "jpeg", quality=90, **options)
        for part in range(1, 20):
            yield f"cut-restarts-{name}-{part}.jpg", intervals[: len(intervals) * part // 20]
        for marker in (0xD0, 0xD1, 0xD2):
            start = intervals.index(bytes([0xFF, marker]))
            for more in (0, 1, 2, 3):
                yield f"cut-at-restart-{name}-{marker:x}-{more}.jpg", intervals[: start + more]
    frame = plain.index(b"\xff\xc0")
    for marker in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xF7):
        yield f"frame-{marker:x}.jpg", plain[: frame + 1] + bytes([marker]) + plain[frame + 2 :]
    yield "twelve-bits.jpg", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :]
    yield "no-height.jpg", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :]
    yield "two-components.jpg", write(colours[:2], width, height, Layout(sampling=[(1, 1)] * 2, scans=[[0, 1]]))
    for name, arguments in [("progressive", []), ("arithmetic", ["-arithmetic"]), ("scans", ["-restart", "1"])]:
        arguments = ["-progressive", *arguments] if name != "arithmetic" else arguments
        for source in ("own-53x37-42-11-11-scans0-restart0.jpg", "four-adobe2-22-21-12-11-1.jpg"):
            yield f"jpegtran-{name}-{source}", (arguments, source)


def pngs():
    image = picture(41, 30)
    modes = {
        "rgb": image, "rgba": image.copy(), "l": image.convert("L"), "la": image.convert("LA"), "p": image.quantize(200),
        "p16": image.quantize(16), "p4": image.quantize(4), "p2": image.quantize(2), "1": image.convert("1"),
    }
    alpha = Image.linear_gradient("L").resize(image.size)
    modes["rgba"].putalpha(alpha)
    for name, mode in modes.items():
        yield f"{name}.png", saved(mode, "png")
    yield "transparent-colour.png", saved(image, "png", transparency=(0, 0, 40))
    yield "transparent-index.png", saved(image.quantize(16), "png", transparency=3)
    yield "animated.png", saved(image, "png", save_all=True, append_images=[image.rotate(180)])
    for bits, colour in [(8, 0), (16, 2), (8, 2), (16, 6), (16, 4), (2, 0), (4, 0), (1, 0)]:
        samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
        rows = b""
        for y in range(13):
            row = "".join(format((x * 2654435761 + y * 40503 + s * 977) % (1 << bits), f"0{bits}b") for x in range(11) for s in range(samples))
            row += "0" * (-len(row) % 8)
            rows += b"\0" + int(row, 2).to_bytes(len(row) // 8, "big")
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 11, 13, bits, colour, 0, 0, 0))
        yield f"bits{bits}-colour{colour}.png", b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    plain = saved(image, "png")
    end = plain.index(b"IDAT") - 4
    before, behind = lambda extra: plain[:end] + extra + plain[end:], lambda extra: plain[:-12] + extra + plain[-12:]
    raw = lambda data: f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    for orientation in (1, 3, 6, 8):
        whole = b"Exif\0\0" + exif(orientation)
        for name, place in [("before", before), ("behind", behind)]:
            yield f"exif-{name}-{orientation}.png", place(chunk(b"eXIf", exif(orientation)))
            yield f"raw-{name}-{orientation}.png", place(chunk(b"tEXt", b"Raw profile type exif\0" + raw(whole)))
            yield f"zraw-{name}-{orientation}.png", place(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw(whole))))
            digits = raw(whole)
            yield f"iraw-{name}-{orientation}.png", place(chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + digits))
            yield f"izraw-{name}-{orientation}.png", place(chunk(b"iTXt", b"Raw profile type exif\0\1\0en\0\0" + zlib.compress(digits)))
            text = b"XML:com.adobe.xmp\0"
            yield f"txmp-{name}-{orientation}.png", place(chunk(b"tEXt", text + xmp(orientation)))
            yield f"ztxmp-{name}-{orientation}.png", place(chunk(b"zTXt", text + b"\0" + zlib.compress(xmp(orientation))))
            yield f"xmp-{name}-{orientation}.png", place(chunk(b"iTXt", text + b"\0\0\0\0" + xmp(orientation)))
            yield f"zxmp-{name}-{orientation}.png", place(chunk(b"iTXt", text + b"\1\0en\0name\0" + zlib.compress(xmp(orientation, "element"))))
    yield "cut.png", plain[: len(plain) // 2]


def webps():
    image = picture(41, 30)
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    yield "lossless.webp", saved(image, "webp", lossless=True)
    yield "alpha.webp", saved(clear, "webp", lossless=True, exact=True)
    yield "animated.webp", saved(image, "webp", save_all=True, append_images=[image.rotate(180)], lossless=True)
    for orientation in (1, 3, 6, 8):
        yield f"exif-{orientation}.webp", saved(image, "webp", lossless=True, exif=b"Exif\0\0" + exif(orientation))
        yield f"xmp-{orientation}.webp", saved(image, "webp", lossless=True, xmp=xmp(orientation))
    for quality in (20, 90):
        yield f"lossy-{quality}.webp", saved(picture(200, 150), "webp", quality=quality)


def gifs():
    image = picture(41, 30)
    yield "plain.gif", saved(image.quantize(64), "gif")
    yield "interlaced.gif", saved(image.quantize(64), "gif", interlace=True)
    yield "grey.gif", saved(image.convert("L"), "gif")
    yield "animated.gif", saved(image.quantize(32), "gif", save_all=True, append_images=[image.rotate(180).quantize(32)])
    yield "transparent.gif", saved(image.quantize(64), "gif", transparency=5)
    palette = bytes([200, 10, 10, 10, 200, 10, 10, 10, 200, 240, 240, 240])
    for canvas in [(20, 12), (6, 5)]:
        for transparent in (None, 1):
            for local in (False, True):
                for background in (0, 2):
                    out = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80 | (0 if local else 1), background, 0)
                    out += bytes([1, 2, 3, 4, 5, 6]) if local else palette
                    if transparent is not None:
                        out += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
                    out += b"\x2c" + struct.pack("<HHHHB", 3, 2, 7, 5, 0x81 if local else 0) + (palette if local else b"")
                    out += lzw([(x * 3 + y) % 4 for y in range(5) for x in range(7)], 2) + b"\x3b"
                    yield f"frame-{canvas[0]}-{transparent}-{local}-{background}.gif", out
    cut = saved(image.quantize(64), "gif")
    yield "cut.gif", cut[: len(cut) // 2]


def bmps():
    width, height = 13, 7
    rows = lambda bits: bitmap_rows(width, height, bits)
    for header in (12, 16, 40, 52, 56, 64, 108, 124):
        for bits in (1, 4, 8, 16, 24, 32):
            if header == 12 and bits in (16, 32):
                continue
            each = 3 if header == 12 else 4
            count = 1 << bits if bits <= 8 else 0
            palette = b"".join(bytes([i * 7 % 256, i * 13 % 256, 255 - i * 5 % 256, 0][:each]) for i in range(count))
            yield f"header{header}-bits{bits}.bmp", bitmap(header, (width, height), bits, palette, (0, rows(bits)))
            if header >= 40:
                yield f"header{header}-bits{bits}-down.bmp", bitmap(header, (width, -height), bits, palette, (0, rows(bits)))
    masks = {
        16: [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), (0xF00, 0xF0, 0xF)],
        32: [(0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000), (0xFF000000, 0xFF0000, 0xFF00), (0x3FF00000, 0xFFC00, 0x3FF)],
    }
    for bits, listed in masks.items():
        for index, mask in enumerate(listed):
            for header in (40, 52, 56, 108, 124):
                # Alpha is zero: Pillow knows some masks with an alpha only.
                data = (3, rows(bits))
                yield f"masks{bits}-{index}-header{header}.bmp", bitmap(header, (width, height), bits, b"", data, struct.pack("<III", *mask))
    grey = b"".join(bytes([i, i, i, 0]) for i in range(256))
    yield "grey.bmp", bitmap(40, (width, height), 8, grey, (0, rows(8)))
    colours = b"".join(bytes([i * 11 % 256, i * 29 % 256, i * 3 % 256, 0]) for i in range(256))
    runs8 = b"".join(bytes([5, y, 0, 5, 1, 2, 3, 4, 5 + y, 0, 3, 9, 0, 0]) for y in range(height))[:-2] + b"\0\1"
    yield "runs8.bmp", bitmap(40, (width, height), 8, colours, (1, runs8))
    runs4 = b"".join(bytes([5, 0x12, 0, 5, 0x34, 0x56, 0x70, 0, 3, 0x9A, 0, 0]) for _ in range(height))[:-2] + b"\0\1"
    yield "runs4.bmp", bitmap(40, (width, height), 4, colours[:64], (2, runs4))
    yield "runs8-os2.bmp", bitmap(64, (width, height), 8, colours, (1, runs8))
    whole = bitmap(40, (width, height), 24, b"", (0, rows(24)))
    yield "cut.bmp", whole[: len(whole) // 2]
    yield "garbage-behind.bmp", whole + b"more" * 50
    yield "compressed-jpeg.bmp", bitmap(40, (width, height), 24, b"", (4, rows(24)))


def tiffs():
    width, height = 37, 21
    def packed(bits, samples=1, columns=range(width), rows=range(height)):
        out = b""
        for y in rows:
            row = "".join(format(value(x, y, s) % (1 << bits), f"0{bits}b") for x in columns for s in range(samples))
            row += "0" * (-len(row) % 8)
            out += int(row, 2).to_bytes(len(row) // 8, "big")
        return out
    def header(bits, photometric, samples=1):
        return {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]),
                277: (3, [samples]), 278: (4, [height])}
    for name, order in (("little", "<"), ("big", ">")):
        for bits in (1, 2, 4, 8):
            palette = [value(i, 3, s) % 65536 for s in range(3) for i in range(1 << bits)]
            yield f"palette{bits}-{name}.tif", tiff(order, {**header(bits, 3), 320: (3, palette)}, [packed(bits)])
            for photometric in (0, 1):
                yield f"grey{bits}-{photometric}-{name}.tif", tiff(order, header(bits, photometric), [packed(bits)])
        strips = [packed(8, 3, rows=range(y, min(y + 8, height))) for y in range(0, height, 8)]
        yield f"strips-{name}.tif", tiff(order, {**header(8, 2, 3), 278: (4, [8])}, strips)
        planes = [bytes(value(x, y, s) % 256 for y in range(height) for x in range(width)) for s in range(3)]
        yield f"planes-{name}.tif", tiff(order, {**header(8, 2, 3), 284: (3, [2])}, planes)
        tiles = [packed(8, 3, range(x, x + 16), range(y, y + 16)) for y in range(0, height, 16) for x in range(0, width, 16)]
        tiled = {tag: entry for tag, entry in header(8, 2, 3).items() if tag != 278}
        yield f"tiles-{name}.tif", tiff(order, {**tiled, 322: (4, [16]), 323: (4, [16])}, tiles, 324, 325)
        yield f"ground-{name}.tif", tiff(order, {**header(8, 2, 4), 338: (3, [2])}, [packed(8, 4)])
        yield f"unnamed-fourth-{name}.tif", tiff(order, {**header(8, 2, 4), 338: (3, [0])}, [packed(8, 4)])
        yield f"inks-{name}.tif", tiff(order, header(8, 5, 4), [packed(8, 4)])
        wide = b"".join(struct.pack(order + "H", value(x, y, s) % 65536) for y in range(height) for x in range(width) for s in range(3))
        yield f"wide-{name}.tif", tiff(order, header(16, 2, 3), [wide])


def others():
    image = picture(41, 30)
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    modes = {"rgb": image, "rgba": clear, "l": image.convert("L"), "la": clear.convert("LA"), "1": image.convert("1"),
             "cmyk": image.convert("CMYK"), "p": image.quantize(200)}
    for name, mode in modes.items():
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield f"{name}-{compression}.tif", saved(mode, "tiff", compression=compression)
    for compression in ("group3", "group4"):
        yield f"1-{compression}.tif", saved(modes["1"], "tiff", compression=compression)
    for orientation in range(1, 9):
        yield f"turned-{orientation}.tif", saved(image, "tiff", tiffinfo={274: orientation})
    for name in ("rgb", "l"):
        yield f"{name}-jpeg.tif", saved(modes[name], "tiff", compression="jpeg")
    yield "pages.tif", saved(image, "tiff", save_all=True, append_images=[image.rotate(180)])
    yield "big-endian.tif", saved(image, "tiff", big_tiff=True)
    cut = saved(image, "tiff")
    yield "cut.tif", cut[: len(cut) // 2]
    for name in ("rgb", "l", "1"):
        yield f"{name}.pnm", saved(modes[name], "ppm")
    numbers = " ".join(str((x * 7) % 16) for x in range(5 * 4 * 3))
    yield "words.ppm", f"P3\n# a comment\n5 4\n15\n{numbers}\n".encode()
    yield "words.pgm", f"P2 5 4 15\n{numbers[:50]}\n".encode()
    yield "words.pbm", b"P1\n4 2\n1 0 1 0\n0 1 0 1\n"
    yield "few.pgm", b"P5 4 4 100\n" + bytes(range(0, 96, 6))
    yield "cut.ppm", saved(image, "ppm")[:900]
    yield "plain.ico", saved(clear.resize((32, 32)), "ico")
    yield "sizes.ico", saved(clear.resize((64, 64)), "ico", sizes=[(16, 16), (48, 48)])
    yield "bitmap.ico", saved(clear.resize((32, 32)), "ico", bitmap_format="bmp")
    try:
        yield "rgb.qoi", saved(image, "qoi")
        yield "rgba.qoi", saved(clear, "qoi")
    except (KeyError, OSError):
        pass  # This Pillow reads it only.


KINDS = (jpegs, pngs, webps, gifs, bmps, tiffs, others, *jpeg_kinds.ALL, *png_kinds.ALL, *tiff_kinds.ALL, *other_kinds.ALL)


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    with open(folder / "list.jsonl", "w") as listed:
        for name, file, *like in [entry for kind in KINDS for entry in kind()]:
            if not isinstance(file, bytes):
                arguments, source = file
                try:
                    run = subprocess.run(["jpegtran", *arguments, str(folder / source)], capture_output=True, check=True)
                except (OSError, subprocess.CalledProcessError):
                    continue
                file = run.stdout
            (folder / name).write_bytes(file)
            try:
                image = ImageOps.exif_transpose(Image.open(folder / (like[0] if like else name))).convert("RGB")
            except Exception as error:  # Pillow raises nearly anything.
                entry = {"name": name, "refused": repr(error)}
            else:
                (folder / f"{name}.rgb").write_bytes(image.tobytes())
                entry = {"name": name, "width": image.width, "height": image.height}
            print(json.dumps(entry), file=listed)


if __name__ == "__main__":
    main(sys.argv[1])
