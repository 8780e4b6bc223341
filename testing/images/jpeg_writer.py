"""Writes JPEG files as no usual program does: any sampling, any order of scans, with or without Huffman tables.

Baseline only, and slow: meant for pictures of some thousand pixels.
"""

import math
from dataclasses import dataclass, field

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
COSINES = [[math.cos((2 * x + 1) * u * math.pi / 16) * (0.5 if u else math.sqrt(1 / 8)) for x in range(8)] for u in range(8)]

# The tables of annex K.3 of the standard: for luminance and for colour.
DC = [bytes.fromhex("00010501010101010100000000000000"), bytes.fromhex("00030101010101010101010000000000")]
AC = [bytes.fromhex("0002010303020403050504040000017d"), bytes.fromhex("00020102040403040705040400010277")]
DC_SYMBOLS = bytes(range(12))
AC_SYMBOLS = [
    bytes.fromhex(
        "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
        "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9"
        "aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
    bytes.fromhex(
        "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
        "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8"
        "a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
]


def codes(counts, symbols):
    """Code and length of each symbol."""
    table, code, place = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            table[symbols[place]] = (code, length)
            code, place = code + 1, place + 1
        code <<= 1
    return table


DC_CODES = [codes(DC[i], DC_SYMBOLS) for i in range(2)]
AC_CODES = [codes(AC[i], AC_SYMBOLS[i]) for i in range(2)]


class Bits:
    def __init__(self):
        self.text = []

    def put(self, value, length):
        if length:
            self.text.append(format(value, f"0{length}b"))

    def bytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        data = int(text, 2).to_bytes(len(text) // 8, "big") if text else b""
        return data.replace(b"\xff", b"\xff\x00")


@dataclass
class Layout:
    """How a file is written."""

    # Columns and rows of blocks in a unit, for each component.
    sampling: list = field(default_factory=lambda: [(2, 2), (1, 1), (1, 1)])
    # Components of each scan.
    scans: list = field(default_factory=lambda: [[0, 1, 2]])
    # Units between restart markers.
    restart: int = 0
    tables: bool = True
    step: int = 4
    ids: bytes = b"\x01\x02\x03\x04"
    # Segments before the frame.
    segments: bytes = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    frame: int = 0xC0


def shrunk(plane, width, height, across, down, most):
    """A component at its own resolution: the means of what each sample covers; its columns and rows."""
    own = (-(-width * across // most[0]), -(-height * down // most[1]))
    fx, fy = most[0] // across, most[1] // down
    at = lambda x, y: plane[min(y, height - 1) * width + min(x, width - 1)]
    mean = lambda x, y: sum(at(x * fx + i, y * fy + j) for j in range(fy) for i in range(fx)) / (fx * fy)
    return [[mean(x, y) for x in range(own[0])] for y in range(own[1])]


def coefficients(rows, column, row, step):
    """The quantised block at this column and row of blocks, in the order of the file."""
    line = lambda y: rows[min(y, len(rows) - 1)]
    block = [[line(row * 8 + y)[min(column * 8 + x, len(rows[0]) - 1)] - 128 for x in range(8)] for y in range(8)]
    half = [[sum(COSINES[u][x] * block[y][x] for x in range(8)) for u in range(8)] for y in range(8)]
    full = [sum(COSINES[v][y] * half[y][u] for y in range(8)) for v in range(8) for u in range(8)]
    return [round(full[place] / step) for place in ZIGZAG]


def write_block(bits, block, last, which):
    difference = block[0] - last
    size = abs(difference).bit_length()
    bits.put(*DC_CODES[which][size])
    bits.put(difference if difference > 0 else difference + (1 << size) - 1, size)
    run = 0
    for value in block[1:]:
        if value == 0:
            run += 1
            continue
        while run > 15:
            bits.put(*AC_CODES[which][0xF0])
            run -= 16
        size = abs(value).bit_length()
        bits.put(*AC_CODES[which][run << 4 | size])
        bits.put(value if value > 0 else value + (1 << size) - 1, size)
        run = 0
    if run:
        bits.put(*AC_CODES[which][0])


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def write(planes, width, height, layout):
    """The file with these components, each a list of width x height samples."""
    count = len(planes)
    sampling = layout.sampling[:count]
    most = (max(s[0] for s in sampling), max(s[1] for s in sampling))
    rows = [shrunk(plane, width, height, *own, most) for plane, own in zip(planes, sampling)]
    out = b"\xff\xd8" + layout.segments + segment(0xDB, b"\x00" + bytes([layout.step] * 64))
    listed = b"".join(bytes([layout.ids[i], sampling[i][0] << 4 | sampling[i][1], 0]) for i in range(count))
    out += segment(layout.frame, b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([count]) + listed)
    if layout.tables:
        for which in range(2):
            out += segment(0xC4, bytes([which]) + DC[which] + DC_SYMBOLS)
            out += segment(0xC4, bytes([0x10 | which]) + AC[which] + AC_SYMBOLS[which])
    if layout.restart:
        out += segment(0xDD, layout.restart.to_bytes(2, "big"))
    for scan in layout.scans:
        parts = b"".join(bytes([layout.ids[i], 0x11 if i in (1, 2) else 0]) for i in scan)
        out += segment(0xDA, bytes([len(scan)]) + parts + b"\x00\x3f\x00")
        units = []
        if len(scan) == 1:
            plane = rows[scan[0]]
            for row in range(-(-len(plane) // 8)):
                units += [[(scan[0], column, row)] for column in range(-(-len(plane[0]) // 8))]
        else:
            for row in range(-(-height // (8 * most[1]))):
                for column in range(-(-width // (8 * most[0]))):
                    units.append([
                        (i, column * sampling[i][0] + x, row * sampling[i][1] + y)
                        for i in scan
                        for y in range(sampling[i][1])
                        for x in range(sampling[i][0])
                    ])
        bits, last = Bits(), [0] * count
        for index, unit in enumerate(units):
            if layout.restart and index and index % layout.restart == 0:
                out += bits.bytes() + bytes([0xFF, 0xD0 + (index // layout.restart - 1) % 8])
                bits, last = Bits(), [0] * count
            for component, column, row in unit:
                block = coefficients(rows[component], column, row, layout.step)
                write_block(bits, block, last[component], 1 if component in (1, 2) else 0)
                last[component] = block[0]
        out += bits.bytes()
    return out + b"\xff\xd9"
