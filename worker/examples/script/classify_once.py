#!/usr/bin/env python3
"""A classifier for the protocol `once`: EIRS runs it for each image, with the path as the last argument.

    [models.default]
    classifier = "script"
    protocol = "once"
    command = ["python3", "/usr/share/eirs/classify_once.py"]

It prints `name,label` and exits with 0. Anything else it has to say goes to standard error, which EIRS logs when the
script fails; other lines on standard output are passed over. Exit code 75 means: try again later (a backend is away);
any other but 0 is a failure, which is tried again, too.

This one tells images apart by their first bytes. Put your own model where `classify` is.
"""

import os
import sys

KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
}


def classify(path):
    """The label of the image in this file."""
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, label in KINDS.items():
        if start.startswith(magic):
            return label
    return "unknown"


def main():
    path = sys.argv[-1]
    print(f"{os.path.basename(path)},{classify(path)}")


if __name__ == "__main__":
    main()
