"""Draws the pictures that the shapes model is trained and tested on.

Every picture is a real JPEG of one of twelve shapes on a plain or textured
background. It depends on nothing but its (seed, index): the same two numbers
always give the same picture, and `index % 12` is the shape it shows.

    python draw.py --seed 4 --count 12 --out samples

writes pictures 0..11 of seed 4 as `circle_0.jpg`, `ring_0.jpg`, ... together
with a `labels.csv` that names the right answer for each of them.
"""

import argparse
import csv
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

LABELS = [
    "circle", "ring", "square", "triangle", "star", "cross",
    "heart", "crescent", "arrow", "wave", "spiral", "bolt",
]

# (width, height) of the pictures; two thirds of them are 256x256.
SIZES = [(256, 256)] * 6 + [(320, 240), (240, 320), (300, 200)]
VISIBLE = 64 / 73  # the central part of the short side that the service looks at
OVERSAMPLING = 2  # shapes are drawn larger, then shrunk, for smooth edges


# --- Shapes in unit coordinates: centre (0, 0), radius 1, y pointing down -------

def regular_polygon(corners, radius=1.0, turn=0.0):
    angles = -math.pi / 2 + turn + 2 * math.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def circle(radius=1.0, shift=0.0):
    return regular_polygon(72, radius) + [shift, 0.0]


def star():
    tips = regular_polygon(5)
    dents = regular_polygon(5, radius=0.42, turn=math.pi / 5)
    return np.stack([tips, dents], axis=1).reshape(10, 2)


def cross():
    w = 0.32  # half the thickness of an arm
    return np.array([(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w),
                     (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)])


def heart():
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    y = 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)
    return np.stack([16 * np.sin(t) ** 3, y], axis=1) / 17


def arrow():
    return np.array([(-1, -0.25), (0.2, -0.25), (0.2, -0.7), (1, 0),
                     (0.2, 0.7), (0.2, 0.25), (-1, 0.25)])


def bolt():
    return np.array([(0.2, -1), (-0.6, 0.15), (-0.05, 0.15),
                     (-0.25, 1), (0.6, -0.25), (0.05, -0.25)])


def wave(cycles):
    x = np.linspace(-0.95, 0.95, 120)
    return np.stack([x, 0.42 * np.sin(cycles * math.pi * x)], axis=1)


def spiral(turns):
    radius = np.linspace(0.03, 0.93, 160)
    angle = 2 * math.pi * turns * radius
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


# Shapes with one closed outline: drawn filled, or now and then as a line only.
POLYGONS = {
    "square": regular_polygon(4, radius=1.1, turn=math.pi / 4),
    "triangle": regular_polygon(3),
    "star": star(),
    "cross": cross(),
    "heart": heart(),
    "arrow": arrow(),
    "bolt": bolt(),
}


# --- From a shape to a mask ----------------------------------------------------

def random_placement(rng, label, size):
    """Returns the radius in pixels and a function: unit points -> pixel points."""
    short_side = min(size)
    reach = short_side * VISIBLE / 2  # from the centre to the edge of what is seen
    radius = rng.uniform(0.22, 0.40) * short_side
    slack = 0.8 * max(reach - radius, 0.0)
    centre = np.array(size) / 2 + rng.uniform(-slack, slack, 2)

    # A heart stands more or less upright; every other shape may point anywhere.
    angle = rng.normal(0, 0.35) if label == "heart" else rng.uniform(0, 2 * math.pi)
    rotate = np.array([[math.cos(angle), -math.sin(angle)],
                       [math.sin(angle), math.cos(angle)]])
    mirror = rng.choice([-1.0, 1.0])
    squash = rng.uniform(0.82, 1.0)
    matrix = radius * rotate @ np.diag([mirror, squash])
    return radius, lambda points: points @ matrix.T + centre


