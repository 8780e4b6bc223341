#!/bin/sh
# onnxslim 0.1.98: a factor for each column of a convolution's output becomes one for each channel.
#
# Conv followed by Mul with a constant is folded into the weights. The constant is taken for one of channels whenever it has as many elements
# as there are channels: a list of 4 stands on the last axis by the rules of broadcasting, and is multiplied by each channel's weights after
# the folding. With one more column than channels the same graph stays right.
#
# Expected beforehand: only constants of shape (channels, 1, 1) are folded.
# Seen: other results where width and number of channels are equal.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxslim==0.1.98 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
import onnxslim
from onnx import TensorProto, checker, helper as h, numpy_helper

CHANNELS = 4


def model(width):
    value = lambda name, channels: h.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 1, width])
    weights = dict(w=np.ones((CHANNELS, 1, 1, 1), "f"), b=np.zeros(CHANNELS, "f"), k=np.float32(range(1, width + 1)))
    nodes = [h.make_node("Conv", ["x", "w", "b"], ["c"]), h.make_node("Mul", ["c", "k"], ["y"])]
    graph = h.make_graph(nodes, "g", [value("x", 1)], [value("y", CHANNELS)], [numpy_helper.from_array(a, k) for k, a in weights.items()])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    return made


def run(made, width):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 1, 1, width), "f")})[0]


for width, same in ((CHANNELS + 1, True), (CHANNELS, False)):
    before, after = run(model(width), width), run(onnxslim.slim(model(width)), width)
    print(f"{width} columns: {before[0, :, 0].tolist()}\n  slimmed: {after[0, :, 0].tolist()}")
    assert np.allclose(before, after) == same, "changed"
PYTHON
