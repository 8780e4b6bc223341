"""More PNG files: every kind of pixel in both orders, filters, chunks that say something of colours, damage."""

import struct
import zlib

from parts import chunk, picture, saved

WIDTH, HEIGHT = 21, 19
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]
# Column, row and steps of the seven passes.
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
START = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND", b"")


def number(x, y, s, bits):
    return (x * 2654435761 + y * 40503 + s * 977 + (x ^ y) * 77) % (1 << bits)


def row(y, columns, colour, bits):
    text = "".join(format(number(x, y, s, bits), f"0{bits}b") for x in columns for s in range(SAMPLES[colour]))
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def predicted(a, b, c):
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


def filtered(lines, each, kind):
    """Rows after a filter; kind 5 is another one for each row."""
    out, above = b"", bytes(len(lines[0])) if lines else b""
    for index, line in enumerate(lines):
        way = index % 5 if kind == 5 else kind
        left = bytes(each) + line[:-each] if len(line) > each else bytes(len(line))
        corner = bytes(each) + above[:-each] if len(line) > each else bytes(len(line))
        guess = {
            0: lambda i: 0, 1: lambda i: left[i], 2: lambda i: above[i], 3: lambda i: (left[i] + above[i]) // 2,
            4: lambda i: predicted(left[i], above[i], corner[i]),
        }[way]
        out += bytes([way]) + bytes((line[i] - guess(i)) % 256 for i in range(len(line)))
        above = line
    return out


def pixels(colour, bits, interlaced=False, kind=0):
    each = max(1, SAMPLES[colour] * bits // 8)
    if not interlaced:
        return filtered([row(y, range(WIDTH), colour, bits) for y in range(HEIGHT)], each, kind)
    return b"".join(
        filtered([row(y, range(x0, WIDTH, dx), colour, bits) for y in range(y0, HEIGHT, dy)], each, kind)
        for x0, y0, dx, dy in PASSES
    )


def head(colour, bits, interlaced=False):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, int(interlaced)))


def palette(bits, entries=None):
    count = entries or 1 << bits
    return chunk(b"PLTE", b"".join(bytes([i * 37 % 256, i * 91 % 256, 255 - i * 13 % 256]) for i in range(count)))


def file(colour, bits, before=b"", interlaced=False, kind=0, parts=1, entries=None):
    data = zlib.compress(pixels(colour, bits, interlaced, kind))
    step = -(-len(data) // parts)
    body = b"".join(chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step))
    first = palette(bits, entries) if colour == 3 else b""
    return START + head(colour, bits, interlaced) + first + before + body + END


def kinds():
    for colour, bits in KINDS:
        for interlaced in (False, True):
            for kind in (0, 4, 5):
                name = f"kind{colour}-{bits}-{'adam7' if interlaced else 'rows'}-filter{kind}"
                yield f"{name}.png", file(colour, bits, interlaced=interlaced, kind=kind)
        ground = {0: struct.pack(">H", number(3, 4, 0, bits)), 2: struct.pack(">HHH", *(number(3, 4, s, bits) for s in range(3))), 3: bytes([0, 128])}
        if colour in ground:
            yield f"clear{colour}-{bits}.png", file(colour, bits, before=chunk(b"tRNS", ground[colour]))
            yield f"clear{colour}-{bits}-adam7.png", file(colour, bits, before=chunk(b"tRNS", ground[colour]), interlaced=True)
    for entries in (1, 3, 200):
        yield f"palette-of-{entries}.png", file(3, 8, entries=entries)


def colours():
    said = {
        "gamma": chunk(b"gAMA", struct.pack(">I", 100000)),
        "gamma-usual": chunk(b"gAMA", struct.pack(">I", 45455)),
        "srgb": chunk(b"sRGB", b"\0"),
        "whites": chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        "bits": chunk(b"sBIT", b"\5\6\5"),
        "ground": chunk(b"bKGD", struct.pack(">HHH", 200, 10, 10)),
        "code-points": chunk(b"cICP", b"\x0c\x0d\0\1"),
        "profile-broken": chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile")),
        "time": chunk(b"tIME", bytes(7)),
        "unknown": chunk(b"teSt", b"anything"),
    }
    for name, extra in said.items():
        yield f"says-{name}.png", file(2, 8, before=extra)
        yield f"says-{name}-16.png", file(2, 16, before=extra)
    yield "many-parts.png", file(2, 8, parts=40)
    data = zlib.compress(pixels(2, 8))
    empty = chunk(b"IDAT", b"")
    yield "empty-parts.png", START + head(2, 8) + empty + chunk(b"IDAT", data[:50]) + empty + chunk(b"IDAT", data[50:]) + END
    yield "stored.png", START + head(2, 8) + chunk(b"IDAT", zlib.compress(pixels(2, 8), 0)) + END
    more = zlib.compress(pixels(2, 8) + bytes(500))
    yield "too-many-rows.png", START + head(2, 8) + chunk(b"IDAT", more) + END
    fewer = zlib.compress(pixels(2, 8)[:-200])
    yield "too-few-rows.png", START + head(2, 8) + chunk(b"IDAT", fewer) + END


def damage():
    whole = file(2, 8)
    place = whole.index(b"IDAT")
    end = len(whole) - 12
    for name, changed in {
        "garbage-behind": whole + b"more" * 20,
        "no-end": whole[:end],
        "wrong-sum": whole[: end - 1] + bytes([whole[end - 1] ^ 1]) + whole[end:],
        "wrong-adler": START + head(2, 8) + chunk(b"IDAT", zlib.compress(pixels(2, 8))[:-1] + b"\0") + END,
        "flipped": START + head(2, 8) + chunk(b"IDAT", bytes(b ^ (0xFF if i == 40 else 0) for i, b in enumerate(zlib.compress(pixels(2, 8))))) + END,
        "cut-head": whole[:20],
        "cut-sum": whole[: end - 2],
        "no-pixels": START + head(2, 8) + END,
        "no-palette": START + head(3, 8) + whole[place - 4 :],
        "bits-3": START + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 3, 0, 0, 0, 0)) + whole[place - 4 :],
        "colour-1": START + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 1, 0, 0, 0)) + whole[place - 4 :],
        "width-0": START + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, HEIGHT, 8, 2, 0, 0, 0)) + whole[place - 4 :],
        "critical-unknown": START + head(2, 8) + chunk(b"TeSt", b"x") + whole[place - 4 :],
    }.items():
        yield f"damaged-{name}.png", changed


def animations():
    image = picture(30, 22)
    other = image.rotate(180)
    yield "animated-small-second.png", saved(image, "png", save_all=True, append_images=[other], blend=1, disposal=1)
    yield "animated-default.png", saved(image, "png", save_all=True, append_images=[other, image], default_image=True)


ALL = (kinds, colours, damage, animations)
