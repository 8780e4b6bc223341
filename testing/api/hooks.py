"""What schemathesis cannot read in a description: what an image is, which results there are, and how lines of JSON are parsed."""

import hashlib
import itertools
import json
from pathlib import Path

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.transport.serialization import Binary

SAMPLES = Path(__file__).parent / "../../models/shapes/samples"
JPEGS = [file.read_bytes() for file in sorted(SAMPLES.glob("*.jpg"))]
# What follows the end of a JPEG means nothing, and makes it an image that was never seen before.
NEW = st.builds(bytes.__add__, st.sampled_from(JPEGS), st.binary(min_size=1, max_size=8))
IMAGES = st.sampled_from(JPEGS) | NEW
CUT_SHORT = IMAGES.map(lambda image: image[: len(image) // 2])
NO_IMAGES = st.sampled_from([b"%PDF-1.7", b"<svg/>", b"hello", b"RIFF\x01\x02\x03\x04WAVE", b"\xff\xd8"])
# Mostly such as can be classified: the others are soon told apart.
BYTES = st.one_of(IMAGES, IMAGES, IMAGES, CUT_SHORT, NO_IMAGES, st.binary(min_size=1))

schemathesis.openapi.format("binary", BYTES)
# The type that a client names is not looked at: any image may come as any of them.
schemathesis.openapi.media_type(
    "image/jpeg", BYTES, aliases=["image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/vnd.microsoft.icon",
    "image/x-portable-anymap", "image/qoi", "application/octet-stream"]
)


@schemathesis.hook.apply_to(method="GET", path="/results/{id}")
def before_generate_path_parameters(_context, strategy):
    """Images that were uploaded, or may be soon, among the ids."""
    known = st.sampled_from([{"id": hashlib.sha256(image).hexdigest()} for image in JPEGS])
    return strategy | known


@schemathesis.hook
def filter_case(_context, case):
    """Leaves out forms that are others on the wire, or in which not all is wrong."""
    if not isinstance(case.body, dict):
        return True
    # A control character in a field's name breaks the form that schemathesis makes of it.
    if not all(name.isprintable() for name in case.body):
        return False
    # What is no array is sent like an array of one, and an empty one like no field.
    fields = [case.body[name] for name in ("myfile", "file", "image", "inputFile") if name in case.body]
    if not all(isinstance(images, list) and images for images in fields):
        return False
    images = [image for images in fields for image in images]
    if images and all(isinstance(image, (bytes, Binary)) for image in images):
        # One field of several is enough, and a form without another of them is not wrong.
        return case.meta is None or not case.meta.is_negative_at(ParameterLocation.BODY)
    # Several images are answered 200, with a line for each that says what is wrong with it.
    return len(images) < 2


ACCEPTED = itertools.cycle(["*/*", "application/json"])


@schemathesis.hook.apply_to(path="/upload")
def before_call(_context, case, _kwargs):
    """OpenAPI has no word for what `Accept` changes."""
    case.headers["Accept"] = next(ACCEPTED)


@schemathesis.deserializer("application/x-ndjson")
def lines(_context, response):
    return [json.loads(line) for line in response.content.splitlines()]
