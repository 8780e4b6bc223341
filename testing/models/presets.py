#!/usr/bin/env python3
"""What libraries make of an image before their models see it, to hold the presets and filters of EIRS to.

    pip install -r requirements.txt
    python presets.py --write                      # worker/tests/presets.json, which the tests read: a few numbers of each case
    python presets.py --compare EIRS PHOTO...      # whole tensors, through `EIRS model check`; prints the largest difference
"""
import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import cv2
import keras
import numpy as np
import timm.data
import torch
import torchvision.models
import transformers
from opennsfw2._image import preprocess_image
from PIL import Image
from ultralytics.data.augment import LetterBox, classify_transforms

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "worker/tests/presets.json"
IMAGE = ROOT / "models/shapes/samples/spiral_0.jpg"
POINTS = 120
# What models/README.md promises: the largest difference on real photos, in levels of 256. `--compare` fails beyond it.
# Filters and the JPEG round trip are no presets, and may be farther.
HELD = {"torchvision": 1.03, "timm": 1.03, "huggingface": 2.01, "keras-applications": 0.02, "ultralytics": 1.03, "caffe": 1.03}
RAW = {"divide_by": 1, "mean": 0, "std": 1}


def rgb(path):
    return Image.open(path).convert("RGB")


def chw(pixels):
    """Rows, columns, channels as channels, rows, columns."""
    return np.asarray(pixels, np.float32).transpose(2, 0, 1)


def torchvision_case(weights):
    family, name = weights.split(".")
    seen = torchvision.models.get_weight(weights).transforms()
    return weights, {"preset": "torchvision", "weights": weights}, None, lambda path: seen(rgb(path)).numpy()


def timm_case(mode, size, **more):
    config = {"input_size": size, "interpolation": "bicubic", "crop_mode": mode, "crop_pct": 1.0,
              "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], **more}
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
    file = ("config.json", {"architecture": "x", "pretrained_cfg": config})
    return f"{mode} {size[2]}x{size[1]}", {"preset": "timm"}, file, lambda path: transform(rgb(path)).numpy()


def keras_case(name, module):
    def seen(path):
        pixels = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(224, 224)))
        return module.preprocess_input(pixels[None])[0].transpose(2, 0, 1)
    return name, {"preset": "keras-applications", "weights": name, "size": 224}, None, seen


def hugging_face_case(processor):
    processor = processor()
    file = ("preprocessor_config.json", json.loads(processor.to_json_string()))
    name = file[1]["image_processor_type"]
    seen = lambda path: np.asarray(processor(rgb(path), return_tensors="np")["pixel_values"][0], np.float32)
    return name, {"preset": "huggingface"}, file, seen


def caffe(path):
    pixels = cv2.resize(np.asarray(rgb(path))[:, :, ::-1], (256, 256), interpolation=cv2.INTER_LINEAR)
    return chw(pixels[16:240, 16:240]) - np.float32([104, 117, 123])[:, None, None]


def filter_case(name, settings, seen, size="100x75"):
    return name, {**RAW, "resize_mode": "squash", "size": size, **settings}, None, lambda path: chw(seen(rgb(path)))


def pillow(name, which, size=(100, 75)):
    return filter_case(f"Pillow {name}", {"filter": name}, lambda image: image.resize(size, which), f"{size[0]}x{size[1]}")


def opencv(name, which, size=(100, 75)):
    seen = lambda image: cv2.resize(np.asarray(image), size, interpolation=which)
    return filter_case(f"OpenCV {name}", {"filter": name, "antialias": False}, seen, f"{size[0]}x{size[1]}")


def torch_interpolate(name):
    def seen(image):
        pixels = torch.from_numpy(chw(image))[None]
        corners = {} if name == "nearest" else {"align_corners": False}
        scaled = torch.nn.functional.interpolate(pixels, (75, 100), mode=name, **corners)[0]
        return scaled.clamp(0, 255).round().numpy().transpose(1, 2, 0)
    return filter_case(f"torch {name}", {"filter": name, "antialias": False}, seen)


