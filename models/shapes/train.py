"""Trains the shapes model from nothing and writes shapes.onnx and labels.txt.

    python train.py

draws the training pictures (a few minutes), trains a small convolutional
network with JAX on the CPU, folds the batch normalisation into the convolutions
and saves plain ONNX. `python evaluate.py --write` then measures the result.
All seeds are fixed, so the same machine gives the same file again.
"""

import argparse
import tempfile
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
from onnx import TensorProto, helper, numpy_helper

import draw
import evaluate
from draw import LABELS

# The network: 3x3 convolutions, each followed by batch normalisation and ReLU,
# then the mean of each channel and one linear layer.
# Side of the picture: 64 -> 32 -> 16 -> 8 -> 4 -> 4 -> 1.
LAYERS = [  # (channels in, channels out, stride, followed by 2x2 max pooling)
    (3, 24, 2, False),
    (24, 32, 2, False),
    (32, 64, 1, True),
    (64, 96, 1, True),
    (96, 128, 1, False),
]

BATCH = 128
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.05
STATISTICS_MOMENTUM = 0.98
EPSILON = 1e-5
LARGEST_SHIFT = 3  # pixels, in training pictures of 64x64


# --- The network (pictures are [N, height, width, channels] in here) ------------

def initial_weights(rng):
    """Returns (weights, running batch statistics)."""
    def random(shape, scale):
        return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)

    convolutions, statistics = [], []
    for channels_in, channels_out, _, _ in LAYERS:
        inputs = 9 * channels_in
        convolutions.append({
            "kernel": random((inputs, channels_out), np.sqrt(2 / inputs)),
            "gain": jnp.ones(channels_out),
            "bias": jnp.zeros(channels_out),
        })
        statistics.append((jnp.zeros(channels_out), jnp.ones(channels_out)))
    features = LAYERS[-1][1]
    linear = {"kernel": random((features, len(LABELS)), 0.05),
              "bias": jnp.zeros(len(LABELS))}
    return {"convolutions": convolutions, "linear": linear}, statistics


def convolve(x, kernel, stride):
    """A 3x3 convolution as one matrix product, the fastest way on a CPU."""
    count, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [x[:, dy:dy + height:stride, dx:dx + width:stride]
                  for dy in range(3) for dx in range(3)]
    return jnp.concatenate(neighbours, axis=-1) @ kernel


def max_pool(x):
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))


def network(weights, statistics, x, training):
    """Returns (logits, the mean and variance of every convolution's output)."""
    observed = []
    layers = zip(weights["convolutions"], statistics, LAYERS)
    for convolution, (mean, variance), (_, _, stride, pooled) in layers:
        x = convolve(x, convolution["kernel"], stride)
        if training:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        observed.append((mean, variance))
        factor = convolution["gain"] / jnp.sqrt(variance + EPSILON)
        x = jax.nn.relu((x - mean) * factor + convolution["bias"])
        if pooled:
            x = max_pool(x)
    features = x.mean((1, 2))
    return features @ weights["linear"]["kernel"] + weights["linear"]["bias"], observed


# --- Training ------------------------------------------------------------------

def vary(rng, pixels):
    """Shows a batch in another way each time: moved, mirrored, recoloured."""
    margin = LARGEST_SHIFT
    frame = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    top, left = rng.integers(0, 2 * margin + 1, 2)
    side = pixels.shape[1]
    pixels = np.pad(pixels, frame, mode="edge")[:, top:top + side, left:left + side]
    if rng.random() < 0.5:
        pixels = pixels[:, :, ::-1]
    if rng.random() < 0.5:
        pixels = 255 - pixels
    return pixels[..., rng.permutation(3)]


def scaled(pixels):
    return pixels.astype(np.float32) / 127.5 - 1


