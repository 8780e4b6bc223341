"""Measures the shapes model on pictures that it was not trained on.

    python evaluate.py

draws fresh test pictures, reads them the way the service reads an upload (JPEG
bytes in, resize, centre crop, normalise), asks onnxruntime and prints the
figures as Markdown tables. The exit code is 1 when the model is not good
enough: below 97 % overall, below 93 % for one label, or wrong about a sample.
"""

import argparse
import csv
import io
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

import draw

HERE = Path(__file__).resolve().parent
MODEL = HERE / "shapes.onnx"
SAMPLES = HERE / "samples"
FIGURES = HERE / "figures.json"

# Every purpose has a seed of its own, so no picture ever serves two of them.
TRAINING_SEED, VALIDATION_SEED, TEST_SEED, SAMPLES_SEED = 1, 2, 3, 4

TEST_PICTURES = 6_000
LOWEST_TOP1 = 0.97
LOWEST_PER_LABEL = 0.93

INPUT_SIDE = 64
SHORT_SIDE = round(INPUT_SIDE * 256 / 224)  # 73


# --- Preprocessing: what the service does when no settings are given -----------
# (except for its shortcut of decoding large JPEGs at a fraction of their size)

def input_pixels(jpeg):
    """JPEG bytes -> the 64x64 RGB pixels that the network gets to see."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))).convert("RGB")
    short = min(image.size)
    width, height = (SHORT_SIDE * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - INPUT_SIDE) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + INPUT_SIDE, top + INPUT_SIDE)))


def normalise(pixels):
    """uint8 [N, 64, 64, 3] -> float32 [N, 3, 64, 64] between -1 and 1."""
    scaled = pixels.astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


# --- Pictures in bulk ----------------------------------------------------------

def drawn_input(seed_and_index):
    jpeg, label = draw.picture(*seed_and_index)
    return input_pixels(jpeg), label


def drawn_inputs(seed, count, processes):
    """Draws pictures 0..count-1 of a seed; returns (uint8 pixels, labels)."""
    jobs = [(seed, index) for index in range(count)]
    with multiprocessing.Pool(processes) as pool:
        inputs = pool.map(drawn_input, jobs, chunksize=100)
    return np.stack([pixels for pixels, _ in inputs]), np.array([n for _, n in inputs])


# --- Measuring -----------------------------------------------------------------

def open_model(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"])


def predict(session, pixels, batch=100):
    """The number of the most likely label for each picture."""
    logits = [session.run(["logits"], {"input": normalise(pixels[i:i + batch])})[0]
              for i in range(0, len(pixels), batch)]
    return np.concatenate(logits).argmax(axis=1)


def milliseconds_per_image(session, pixels, runs=1000):
    """Median time of one inference with one thread and a batch of one."""
    image = normalise(pixels[:1])
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(["logits"], {"input": image})
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def wrong_samples(session):
    """Samples that the model gets wrong, as 'file: answer' lines."""
    with open(SAMPLES / "labels.csv", newline="") as table:
        expected = {row["Input"]: row["Result"] for row in csv.DictReader(table)}
    pixels = np.stack([input_pixels((SAMPLES / name).read_bytes()) for name in expected])
    answers = [draw.LABELS[number] for number in predict(session, pixels)]
    return [f"{name}: {answer}" for (name, label), answer
            in zip(expected.items(), answers) if answer != label]


def measure(count, processes):
    session = open_model(MODEL)
    pixels, labels = drawn_inputs(TEST_SEED, count, processes)
    answers = predict(session, pixels)
    right = answers == labels
    confusions = np.zeros((len(draw.LABELS), len(draw.LABELS)), int)
    np.add.at(confusions, (labels, answers), 1)
    return {
        "test_pictures": count,
        "top1": round(float(right.mean()), 4),
        "per_label": {name: round(float(right[labels == number].mean()), 4)
                      for number, name in enumerate(draw.LABELS)},
        "most_confused": most_confused(confusions),
        "model_bytes": MODEL.stat().st_size,
        "milliseconds_per_image": round(milliseconds_per_image(session, pixels), 2),
        "wrong_samples": wrong_samples(session),
    }


def most_confused(confusions, count=3):
    """The most frequent mistakes, as 'label taken for label: times' lines."""
    mistakes = confusions - np.diag(np.diag(confusions))
    lines = []
    for flat in np.argsort(-mistakes, axis=None, kind="stable")[:count]:
        label, answer = np.unravel_index(flat, mistakes.shape)
        lines.append(f"{draw.LABELS[label]} taken for {draw.LABELS[answer]}: "
                     f"{mistakes[label, answer]}")
    return lines


# --- Reporting -----------------------------------------------------------------

def print_tables(figures):
    print("| Figure | Value |\n|---|---|")
    print(f"| Fresh test pictures | {figures['test_pictures']} |")
    print(f"| Top-1 | {figures['top1']:.2%} |")
    print(f"| Lowest label | {min(figures['per_label'].values()):.2%} |")
    print(f"| File size | {figures['model_bytes']} bytes |")
    print(f"| One image, one thread | {figures['milliseconds_per_image']} ms |")
    print("\n| Label | Right |\n|---|---|")
    for name, share in figures["per_label"].items():
        print(f"| {name} | {share:.2%} |")
    print("\nMost frequent mistakes: " + "; ".join(figures["most_confused"]))
    print("Wrong samples: " + ("; ".join(figures["wrong_samples"]) or "none"))


def good_enough(figures):
    return (figures["top1"] >= LOWEST_TOP1
            and min(figures["per_label"].values()) >= LOWEST_PER_LABEL
            and not figures["wrong_samples"])


def main():
    parser = argparse.ArgumentParser(description="Measure shapes.onnx.")
    parser.add_argument("--pictures", type=int, default=TEST_PICTURES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="also write figures.json")
    options = parser.parse_args()

    figures = measure(options.pictures, options.processes)
    print_tables(figures)
    if options.write:
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    if not good_enough(figures):
        sys.exit("The model is NOT good enough.")
    print("The model is good enough.")


if __name__ == "__main__":
    main()
