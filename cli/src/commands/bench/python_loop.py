"""The loop that everybody writes first: Pillow and onnxruntime, one process for each core, no service around it.

Arguments: MODEL IMAGE_FOLDER PROCESSES ROUNDS. Prints images per second. The preprocessing is that of the service's
defaults: short side to 256/224 of the input, centre crop, x / 127.5 - 1.
"""

import io
import multiprocessing
import os
import sys
import time

import numpy
import onnxruntime
from PIL import Image, ImageOps


def prepare(file, size):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    short = round(size * 256 / 224)
    width, height = image.size
    scale = short / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = numpy.asarray(image.crop((left, top, left + size, top + size)), numpy.float32)
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None]


def work(model, files, rounds, ready, go, done):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    size = entry.shape[-1]
    session.run(None, {entry.name: prepare(files[0], size)})
    ready.wait()
    go.wait()
    for _ in range(rounds):
        for file in files:
            session.run(None, {entry.name: prepare(file, size)})
    done.wait()


def main():
    model, folder, processes, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    names = sorted(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    kinds = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
    files = [open(name, "rb").read() for name in names if name.lower().endswith(kinds)]
    ready, go, done = (multiprocessing.Barrier(processes + 1) for _ in range(3))
    for _ in range(processes):
        multiprocessing.Process(target=work, args=(model, files, rounds, ready, go, done), daemon=True).start()
    ready.wait()
    start = time.perf_counter()
    go.wait()
    done.wait()
    print(processes * rounds * len(files) / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