def train(pixels, labels, validation, epochs):
    rng = np.random.default_rng(0)
    weights, statistics = initial_weights(rng)
    steps_per_epoch = len(pixels) // BATCH
    schedule = optax.warmup_cosine_decay_schedule(
        0, LEARNING_RATE, 200, epochs * steps_per_epoch)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    optimizer_state = optimizer.init(weights)

    def loss_of(weights, statistics, x, targets):
        logits, observed = network(weights, statistics, x, training=True)
        return optax.softmax_cross_entropy(logits, targets).mean(), observed

    @jax.jit
    def step(weights, statistics, optimizer_state, x, y):
        targets = optax.smooth_labels(jax.nn.one_hot(y, len(LABELS)), LABEL_SMOOTHING)
        (loss, observed), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            weights, statistics, x, targets)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, weights)
        weights = optax.apply_updates(weights, updates)
        statistics = jax.tree.map(
            lambda old, new: STATISTICS_MOMENTUM * old + (1 - STATISTICS_MOMENTUM) * new,
            statistics, observed)
        return weights, statistics, optimizer_state, loss

    @jax.jit
    def answers(weights, statistics, x):
        return network(weights, statistics, x, training=False)[0].argmax(axis=1)

    start = time.time()
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(pixels))
        losses = []
        for number in range(steps_per_epoch):
            chosen = np.sort(order[number * BATCH:(number + 1) * BATCH])
            x = scaled(vary(rng, pixels[chosen]))
            weights, statistics, optimizer_state, loss = step(
                weights, statistics, optimizer_state, x, labels[chosen])
            losses.append(loss)
        found = answers(weights, statistics, scaled(validation[0]))
        print(f"epoch {epoch:2}: loss {np.mean(losses):.3f}, "
              f"validation {np.mean(found == validation[1]):.2%}, "
              f"{time.time() - start:.0f} s", flush=True)
    return weights, statistics


# --- Export --------------------------------------------------------------------

def save_onnx(weights, statistics, path):
    """Writes the network as ONNX, batch normalisation folded into each Conv."""
    nodes, constants = [], []

    def constant(name, values):
        values = np.ascontiguousarray(values, dtype=np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    def node(operation, inputs, output, **attributes):
        nodes.append(helper.make_node(operation, inputs, [output], output, **attributes))
        return output

    x = "input"
    layers = zip(weights["convolutions"], statistics, LAYERS)
    for number, (convolution, (mean, variance), layer) in enumerate(layers, start=1):
        channels_in, channels_out, stride, pooled = layer
        factor = convolution["gain"] / jnp.sqrt(variance + EPSILON)
        kernel = (convolution["kernel"] * factor).reshape(3, 3, channels_in, channels_out)
        x = node("Conv",
                 [x, constant(f"kernel{number}", kernel.transpose(3, 2, 0, 1)),
                  constant(f"bias{number}", convolution["bias"] - mean * factor)],
                 f"conv{number}",
                 kernel_shape=[3, 3], strides=[stride, stride], pads=[1, 1, 1, 1])
        x = node("Relu", [x], f"relu{number}")
        if pooled:
            x = node("MaxPool", [x], f"pool{number}", kernel_shape=[2, 2], strides=[2, 2])
    x = node("GlobalAveragePool", [x], "mean")
    x = node("Flatten", [x], "features", axis=1)
    node("Gemm", [x, constant("kernel", weights["linear"]["kernel"]),
                  constant("bias", weights["linear"]["bias"])], "logits")

    side = evaluate.INPUT_SIDE
    graph = helper.make_graph(
        nodes, "shapes",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])],
        constants)
    model = helper.make_model(
        graph, producer_name="shapes", opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def training_pictures(count, processes):
    """Draws the training pictures, or reads them from an earlier run's cache."""
    version = zlib.crc32(Path(draw.__file__).read_bytes())
    cache = Path(tempfile.gettempdir()) / f"shapes-{version:08x}-{count}.npz"
    if not cache.exists():
        pixels, labels = evaluate.drawn_inputs(evaluate.TRAINING_SEED, count, processes)
        np.savez(cache, pixels=pixels, labels=labels)
    with np.load(cache) as arrays:
        return arrays["pixels"], arrays["labels"]


def main():
    parser = argparse.ArgumentParser(description="Train shapes.onnx.")
    parser.add_argument("--pictures", type=int, default=36_000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()

    pixels, labels = training_pictures(options.pictures, options.processes)
    validation = evaluate.drawn_inputs(
        evaluate.VALIDATION_SEED, 1200, options.processes)
    weights, statistics = train(pixels, labels, validation, options.epochs)
    save_onnx(weights, statistics, evaluate.MODEL)
    (evaluate.HERE / "labels.txt").write_text("\n".join(LABELS) + "\n")
    print(f"wrote {evaluate.MODEL.name}: {evaluate.MODEL.stat().st_size} bytes")


if __name__ == "__main__":
    main()
