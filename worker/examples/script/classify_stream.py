#!/usr/bin/env python3
"""A classifier for the protocol `stream`: EIRS starts it once and asks it about many images.

    [models.default]
    classifier = "script"
    protocol = "stream"
    command = ["python3", "/usr/share/eirs/classify_stream.py"]

One path a line comes in on standard input; one line of JSON an answer goes out on standard output, flushed at once:

    {"path": "...", "label": "cat", "confidence": 0.9}
    {"path": "...", "top": [{"label": "cat", "confidence": 0.9}, {"label": "dog", "confidence": 0.1}]}
    {"path": "...", "error": "this image can never be classified, and why"}
    {"path": "...", "retry": "why it may work later"}

`path` repeats the question; it may be left out, but with it EIRS can tell that an answer is to another image. Lines that
are no such answer are passed over; logs belong on standard error. The end of standard input means: go.

Whatever takes long, such as loading a model, belongs above the loop. It runs while the worker starts; the time-out of
the first image covers what is left of it.

This one tells images apart by their first bytes. Put your own model where `classify` is.
"""

import json
import sys

KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
}


def classify(path):
    """The answer about the image in this file, without its path."""
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, label in KINDS.items():
        if start.startswith(magic):
            return {"label": label, "confidence": 1.0}
    return {"error": "neither JPEG, PNG, GIF, WebP nor BMP"}


def main():
    for line in sys.stdin:
        path = line.rstrip("\n")
        print(json.dumps({"path": path, **classify(path)}), flush=True)


if __name__ == "__main__":
    main()
