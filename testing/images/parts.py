"""What the variants are put together of: pictures, metadata, and files written number by number."""

import io
import struct
import zlib

from PIL import Image

from jpeg_writer import Layout, segment

JFIF = Layout().segments
ADOBE = lambda transform: segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))
XMP = b"http://ns.adobe.com/xap/1.0/\x00"


def picture(width, height):
    """Smooth colours with a hard edge, and nothing that looks the same turned or mirrored."""
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            u, v = x / max(1, width - 1), y / max(1, height - 1)
            edge = 255 if 3 * x + y > 2 * width else 40
            image.putpixel((x, y), (int(255 * u), int(255 * v * (1 - u / 2)), edge))
    return image


def exif(orientation, order="II"):
    if order == "II":
        return b"II\x2a\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation]) + bytes(7)
    return b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes([orientation]) + bytes(6)


def xmp(orientation, form="attribute"):
    inner = {
        "attribute": f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>',
        "element": f"<rdf:Description><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>",
    }[form]
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inner}</rdf:RDF></x:xmpmeta>'
    return text.encode()


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def planes(image):
    return [list(band.tobytes()) for band in image.split()]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def lzw(indices, bits):
    """The compressed data of a GIF frame, with a clear code before each index: long, but simple."""
    text = "".join(format(code, f"0{bits + 1}b")[::-1] for index in indices for code in (1 << bits, index))
    text += format((1 << bits) + 1, f"0{bits + 1}b")[::-1]
    text += "0" * (-len(text) % 8)
    data = bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))
    return bytes([bits]) + b"".join(bytes([len(part)]) + part for part in (data[i : i + 255] for i in range(0, len(data), 255))) + b"\0"


def value(x, y, s=0):
    """A number for each place and sample, unlike its neighbours."""
    return (x * 2654435761 + y * 40503 + s * 977) >> 3


def bitmap_rows(width, height, bits):
    """The rows of a BMP, each padded to four bytes."""
    out = b""
    for y in range(height):
        row = "".join(format(value(x, y) % (1 << bits), f"0{bits}b") for x in range(width))
        row += "0" * (-len(row) % 32)
        out += int(row, 2).to_bytes(len(row) // 8, "big")
    return out


def bitmap(header, size, bits, palette, data, after=b""):
    """A BMP file with the header of this number of bytes."""
    width, height = size
    if header == 12:
        body = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        compression = data[0]
        body = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data[1]), 2835, 2835, 0, 0)[:header]
        body += bytes(max(0, header - len(body)))
        if len(after) and header >= 52:
            body, after = body[:40] + after + body[40 + len(after) :], b""
    start = 14 + len(body) + len(after) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data[1]), 0, 0, start) + body + after + palette + data[1]


def tiff(order, entries, blocks, offsets=273, counts=279):
    """A TIFF file of these numbers by their tags, and blocks of pixels (strips, or tiles with the tags of these)."""
    start = 8
    places = [start + sum(map(len, blocks[:index])) for index in range(len(blocks))]
    entries = {**entries, offsets: (4, places), counts: (4, [len(block) for block in blocks])}
    directory = start + sum(map(len, blocks)) + sum(map(len, blocks)) % 2
    after = directory + 2 + 12 * len(entries) + 4
    listed, extra = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        body = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(body) > 4:
            body, extra = struct.pack(order + "I", after + len(extra)), extra + body
        listed += struct.pack(order + "HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    data = b"".join(blocks)
    data += b"\0" * (len(data) % 2)
    mark = b"II\x2a\0" if order == "<" else b"MM\0\x2a"
    return mark + struct.pack(order + "I", directory) + data + struct.pack(order + "H", len(entries)) + listed + bytes(4) + extra
