#!/usr/bin/env python3
"""Makes the pictures in this folder that the `image` crate cannot write: `python3 make.py`, with Pillow 12 or newer, pillow-heif
and `cjpeg` of libjpeg-turbo.

Each shows the same four quarters, 48 x 32 pixels: red and green above, blue and white below.
"""

import subprocess
from pathlib import Path

import pillow_heif
from PIL import Image

HERE = Path(__file__).parent
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (250, 250, 250)


def picture():
    quarters = Image.new("RGB", (48, 32))
    for index, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        quarters.paste(colour, (index % 2 * 24, index // 2 * 16, index % 2 * 24 + 24, index // 2 * 16 + 16))
    return quarters


def main():
    upright = picture()
    upright.convert("CMYK").save(HERE / "cmyk.jpg", quality=92)
    upright.save(HERE / "progressive.jpg", quality=92, progressive=True)
    upright.save(HERE / "subsampled.jpg", quality=92, subsampling="4:2:0")
    upright.save(HERE / "lossy.webp", quality=92)
    upright.quantize(8).save(HERE / "palette.png")
    upright.quantize(8).save(HERE / "palette.bmp")
    # The second frame is black: only the first one counts.
    black = Image.new("RGB", upright.size)
    upright.quantize(8).save(HERE / "animated.gif", save_all=True, append_images=[black], duration=100)
    upright.save(HERE / "animated.webp", save_all=True, append_images=[black], duration=100, lossless=True)
    # A phone that was held on its side: the picture lies, and EXIF says so.
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(HERE / "orientation-6.webp", lossless=True, exif=exif)
    lying.save(HERE / "orientation-6.jpg", quality=92, exif=exif)
    # Turned by the property `irot`.
    lying.save(HERE / "orientation-6.avif", quality=92, exif=exif)
    # By XMP alone, as for Pillow.
    turned = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    lying.save(HERE / "xmp-6.avif", quality=92, xmp=turned)
    pillow_heif.register_heif_opener()
    upright.save(HERE / "photo.heic", quality=92)
    # Stored lying or in a mirror, with the properties `irot` and `imir` that turn it back: pillow-heif writes them for EXIF
    # that it is given as bytes.
    turns = Image.Transpose
    stored = {2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
              6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270}
    for orientation, turn in stored.items():
        exif[0x0112] = orientation
        upright.transpose(turn).save(HERE / f"turned-{orientation}.heic", quality=92, exif=exif.tobytes())
    clear = upright.copy()
    clear.putalpha(200)
    clear.save(HERE / "alpha.heic", quality=92)
    clear.putalpha(128)
    half = Image.new("L", (32, 16))
    half.paste(255, (16, 0, 32, 16))
    half.save(HERE / "grey-limited.avif", range="limited", subsampling="4:0:0", quality=100)
    clear.save(HERE / "premultiplied.avif", quality=95, alpha_premultiplied=True)
    # Baseline, but each component (or the first, and then the others together) in a scan of its own; sides that are no
    # multiple of a unit, and restart markers.
    odd = HERE / "odd.ppm"
    upright.resize((53, 37), Image.Resampling.NEAREST).save(odd)
    for name, sampling, scans, restart in [
        ("420", "2x2", "0; 1; 2;", "0"),
        ("440", "1x2", "0; 1; 2;", "1B"),
        ("411", "4x1", "0; 1 2;", "2"),
    ]:
        script = HERE / "scans.txt"
        script.write_text(scans)
        options = ["-quality", "92", "-sample", sampling, "-scans", script, "-restart", restart]
        subprocess.run(["cjpeg", *options, "-outfile", HERE / f"separate-scans-{name}.jpg", odd], check=True)
        script.unlink()
    odd.unlink()


if __name__ == "__main__":
    main()