def shape_mask(rng, label, size):
    """An image that is 255 where the shape is and 0 everywhere else."""
    radius, place = random_placement(rng, label, size)
    canvas = Image.new("L", [side * OVERSAMPLING for side in size], 0)
    pen = ImageDraw.Draw(canvas)

    def pixels(points):
        return [tuple(p) for p in place(points) * OVERSAMPLING]

    def fill(points, value=255):
        pen.polygon(pixels(points), fill=value)

    def stroke(points, width):
        width = max(1, round(width * radius * OVERSAMPLING))
        pen.line(pixels(points), fill=255, width=width, joint="curve")

    if label == "circle":
        fill(circle())
    elif label == "ring":
        fill(circle())
        fill(circle(rng.uniform(0.45, 0.72)), 0)
    elif label == "crescent":
        fill(circle())
        fill(circle(0.85, shift=rng.uniform(0.40, 0.60)), 0)
    elif label == "wave":
        stroke(wave(cycles=rng.uniform(1.6, 2.4)), rng.uniform(0.20, 0.30))
    elif label == "spiral":
        stroke(spiral(turns=rng.uniform(2.0, 2.8)), rng.uniform(0.12, 0.16))
    elif rng.random() < 0.2:
        corners = POLYGONS[label]  # the first two again close the line neatly
        stroke(np.concatenate([corners, corners[:2]]), rng.uniform(0.14, 0.22))
    else:
        fill(POLYGONS[label])

    mask = canvas.resize(size, Image.Resampling.BOX)
    if rng.random() < 0.3:
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
    return mask


# --- Colours and backgrounds ---------------------------------------------------

def random_colours(rng):
    """Two background colours near each other and a colour that stands out."""
    if rng.random() < 0.15:  # ink on paper or chalk on a blackboard
        paper = np.full(3, rng.choice([5.0, 250.0]))
        return paper, paper, 255 - paper
    first = rng.uniform(0, 255, 3)
    second = first + 0.4 * (rng.uniform(0, 255, 3) - first)
    while True:
        ink = rng.uniform(0, 255, 3)
        if min(np.abs(ink - first).sum(), np.abs(ink - second).sum()) > 180:
            return first, second, ink


def smooth_noise(rng, size, cells):
    """Clouds: a few random values, blown up to the whole picture."""
    values = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(values.resize(size, Image.Resampling.BICUBIC)) / 255


def background_pattern(rng, size):
    """How much of the second colour (0 to 1) each pixel of the background has."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / min(size)
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    pattern = rng.choice(["plain", "gradient", "stripes", "clouds", "checks", "grain"])
    if pattern == "plain":
        return np.zeros((height, width))
    if pattern == "gradient":
        return (along - along.min()) / np.ptp(along)
    if pattern == "stripes":
        return 0.35 + 0.35 * np.sin(along * rng.uniform(8, 50))
    if pattern == "checks":
        columns, rows = rng.integers(3, 9, 2)
        return 0.5 * ((np.floor(x * columns) + np.floor(y * rows)) % 2)
    cells = 8 if pattern == "clouds" else int(rng.integers(40, 90))
    return smooth_noise(rng, size, cells)


# --- The picture ---------------------------------------------------------------

def picture(seed, index):
    """Returns (JPEG bytes, number of the label) of one picture."""
    rng = np.random.default_rng([seed, index])
    label = index % len(LABELS)
    size = SIZES[rng.integers(len(SIZES))]
    first, second, ink = random_colours(rng)

    ground = first + (second - first) * background_pattern(rng, size)[..., None]
    paint = np.broadcast_to(ink, ground.shape)
    if rng.random() < 0.3:  # a cloudy instead of an even coat of paint
        paint = ink + 60 * (smooth_noise(rng, size, cells=6)[..., None] - 0.5)

    mask = np.asarray(shape_mask(rng, LABELS[label], size))[..., None] / 255
    pixels = ground * (1 - mask) + paint * mask

    for _ in range(rng.integers(0, 5)):  # a few specks of dirt
        side = rng.integers(3, 12)
        left, top = rng.integers(0, size[0] - side), rng.integers(0, size[1] - side)
        pixels[top:top + side, left:left + side] = rng.uniform(0, 255, 3)

    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels = pixels + noise * rng.uniform(0, 16)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.8)))

    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=int(rng.integers(50, 96)))
    return jpeg.getvalue(), label


def main():
    parser = argparse.ArgumentParser(description="Draw shape pictures into a folder.")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--count", type=int, default=len(LABELS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "labels.csv", "w", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["Input", "Result"])
        for index in range(options.count):
            jpeg, label = picture(options.seed, index)
            name = f"{LABELS[label]}_{index // len(LABELS)}.jpg"
            (options.out / name).write_bytes(jpeg)
            rows.writerow([name, LABELS[label]])


if __name__ == "__main__":
    main()
