"""More TIFF files: tiles, planes, predictors, wide samples, inks, JPEG within, orientation, several pages."""

import io
import struct
import zlib

from PIL import Image, TiffImagePlugin

from parts import exif, picture, saved, tiff, xmp

WIDTH, HEIGHT = 37, 21
COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma", "webp"]


def value(x, y, s=0):
    return (x * 2654435761 + y * 40503 + s * 977 + (x ^ y) * 77) >> 3


def header(bits, photometric, samples=1, **more):
    tags = {256: (4, [WIDTH]), 257: (4, [HEIGHT]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]), 277: (3, [samples]), 278: (4, [HEIGHT])}
    return {**tags, **{int(tag[1:]): entry for tag, entry in more.items()}}


def packed(bits, samples=1, order="<", columns=range(WIDTH), rows=range(HEIGHT), planes=None):
    planes = range(samples) if planes is None else planes
    if bits in (16, 32):
        kind = {16: "H", 32: "I"}[bits]
        return b"".join(struct.pack(order + kind, value(x, y, s) % (1 << bits)) for y in rows for x in columns for s in planes)
    out = b""
    for y in rows:
        row = "".join(format(value(x, y, s) % (1 << bits), f"0{bits}b") for x in columns for s in planes)
        row += "0" * (-len(row) % 8)
        out += int(row, 2).to_bytes(len(row) // 8, "big")
    return out


def difference(data, samples, width, order="<", bits=8):
    """Predictor 2."""
    each = bits // 8
    kind = {1: "B", 2: "H"}[each]
    out = b""
    for at in range(0, len(data), width * samples * each):
        numbers = list(struct.unpack(f"{order}{width * samples}{kind}", data[at : at + width * samples * each]))
        less = [(n - (numbers[i - samples] if i >= samples else 0)) % (1 << bits) for i, n in enumerate(numbers)]
        out += struct.pack(f"{order}{len(less)}{kind}", *less)
    return out


def numbers():
    for order, name in (("<", "little"), (">", "big")):
        for samples, photometric in ((1, 0), (1, 1), (3, 2), (4, 2), (2, 1), (4, 5)):
            extra = {"t338": (3, [2])} if (samples, photometric) in ((4, 2), (2, 1)) else {}
            for bits in (8, 16):
                base = header(bits, photometric, samples, **extra)
                kind = f"samples{samples}-photometric{photometric}-bits{bits}-{name}"
                yield f"{kind}.tif", tiff(order, base, [packed(bits, samples, order)])
                data = difference(packed(bits, samples, order), samples, WIDTH, order, bits)
                both = {**base, 259: (3, [8]), 317: (3, [2])}
                yield f"{kind}-predictor.tif", tiff(order, both, [zlib.compress(data)])
                planes = [packed(bits, samples, order, planes=[s]) for s in range(samples)]
                # Pillow reads wide planes, and inverted ones, otherwise than the same numbers one after the other.
                yield f"{kind}-planes.tif", tiff(order, {**base, 284: (3, [2])}, planes), f"{kind}.tif"
                tiles = [packed(bits, samples, order, range(x, x + 16), range(y, y + 16)) for y in range(0, HEIGHT, 16) for x in range(0, WIDTH, 16)]
                tiled = {tag: entry for tag, entry in base.items() if tag != 278}
                yield f"{kind}-tiles.tif", tiff(order, {**tiled, 322: (4, [16]), 323: (4, [16]), 259: (3, [8])}, [zlib.compress(t) for t in tiles], 324, 325)
                # Every plane in tiles of its own.
                apart = [
                    packed(bits, samples, order, range(x, x + 16), range(y, y + 16), [s])
                    for s in range(samples) for y in range(0, HEIGHT, 16) for x in range(0, WIDTH, 16)
                ]
                yield f"{kind}-planes-tiles.tif", tiff(order, {**tiled, 322: (4, [16]), 323: (4, [16]), 284: (3, [2])}, apart, 324, 325), f"{kind}.tif"
                # A predictor that libtiff has for LZW and deflate only.
                yield f"{kind}-no-predictor.tif", tiff(order, {**base, 317: (3, [2])}, [packed(bits, samples, order)]), f"{kind}.tif"
        # Photoshop writes a fourth number that is no alpha, with a predictor.
        for samples, extra in ((4, [0]), (5, [0, 0]), (5, [2, 0]), (5, [1, 0])):
            named = {**header(8, 2, samples, t338=(3, extra)), 259: (3, [8])}
            kind = f"extra{samples}-{extra[0]}-{name}"
            strips = [packed(8, samples, rows=range(y, min(y + 4, HEIGHT))) for y in range(0, HEIGHT, 4)]
            less = [zlib.compress(difference(strip, samples, WIDTH)) for strip in strips]
            yield f"{kind}-predictor.tif", tiff(order, {**named, 278: (4, [4]), 317: (3, [2])}, less)
            yield f"{kind}-strips.tif", tiff(order, {**named, 278: (4, [4])}, [zlib.compress(strip) for strip in strips])
        again = tiff(order, header(8, 2, 3), [packed(8, 3)])
        first = struct.unpack(order + "I", again[4:8])[0]
        link = first + 2 + 12 * struct.unpack(order + "H", again[first : first + 2])[0]
        yield f"next-is-first-{name}.tif", again[:link] + struct.pack(order + "I", first) + again[link + 4 :]
        for alpha in (0, 1, 2):
            yield f"alpha{alpha}-{name}.tif", tiff(order, header(8, 2, 4, t338=(3, [alpha])), [packed(8, 4)])
            yield f"grey-alpha{alpha}-{name}.tif", tiff(order, header(8, 1, 2, t338=(3, [alpha])), [packed(8, 2)])
        yield f"five-{name}.tif", tiff(order, header(8, 2, 5, t338=(3, [0, 0])), [packed(8, 5)])
        yield f"inks-alpha-{name}.tif", tiff(order, header(8, 5, 5, t338=(3, [0])), [packed(8, 5)])
        yield f"signed-{name}.tif", tiff(order, header(8, 1, 1, t339=(3, [2])), [packed(8)])
        yield f"signed16-{name}.tif", tiff(order, header(16, 1, 1, t339=(3, [2])), [packed(16, order=order)])
        yield f"whole32-{name}.tif", tiff(order, header(32, 1, 1, t339=(3, [1])), [packed(32, order=order)])
        floats = b"".join(struct.pack(order + "f", value(x, y) % 300 - 10.5) for y in range(HEIGHT) for x in range(WIDTH))
        yield f"float-{name}.tif", tiff(order, header(32, 1, 1, t339=(3, [3])), [floats])
        colours = b"".join(struct.pack(order + "f", value(x, y, s) % 100 / 100) for y in range(HEIGHT) for x in range(WIDTH) for s in range(3))
        yield f"float-rgb-{name}.tif", tiff(order, header(32, 2, 3, t339=(3, [3] * 3)), [colours])
        yield f"bits12-{name}.tif", tiff(order, header(12, 1), [packed(12)])
        yield f"ycbcr-{name}.tif", tiff(order, header(8, 6, 3, t530=(3, [1, 1])), [packed(8, 3)])
        yield f"ycbcr-sampled-{name}.tif", tiff(order, header(8, 6, 3, t530=(3, [2, 2])), [packed(8, 3)])
        yield f"lab-{name}.tif", tiff(order, header(8, 8, 3), [packed(8, 3)])
        yield f"mask-{name}.tif", tiff(order, header(1, 4), [packed(1)])
        yield f"mixed-bits-{name}.tif", tiff(order, {**header(8, 2, 3), 258: (3, [5, 6, 5])}, [packed(16, 1, order)])
        yield f"lowest-first-{name}.tif", tiff(order, header(1, 1, t266=(3, [2])), [packed(1)])
        palette = [value(i, 3, s) % 65536 for s in range(3) for i in range(256)]
        yield f"palette-narrow-{name}.tif", tiff(order, header(8, 3, t320=(3, [c % 256 for c in palette])), [packed(8)])
        yield f"palette-alpha-{name}.tif", tiff(order, header(8, 3, 2, t320=(3, palette), t338=(3, [2])), [packed(8, 2)])
        yield f"palette-tiles-{name}.tif", tiff(order, {**{t: e for t, e in header(8, 3, t320=(3, palette)).items() if t != 278}, 322: (4, [16]), 323: (4, [16])},
            [packed(8, 1, order, range(x, x + 16), range(y, y + 16)) for y in range(0, HEIGHT, 16) for x in range(0, WIDTH, 16)], 324, 325)
        for photometric in (0, 1):
            # What is left out has a default.
            bare = {tag: entry for tag, entry in header(1, photometric).items() if tag not in (258, 259, 277, 278)}
            yield f"bare-{photometric}-{name}.tif", tiff(order, bare, [packed(1)])


def lzw(data):
    """The codes of LZW as in TIFF: the highest bit first, wider ones one code earlier than in GIF."""
    out, width, table, known = "", 9, {bytes([one]): one for one in range(256)}, b""
    out += format(256, "09b")
    for one in data:
        if known + bytes([one]) in table:
            known += bytes([one])
            continue
        out += format(table[known], f"0{width}b")
        table[known + bytes([one])] = len(table) + 2
        known = bytes([one])
        width += len(table) + 2 == 1 << width
    out += format(table[known], f"0{width}b")
    width += len(table) + 3 == 1 << width
    out += format(257, f"0{width}b")
    out += "0" * (-len(out) % 8)
    return int(out, 2).to_bytes(len(out) // 8, "big")


def lzw_tiles():
    """Tiles that end in an even background, so that few codes stand for many rows."""
    for order, name in (("<", "little"), (">", "big")):
        for bits, samples, photometric in ((1, 1, 1), (8, 1, 1), (8, 1, 0), (8, 3, 2), (16, 3, 2)):
            for side in (16, 32):
                for even in (0, 200):
                    base = {tag: entry for tag, entry in header(bits, photometric, samples).items() if tag != 278}
                    base |= {259: (3, [5]), 322: (4, [side]), 323: (4, [side])}
                    each = -(-side * bits * samples // 8)
                    tiles = [
                        packed(bits, samples, order, range(x, x + side), range(y, y + 3)) + bytes([even]) * (each * (side - 3))
                        for y in range(0, HEIGHT, side) for x in range(0, WIDTH, side)
                    ]
                    kind = f"lzw-tiles-{bits}-{samples}-{photometric}-{side}-{even}-{name}"
                    yield f"{kind}.tif", tiff(order, base, [lzw(tile) for tile in tiles], 324, 325)
                    if bits == 8:
                        less = [lzw(difference(tile, samples, side)) for tile in tiles]
                        yield f"{kind}-predictor.tif", tiff(order, {**base, 317: (3, [2])}, less, 324, 325)
                        apart = [tile[plane::samples] for plane in range(samples) for tile in tiles]
                        yield f"{kind}-planes.tif", tiff(order, {**base, 284: (3, [2])}, [lzw(one) for one in apart], 324, 325), f"{kind}.tif"
                    if side == 16:
                        # A tile whose end is missing.
                        cut = [lzw(tile) for tile in tiles[:-1]] + [lzw(tiles[-1])[:-3]]
                        yield f"{kind}-cut.tif", tiff(order, base, cut, 324, 325)


def jpeg_tiles():
    """Tiles of JPEG that are larger than the picture."""
    image = picture(64, 64)
    for width, height in ((50, 30), (64, 20), (20, 64), (100, 70)):
        count = -(-width // 64) * -(-height // 64)
        tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [8] * 3), 259: (3, [7]), 262: (3, [6]), 277: (3, [3]), 322: (4, [64]), 323: (4, [64]), 530: (3, [1, 1])}
        yield f"jpeg-tiles-{width}-{height}.tif", tiff("<", tags, [saved(image, "jpeg", quality=90, subsampling=0)] * count, 324, 325)


def compressions():
    image = picture(101, 75)
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    modes = {"rgb": image, "rgba": clear, "l": image.convert("L"), "cmyk": image.convert("CMYK"), "p": image.quantize(60), "1": image.convert("1"),
             "la": clear.convert("LA"), "ycbcr": image.convert("YCbCr"), "lab": image.convert("LAB")}
    for name, mode in modes.items():
        for compression in COMPRESSIONS:
            try:
                yield f"page-{name}-{compression}.tif", saved(mode, "tiff", compression=compression)
                tags = TiffImagePlugin.ImageFileDirectory_v2()
                tags[278] = 7
                yield f"strips-{name}-{compression}.tif", saved(mode, "tiff", compression=compression, tiffinfo=tags)
            except Exception:
                continue  # A pair that this Pillow does not write.
    for predictor in (1, 2):
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            yield f"predictor-{predictor}-{compression}.tif", saved(image, "tiff", compression=compression, tiffinfo={317: predictor})
    for order in (1, 2):
        for compression in ("group4", "tiff_lzw", "packbits"):
            for name in ("1", "l", "rgb"):
                if compression == "group4" and name != "1":
                    continue
                yield f"fill{order}-{name}-{compression}.tif", saved(modes[name], "tiff", compression=compression, tiffinfo={266: order})
    for zero in (0, 1):
        yield f"fill2-fax-{zero}.tif", saved(modes["1"], "tiff", compression="group4", tiffinfo={266: 2, 262: zero})
    wide = Image.frombytes("I;16", (20, 10), b"".join(struct.pack("<H", i * 300 % 65536) for i in range(200)))
    yield "wide-grey.tif", saved(wide, "tiff", compression="tiff_lzw")
    yield "float-lzw.tif", saved(image.convert("F"), "tiff", compression="tiff_lzw")
    yield "whole-lzw.tif", saved(image.convert("I"), "tiff", compression="tiff_lzw")


def turned():
    image = picture(41, 30)
    for orientation in range(1, 9):
        yield f"turned-lzw-{orientation}.tif", saved(image, "tiff", tiffinfo={274: orientation}, compression="tiff_lzw")
    for orientation in (1, 3, 6):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = xmp(orientation)
        tags.tagtype[700] = 1
        yield f"turned-xmp-{orientation}.tif", saved(image, "tiff", tiffinfo=tags)
        tags[274] = 8
        yield f"turned-both-{orientation}.tif", saved(image, "tiff", tiffinfo=tags)
        yield f"turned-big-{orientation}.tif", saved(image, "tiff", tiffinfo={274: orientation}, big_tiff=True)
    for orientation in (0, 9):
        yield f"turned-{orientation}.tif", tiff("<", header(8, 2, 3, t274=(3, [orientation])), [packed(8, 3)])
    tiles = [packed(8, 3, "<", range(x, x + 16), range(y, y + 16)) for y in range(0, HEIGHT, 16) for x in range(0, WIDTH, 16)]
    tiled = {tag: entry for tag, entry in header(8, 2, 3).items() if tag != 278}
    yield "turned-tiles.tif", tiff("<", {**tiled, 322: (4, [16]), 323: (4, [16]), 274: (3, [6])}, tiles, 324, 325)


def pages():
    image = picture(41, 30)
    for compression in ("raw", "tiff_lzw", "jpeg"):
        yield f"pages-{compression}.tif", saved(image, "tiff", save_all=True, compression=compression, append_images=[image.rotate(180), image.resize((9, 9))])
    yield "pages-gray-first.tif", saved(image.convert("L"), "tiff", save_all=True, append_images=[image])
    yield "thumbnail-first.tif", saved(image.resize((9, 7)), "tiff", save_all=True, append_images=[image], tiffinfo={254: 1})
    whole = saved(image, "tiff")
    for name, changed in {"cut-30": whole[:30], "cut-most": whole[:-40], "no-directory": whole[:8], "directory-outside": whole[:4] + b"\xff\xff\xff\x7f" + whole[8:],
                          "mark": whole[:2] + b"\x2b\0" + whole[4:], "garbage-behind": whole + b"more" * 9}.items():
        yield f"damaged-{name}.tif", changed
    yield "directory-twice.tif", saved(image, "tiff", tiffinfo={37510: b"text"})


ALL = (numbers, lzw_tiles, jpeg_tiles, compressions, turned, pages)
