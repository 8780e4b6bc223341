"""What a model says of photos that Pillow has read, as torchvision would prepare them: for each file its place in the order of
names, the first class and its probability.

Arguments: MODEL FOLDER. The preprocessing is that of the service's defaults: short side to 256/224 of the input, centre crop,
x / 127.5 - 1.
"""

import os
import sys

import numpy
import onnxruntime
from PIL import Image, ImageOps


def prepare(name, size):
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    short = round(size * 256 / 224)
    side = lambda length: short * length // min(image.size)
    image = image.resize((side(image.width), side(image.height)), Image.BILINEAR)
    left, top = (round((length - size) / 2) for length in image.size)
    pixels = numpy.asarray(image.crop((left, top, left + size, top + size)), numpy.float32)
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None]


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    for name in sorted(os.listdir(sys.argv[2])):
        scores = session.run(None, {entry.name: prepare(os.path.join(sys.argv[2], name), entry.shape[-1])})[0].ravel()
        shares = numpy.exp(scores - scores.max())
        print(scores.argmax(), shares.max() / shares.sum())


main()
