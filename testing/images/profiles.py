#!/usr/bin/env python3
"""Makes pictures with the colour profiles of a folder (NAME.icc) in every format that holds one, and the pixels that
Pillow's ImageCms makes of them in sRGB: `python3 profiles.py FOLDER`.

For each there is a line of JSON in FOLDER/list.jsonl with its name; red, green and blue are in NAME.rgb.
"""

import io
import json
import struct
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageCms

from parts import picture

FORMATS = {"jpg": dict(quality=95), "png": {}, "webp": dict(lossless=True), "tif": {}, "avif": dict(quality=100, subsampling="4:4:4")}


def colours(width, height):
    """Smooth colours, and single pixels of all kinds beside each other."""
    image = picture(width, height)
    for place in range(width * 16):
        number = place * 2654435761
        image.putpixel((place % width, place // width), (number >> 3 & 255, number >> 11 & 255, number >> 19 & 255))
    return image


def by_table(bits, version=2, space=b"CMYK"):
    """The profile of a press or a scanner: inks or colours to Lab, by a table of nine steps for each of them."""
    grid, table, channels = 9, bytearray(), 4 if space == b"CMYK" else 3
    for place in range(grid**channels):
        steps = [place // grid**power % grid / (grid - 1) for power in range(channels)][::-1]
        c, m, y, k = steps if channels == 4 else [(1 - step) ** 1.5 for step in steps] + [0]
        light = (1 - 0.42 * c) * (1 - 0.5 * m) * (1 - 0.1 * y) * (1 - 0.85 * k)
        lab = (4 + 92 * light, (-38 * c + 74 * m - 4 * y) * (1 - k), (-48 * c - 6 * m + 90 * y) * (1 - 0.9 * k))
        if bits == 16:
            # Of version 2: 0xff00 is 100.
            table += struct.pack(">HHH", *(min(65535, max(0, round(one))) for one in
                                           (lab[0] * 652.8, (lab[1] + 128) * 256, (lab[2] + 128) * 256)))
        else:
            table += bytes(min(255, max(0, round(one))) for one in (lab[0] * 2.55, lab[1] + 128, lab[2] + 128))
    head = (b"mft2" if bits == 16 else b"mft1") + bytes(4) + bytes([channels, 3, grid, 0])
    head += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    if bits == 16:
        # Presses print more than they are asked to.
        curves = [struct.pack(">5H", *(round(65535 * (step / 4) ** power) for step in range(5))) for power in (0.8, 0.85, 0.9, 1)[:channels]]
        to_lab = head + struct.pack(">HH", 5, 2) + b"".join(curves) + bytes(table) + struct.pack(">6H", *[0, 65535] * 3)
    else:
        to_lab = head + bytes(range(256)) * channels + bytes(table) + bytes(range(256)) * 3
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78), b"cprt": b"text" + bytes(4) + b"none\0",
            b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061), b"A2B0": to_lab}
    body, entries, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        entries += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    start = struct.pack(">I", at + len(body)) + bytes(4) + struct.pack(">I", version << 24) + (b"prtr" if channels == 4 else b"scnr") + space + b"Lab "
    start += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return start + bytes(128 - len(start)) + struct.pack(">I", len(tags)) + entries + body


def printed(width, height):
    """All kinds of mixtures of inks."""
    image = Image.new("CMYK", (width, height))
    for place in range(width * height):
        x, y = place % width, place // width
        number = place * 2654435761
        image.putpixel((x, y), (x * 255 // (width - 1), y * 255 // (height - 1), number >> 9 & 255, max(0, (number >> 19 & 511) - 256)))
    return image


def main(folder):
    warnings.simplefilter("ignore")
    for bits in 8, 16:
        (folder / f"table-{bits}.icc").write_bytes(by_table(bits, space=b"RGB "))
        for version in 2, 4:
            (folder / f"inks-{bits}-{version}.icc").write_bytes(by_table(bits, version))
    srgb = ImageCms.createProfile("sRGB")
    with open(folder / "list.jsonl", "w") as listed:
        for file in sorted(folder.glob("*.icc")):
            profile = file.read_bytes()
            image = colours(67, 50)
            image = image.convert("L") if file.stem.startswith("grey") else image
            image = printed(67, 50) if profile[16:20] == b"CMYK" else image
            pictures = {"": image}
            if image.mode == "RGB":
                clear = image.copy()
                clear.putalpha(Image.linear_gradient("L").resize(image.size))
                pictures["-alpha"] = clear
            for kind, one in pictures.items():
                for ending, options in FORMATS.items():
                    # These hold no alpha, no grey or no inks.
                    if kind and ending == "jpg" or ending in ("webp", "avif") and one.mode == "L":
                        continue
                    if one.mode == "CMYK" and ending not in ("jpg", "tif"):
                        continue
                    name = f"{file.stem}{kind}.{ending}"
                    one.save(folder / name, icc_profile=profile, **options)
                    seen = Image.open(folder / name)
                    seen.load()
                    own = ImageCms.ImageCmsProfile(io.BytesIO(seen.info["icc_profile"]))
                    seen = ImageCms.profileToProfile(seen, own, srgb, outputMode="RGB" if seen.mode in ("L", "CMYK") else None).convert("RGB")
                    (folder / f"{name}.rgb").write_bytes(seen.tobytes())
                    print(json.dumps({"name": name, "width": seen.width, "height": seen.height}), file=listed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