def letterbox(image):
    return LetterBox((96, 128), auto=False)(image=np.asarray(image))


def grey(path):
    return np.asarray(rgb(path).convert("L").resize((28, 28), Image.BILINEAR), np.float32)[None]


def cases():
    """Library, (name, settings, file beside the model, what the library makes of an image)."""
    for weights in ("ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "EfficientNet_B2_Weights.IMAGENET1K_V1",
                    "Swin_V2_T_Weights.IMAGENET1K_V1", "VGG16_Weights.IMAGENET1K_FEATURES", "Inception_V3_Weights.IMAGENET1K_V1"):
        yield "torchvision", torchvision_case(weights)
    yield "timm", timm_case("center", [3, 224, 224], crop_pct=0.9)
    yield "timm", timm_case("center", [3, 96, 160], crop_pct=0.875)
    yield "timm", timm_case("squash", [3, 224, 224], crop_pct=0.95, interpolation="bilinear")
    yield "timm", timm_case("border", [3, 224, 224])
    for name in ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0"):
        module = {"ResNet50": keras.applications.resnet, "MobileNetV2": keras.applications.mobilenet_v2,
                  "DenseNet121": keras.applications.densenet, "EfficientNetB0": keras.applications.efficientnet}[name]
        yield "keras-applications", keras_case(name, module)
    transform = classify_transforms(224)
    yield "ultralytics", ("classify", {"preset": "ultralytics", "size": 224}, None, lambda path: transform(rgb(path)).numpy())
    yield "caffe", ("256 to 224", {"preset": "caffe", "size": 224}, None, caffe)
    for processor in (
        transformers.ViTImageProcessor,
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
        transformers.ConvNextImageProcessor,
        lambda: transformers.BitImageProcessor(size={"shortest_edge": 256}),
        transformers.DeiTImageProcessor,
        transformers.LevitImageProcessor,
        transformers.MobileNetV2ImageProcessor,
        lambda: transformers.MobileViTImageProcessor(size={"shortest_edge": 288}),
        transformers.EfficientNetImageProcessor,
    ):
        yield "huggingface", hugging_face_case(processor)
    for name in ("nearest", "box", "bilinear", "bicubic", "lanczos"):
        yield "Pillow", pillow(name, getattr(Image.Resampling, name.upper()))
    yield "Pillow", pillow("bicubic", Image.Resampling.BICUBIC, (700, 500))
    for name, which in (("nearest", cv2.INTER_NEAREST), ("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC),
                        ("lanczos", cv2.INTER_LANCZOS4)):
        yield "OpenCV", opencv(name, which)
    yield "OpenCV", opencv("bilinear", cv2.INTER_LINEAR, (700, 500))
    for name in ("nearest", "bilinear", "bicubic"):
        yield "torch", torch_interpolate(name)
    boxed = {"resize_mode": "letterbox", "pad_colour": [114, 114, 114], "antialias": False}
    yield "letterbox", filter_case("Ultralytics", boxed, letterbox, "128x96")
    yield "grey", ("Pillow L", {**RAW, "resize_mode": "squash", "size": 28, "channels": "grey"}, None, grey)
    nsfw = {"resize_mode": "squash", "resize": "256x256", "size": 224, "jpeg_quality": 75, "channels": "bgr", "divide_by": 1,
            "mean": [104, 117, 123], "std": 1}
    yield "opennsfw2", ("JPEG round trip", nsfw, None, lambda path: preprocess_image(Image.open(path)).transpose(2, 0, 1))


def write():
    written = []
    for library, (name, settings, file, seen) in cases():
        numbers = np.ascontiguousarray(seen(IMAGE), np.float32)
        places = np.random.default_rng(7).choice(numbers.size, POINTS, replace=False)
        flat = numbers.reshape(-1)
        written.append({"case": f"{library}: {name}", "settings": settings, "file": file, "shape": list(numbers.shape),
                        "numbers": [[int(place), round(float(flat[place]), 5)] for place in sorted(places)]})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in written)
    FIXTURE.write_text(f"[\n{lines}\n]\n")


