#!/usr/bin/env python3
"""Makes pictures with the colour profiles of a folder (NAME.icc) in every format that holds one, and the pixels that
Pillow's ImageCms makes of them in sRGB: `python3 profiles.py FOLDER`.

For each there is a line of JSON in FOLDER/list.jsonl with its name; red, green and blue are in NAME.rgb.
"""

import io
import json
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


def main(folder):
    warnings.simplefilter("ignore")
    srgb = ImageCms.createProfile("sRGB")
    with open(folder / "list.jsonl", "w") as listed:
        for file in sorted(folder.glob("*.icc")):
            profile = file.read_bytes()
            image = colours(67, 50)
            image = image.convert("L") if file.stem.startswith("grey") else image
            pictures = {"": image}
            if image.mode == "RGB":
                clear = image.copy()
                clear.putalpha(Image.linear_gradient("L").resize(image.size))
                pictures["-alpha"] = clear
            for kind, one in pictures.items():
                for ending, options in FORMATS.items():
                    # These hold no alpha, or no grey.
                    if kind and ending == "jpg" or ending in ("webp", "avif") and one.mode == "L":
                        continue
                    name = f"{file.stem}{kind}.{ending}"
                    one.save(folder / name, icc_profile=profile, **options)
                    seen = Image.open(folder / name)
                    seen.load()
                    own = ImageCms.ImageCmsProfile(io.BytesIO(seen.info["icc_profile"]))
                    seen = ImageCms.profileToProfile(seen, own, srgb, outputMode="RGB" if seen.mode == "L" else None).convert("RGB")
                    (folder / f"{name}.rgb").write_bytes(seen.tobytes())
                    print(json.dumps({"name": name, "width": seen.width, "height": seen.height}), file=listed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
