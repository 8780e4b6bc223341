"""More of the smaller formats: GIF, BMP, WebP, ICO, PNM and QOI."""

import struct

from PIL import Image

from parts import bitmap, bitmap_rows, exif, lzw, picture, saved, value, xmp


def gif(canvas, frames, palette, background=0, before=b"", version=b"GIF89a"):
    flags = 0x80 | (len(palette) // 3).bit_length() - 2 if palette else 0
    return version + struct.pack("<HHBBB", *canvas, flags, background, 0) + palette + before + b"".join(frames) + b"\x3b"


def frame(at, size, indices, bits=2, flags=0, palette=b"", control=None):
    out = b"\x21\xf9\x04" + struct.pack("<BHBB", *control, 0) if control else b""
    return out + b"\x2c" + struct.pack("<HHHHB", *at, *size, flags) + palette + lzw(indices, bits)


def gifs():
    palette = bytes([200, 10, 10, 10, 200, 10, 10, 10, 200, 240, 240, 240])
    indices = [(x * 3 + y) % 4 for y in range(9) for x in range(11)]
    plain = lambda **more: frame((0, 0), (11, 9), indices, **more)
    black = frame((0, 0), (11, 9), [0] * 99)
    for disposal in range(4):
        for clear in (0, 1):
            control = (disposal << 2 | clear, 10, 1)
            yield f"disposal-{disposal}-{clear}.gif", gif((11, 9), [plain(control=control), black], palette)
            small = frame((2, 1), (5, 4), indices[:20], control=control)
            yield f"small-{disposal}-{clear}.gif", gif((11, 9), [small, plain()], palette, background=3)
    order = [*range(0, 9, 8), *range(4, 9, 8), *range(2, 9, 4), *range(1, 9, 2)]
    mixed = [indices[y * 11 + x] for y in order for x in range(11)]
    yield "interlaced-own.gif", gif((11, 9), [frame((0, 0), (11, 9), mixed, flags=0x40)], palette)
    yield "interlaced-small.gif", gif((15, 12), [frame((2, 2), (11, 9), mixed, flags=0x40, control=(1, 0, 2))], palette)
    yield "no-palette.gif", gif((11, 9), [plain()], b"")
    yield "old.gif", gif((11, 9), [plain()], palette, version=b"GIF87a")
    comment = b"\x21\xfe\x05hello\0"
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    yield "extensions.gif", gif((11, 9), [plain(control=(0, 0, 0))], palette, before=loop + comment)
    yield "text-extension.gif", gif((11, 9), [plain()], palette, before=b"\x21\x01\x0c" + bytes(12) + b"\x02hi\0")
    yield "canvas-of-nothing.gif", gif((0, 0), [plain()], palette)
    yield "frame-of-nothing.gif", gif((11, 9), [frame((0, 0), (0, 0), [])], palette)
    yield "no-frame.gif", gif((11, 9), [], palette)
    yield "clear-outside-palette.gif", gif((11, 9), [plain(control=(1, 0, 200))], palette)
    yield "background-outside.gif", gif((20, 20), [plain()], palette, background=99)
    yield "index-outside.gif", gif((11, 9), [frame((0, 0), (11, 9), [i * 2 for i in indices], bits=3)], palette)
    yield "too-few.gif", gif((11, 9), [frame((0, 0), (11, 9), indices[:60])], palette)
    yield "too-many.gif", gif((11, 9), [frame((0, 0), (11, 9), indices * 2)], palette)
    yield "local-and-global.gif", gif((11, 9), [plain(flags=0x81, palette=palette[::-1])], palette)
    yield "beyond.gif", gif((8, 8), [frame((5, 6), (11, 9), indices)], palette)
    whole = gif((11, 9), [plain()], palette)
    for end in (9, 15, 27, 60, -1):
        yield f"cut-{end}.gif", whole[:end]
    for colours in (2, 3, 17, 256):
        yield f"colours-{colours}.gif", saved(picture(41, 30).quantize(colours), "gif")


def bmps():
    width, height = 15, 9
    rows = lambda bits: bitmap_rows(width, height, bits)
    for header in (40, 52, 56, 108, 124):
        for name, masks in {
            "bgra": (0xFF0000, 0xFF00, 0xFF, 0xFF000000), "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF), "bgrx": (0xFF0000, 0xFF00, 0xFF, 0),
        }.items():
            count = 4 if header >= 56 else 3
            yield f"alpha-{name}-{header}.bmp", bitmap(header, (width, height), 32, b"", (3, rows(32)), struct.pack("<4I", *masks)[: 4 * count])
        yield f"alpha-4444-{header}.bmp", bitmap(header, (width, height), 16, b"", (3, rows(16)), struct.pack("<3I", 0xF00, 0xF0, 0xF))
        yield f"alpha-1555-{header}.bmp", bitmap(header, (width, height), 16, b"", (3, rows(16)), struct.pack("<3I", 0x7C00, 0x3E0, 0x1F))
    colours = b"".join(bytes([i * 11 % 256, i * 29 % 256, i * 3 % 256, 0]) for i in range(256))
    end = b"\0\1"
    full = lambda count: b"".join(bytes([15, 16 + y, 0, 0]) for y in range(count))
    for name, runs in {
        "jump": b"\4\7\0\2\3\2\5\x09\0\0\2\1" + end,
        "jump-whole": b"\4\7\0\2\3\2\4\x09\4\5\0\0" + full(6) + end,
        "list-whole": b"\0\3\1\2\3\0\x0c\x08\0\0\0\5\1\2\3\4\5\0\x0a\7\0\0\0\4\6\7\x08\x09\x0b\3\0\0" + full(6) + end,
        "too-long-whole": b"\xff\x11\0\0" + full(8) + end,
        "jump-far": b"\4\7\0\2\xff\xff\5\x09" + end,
        "too-long-run": b"\xff\x11\0\0\3\x07" + end,
        "list-odd": b"\0\3\1\2\3\0\0\5\1\2\3\4\5\0\0\0\0\4\6\7\x08\x09" + end,
        "early-end": b"\5\x0a" + end,
        "no-end": b"".join(bytes([15, y, 0, 0]) for y in range(height)),
        "only-end": end,
        "rows-too-many": b"".join(bytes([15, y, 0, 0]) for y in range(height + 4)) + end,
        # Pillow writes what is beyond a row into the next one.
        "outside-list": b"\x0c\7\0\6\1\2\3\4\5\6\0\0" + full(8) + end,
        "outside-jump": b"\4\7\0\2\x63\1\3\x09\0\0" + full(7) + end,
        "run-to-the-edge": b"".join(bytes([15, y]) for y in range(height)) + end,
    }.items():
        yield f"runs8-{name}.bmp", bitmap(40, (width, height), 8, colours, (1, runs))
        yield f"runs4-{name}.bmp", bitmap(40, (width, height), 4, colours[:64], (2, runs))
        yield f"runs8-{name}-v5.bmp", bitmap(124, (width, height), 8, colours, (1, runs))
        yield f"runs8-{name}-down.bmp", bitmap(40, (width, -height), 8, colours, (1, runs))
    for count in (2, 5, 100, 255, 256):
        data = bitmap(40, (width, height), 8, colours[: 4 * count], (0, rows(8)))
        yield f"few-colours-{count}.bmp", data[:46] + struct.pack("<I", count) + data[50:]
    data = bitmap(40, (width, height), 24, b"", (0, rows(24)))
    # Pixels that begin within the table of colours.
    for bits in (4, 8):
        inside = bitmap(40, (width, height), bits, colours[: 4 << bits], (0, rows(bits)))
        yield f"pixels-in-colours-{bits}.bmp", inside[:10] + struct.pack("<I", 62) + inside[14:]
    yield "gap.bmp", data[:10] + struct.pack("<I", 54 + 20) + data[14:54] + bytes(20) + data[54:]
    yield "offset-of-nothing.bmp", data[:10] + bytes(4) + data[14:]
    yield "size-of-nothing.bmp", data[:2] + bytes(4) + data[6:]
    yield "two-planes.bmp", data[:26] + b"\2\0" + data[28:]
    yield "bits-2.bmp", bitmap(40, (width, height), 2, colours[:16], (0, rows(2)))
    yield "bits-64.bmp", bitmap(40, (width, height), 64, b"", (0, rows(64)))
    yield "negative-width.bmp", bitmap(40, (-width, height), 24, b"", (0, rows(24)))
    yield "colours-beside-true.bmp", bitmap(40, (width, height), 24, colours[:64], (0, rows(24)))
    profile = bitmap(124, (width, height), 24, b"", (0, rows(24)))
    yield "profile.bmp", profile[:70] + b"DEBM" + profile[74:] + b"no profile"
    for name, image in {"1": "1", "l": "L", "p": "P", "rgb": "RGB", "rgba": "RGBA"}.items():
        yield f"own-{name}.bmp", saved(picture(41, 30).convert(image), "bmp")


def webps():
    image = picture(42, 30)
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    yield "lossy-alpha.webp", saved(clear, "webp", quality=90)
    yield "lossy-alpha-few.webp", saved(clear, "webp", quality=90, alpha_quality=20)
    yield "lossy-odd.webp", saved(picture(41, 29), "webp", quality=90)
    yield "lossy-one.webp", saved(picture(1, 1), "webp", quality=90)
    yield "near-lossless.webp", saved(image, "webp", lossless=True, quality=30)
    for colours in (2, 4, 16, 200):
        yield f"lossless-{colours}.webp", saved(image.quantize(colours).convert("RGB"), "webp", lossless=True)
    yield "lossless-grey.webp", saved(image.convert("L"), "webp", lossless=True)
    yield "lossless-clear.webp", saved(clear, "webp", lossless=True)
    # Flags of a first frame that is nearly transparent: to be blended or not.
    faint = picture(42, 30)
    faint.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda level: level // 8))
    moved = saved(faint, "webp", save_all=True, append_images=[clear], lossless=True, exact=True)
    flags = moved.index(b"ANMF") + 23
    for flag in range(4):
        yield f"lossless-animated-flags-{flag}.webp", moved[:flags] + bytes([flag]) + moved[flags + 1 :]
    small = Image.new("RGBA", image.size)
    small.paste(clear.crop((0, 0, 20, 14)), (6, 4))
    for lossless in (True, False):
        kind = "lossless" if lossless else "lossy"
        options = dict(save_all=True, lossless=lossless, quality=90)
        yield f"{kind}-animated-small.webp", saved(small, "webp", append_images=[clear], **options)
        yield f"{kind}-animated-ground.webp", saved(small, "webp", append_images=[clear], background=(200, 10, 10, 255), **options)
        yield f"{kind}-animated-solid.webp", saved(image, "webp", append_images=[image.rotate(180)], **options)
    for orientation in (1, 6):
        yield f"exif-bare-{orientation}.webp", saved(image, "webp", lossless=True, exif=exif(orientation))
        yield f"both-{orientation}.webp", saved(image, "webp", lossless=True, exif=exif(orientation), xmp=xmp(3))
        yield f"exif-animated-{orientation}.webp", saved(image, "webp", lossless=True, exif=exif(orientation), save_all=True, append_images=[image])
        yield f"profile-{orientation}.webp", saved(image, "webp", lossless=True, exif=exif(orientation), icc_profile=b"no profile")
    whole = saved(image, "webp", lossless=True)
    yield "garbage-behind.webp", whole + b"more" * 10
    for part in (0.2, 0.5, 0.95):
        yield f"cut-{part}.webp", whole[: int(len(whole) * part)]


def icon(entries):
    """An icon of these pictures: width, height, bits, data."""
    at = 6 + 16 * len(entries)
    head, body = struct.pack("<HHH", 0, 1, len(entries)), b""
    for width, height, bits, data in entries:
        head += struct.pack("<BBBBHHII", width % 256, height % 256, 0, 0, 1, bits, len(data), at + len(body))
        body += data
    return head + body


def icon_bitmap(width, height, bits, mask=True):
    palette = b"".join(bytes([i * 11 % 256, i * 29 % 256, i * 3 % 256, 0]) for i in range(1 << bits)) if bits <= 8 else b""
    row = lambda y: "".join(format(value(x, y) % (1 << bits), f"0{bits}b") for x in range(width))
    padded = lambda text: int(text + "0" * (-len(text) % 32), 2).to_bytes((len(text) + 31) // 32 * 4, "big")
    data = b"".join(padded(row(y)) for y in range(height))
    data += b"".join(padded("".join(str((x + y) % 2) for x in range(width))) for y in range(height)) if mask else b""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, bits, 0, 0, 0, 0, 0, 0) + palette + data


def icons():
    for bits in (1, 4, 8, 24, 32):
        for mask in (True, False):
            yield f"icon-{bits}-{mask}.ico", icon([(16, 16, bits, icon_bitmap(16, 16, bits, mask))])
    yield "icon-wide.ico", icon([(24, 10, 24, icon_bitmap(24, 10, 24))])
    yield "icon-several.ico", icon([(16, 16, 32, icon_bitmap(16, 16, 32)), (32, 32, 8, icon_bitmap(32, 32, 8)), (32, 32, 32, icon_bitmap(32, 32, 32))])
    png = saved(picture(256, 256), "png")
    yield "icon-256.ico", icon([(256, 256, 32, png), (16, 16, 32, icon_bitmap(16, 16, 32))])
    yield "icon-palette-png.ico", icon([(32, 32, 8, saved(picture(32, 32).quantize(20), "png"))])
    yield "icon-other-size.ico", icon([(32, 32, 32, saved(picture(40, 30), "png"))])
    yield "icon-none.ico", icon([])


def pnms():
    width, height = 7, 5
    numbers = [value(x, y, s) for y in range(height) for x in range(width) for s in range(4)]
    for most in (1, 7, 100, 255, 256, 1023, 65535):
        wide = ">H" if most > 255 else ">B"
        packed = lambda count: b"".join(struct.pack(wide, n % (most + 1)) for n in numbers[: width * height * count])
        yield f"most-{most}.ppm", f"P6 {width} {height} {most}\n".encode() + packed(3)
        yield f"most-{most}.pgm", f"P5\n{width}\n{height}\n{most}\n".encode() + packed(1)
        words = " ".join(str(n % (most + 1)) for n in numbers[: width * height * 3])
        yield f"words-{most}.ppm", f"P3 {width} {height} {most}\n{words}\n".encode()
        words = "\n".join(str(n % (most + 1)) for n in numbers[: width * height])
        yield f"words-{most}.pgm", f"P2 {width} {height} {most}\n{words}".encode()
    yield "comments.ppm", b"P6 # one\n# two\n7 # three\n5\n# four\n255\n" + bytes(n % 256 for n in numbers[:105])
    yield "tight.pbm", b"P1\n4 2\n10100101\n"
    yield "bits.pbm", b"P4 11 3\n" + bytes([0xA5, 0x60, 0x3C, 0x20, 0xFF, 0xE0])
    yield "above-most.pgm", b"P5 4 1 100\n" + bytes([0, 100, 150, 255])
    yield "behind.ppm", b"P6 1 1 255\n\1\2\3more"


ALL = (gifs, bmps, webps, icons, pnms)