def model_of(folder, shape):
    """A model that gives its input, moved and scaled into 0 to 1, as its scores; and how to move it back."""
    from onnx import TensorProto, helper, save
    least, most = -600.0, 600.0
    number = lambda name, value: helper.make_tensor(name, TensorProto.FLOAT, [], [value])
    nodes = [helper.make_node("Sub", ["x", "least"], ["moved"]), helper.make_node("Div", ["moved", "range"], ["scaled"]),
             helper.make_node("Flatten", ["scaled"], ["y"])]
    graph = helper.make_graph(
        nodes, "numbers", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, int(np.prod(shape))])],
        [number("least", least), number("range", most - least)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, Path(folder) / "model.onnx")
    return lambda confidence: confidence * (most - least) + least


def compare(eirs, photos):
    worst = {}
    for library, (name, settings, file, seen) in cases():
        for photo in photos:
            expected = np.ascontiguousarray(seen(photo), np.float32)
            with tempfile.TemporaryDirectory() as folder:
                back = model_of(folder, expected.shape)
                if file:
                    Path(folder, file[0]).write_text(json.dumps(file[1]))
                command = [eirs, "model", "check", f"{folder}/model.onnx", "--image", photo, "--json"]
                values = {**settings, "scaled_decode": False, "exif": False, "scores": "probabilities", "top": expected.size}
                for key, value in values.items():
                    command += ["--set", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{library}: {name}: {done.stderr}{done.stdout[:500]}")
                given = np.empty(expected.size, np.float64)
                for guess in json.loads(done.stdout)["answer"]["top"]:
                    given[int(guess["label"])] = back(guess["confidence"])
            # In levels of 256: what one level is to the model.
            level = step(settings, file)
            difference = np.abs(given.reshape(expected.shape) - expected) / level
            key = f"{library}: {name}"
            most, mean = worst.get(key, (0, 0))
            worst[key] = max(most, difference.max()), max(mean, difference.mean())
    print("| library and case | largest difference, levels of 256 | largest mean difference of a photo |\n| --- | --- | --- |")
    for key, (most, mean) in worst.items():
        print(f"| {key} | {most:.2f} | {mean:.4f} |")
    too_far = [key for key, (most, _) in worst.items() if most > HELD.get(key.split(":")[0], np.inf)]
    if too_far:
        raise SystemExit(f"farther from the library than models/README.md says: {', '.join(too_far)}")


def step(settings, file):
    """What one level of a pixel is in the numbers that the model sees: for each channel."""
    per_channel = lambda values: np.float32(values).reshape(-1, 1, 1)
    if "divide_by" in settings:
        return per_channel([1])
    if settings.get("preset") == "torchvision":
        return 1 / 255 / per_channel(torchvision.models.get_weight(settings["weights"]).transforms().std)
    if settings.get("preset") == "timm":
        return 1 / 255 / per_channel(file[1]["pretrained_cfg"]["std"])
    if settings.get("preset") == "huggingface":
        config = file[1]
        std = np.float32(config["image_std"] if config.get("do_normalize") else [1, 1, 1])
        std = std * std if config.get("include_top") else std
        return config["rescale_factor"] / per_channel(std)
    if settings.get("preset") == "ultralytics":
        return per_channel([1 / 255])
    modes = {"ResNet50": [1], "MobileNetV2": [1 / 127.5], "DenseNet121": 1 / 255 / np.float32([0.229, 0.224, 0.225])}
    return per_channel(modes.get(settings.get("weights"), [1]))


arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--write", action="store_true")
arguments.add_argument("--compare", metavar="EIRS")
arguments.add_argument("photos", nargs="*")
asked = arguments.parse_args()
if asked.write:
    write()
if asked.compare:
    compare(asked.compare, asked.photos)
