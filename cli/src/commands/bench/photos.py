"""Photos of one size, made of those in a folder: crops, enlarged or made smaller, with the JPEG quality that makes them about
of the given size in kilobytes.

Arguments: FOLDER OUT COUNT WIDTH HEIGHT KILOBYTES. With a width of 0, sizes from 500 x 375 to 4000 x 3000 and qualities from
60 to 95 are mixed, one half of them of the smallest size.
"""

import io
import random
import sys
from pathlib import Path

from PIL import Image


def saved(image, quality, subsampling=2):
    out = io.BytesIO()
    image.save(out, "jpeg", quality=quality, subsampling=subsampling)
    return out.getvalue()


def of_size(image, size):
    """The quality is searched by halves."""
    low, high = 20, 98
    best = saved(image, high)
    while low <= high:
        quality = (low + high) // 2
        file = saved(image, quality)
        if abs(len(file) - size) < abs(len(best) - size):
            best = file
        low, high = (quality + 1, high) if len(file) < size else (low, quality - 1)
    return best


def main():
    folder, out, count, width, height, kilobytes = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:7])
    kinds = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    sources = [Image.open(name).convert("RGB") for name in sorted(folder.rglob("*")) if name.suffix.lower() in kinds]
    chance = random.Random(7)
    for index in range(count):
        source = sources[index % len(sources)]
        wide = width or (500 if index % 2 else chance.randint(500, 4000))
        high = height or wide * 3 // 4
        share = chance.uniform(0.4, 1)
        across = int(min(source.width, source.height * wide / high) * share)
        down = across * high // wide
        left, top = chance.randint(0, source.width - across), chance.randint(0, source.height - down)
        image = source.crop((left, top, left + across, top + down)).resize((wide, high), Image.LANCZOS)
        file = of_size(image, kilobytes * 1000) if kilobytes else saved(image, chance.randint(60, 95), chance.choice((0, 1, 2, 2)))
        (out / f"{index:04}.jpg").write_bytes(file)


main()
