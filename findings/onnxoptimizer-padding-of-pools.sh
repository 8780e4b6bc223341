#!/bin/sh
# onnxoptimizer 0.4.2: its default passes change what pooling after a padding, and two reshapes in a row, compute.
#
# A Pad with zeros before a MaxPool becomes padding of the MaxPool, which is minus infinity and not zero: where all is negative, the edge is
# another one. Before an AveragePool with padding of its own, which does not count what it pads, the padded zeros are no longer counted.
# Of two Reshapes the first is dropped, also where a 0 in the second means a dimension that the first one made: the shape is another.
#
# Expected beforehand: the default passes keep the result.
# Seen: three files with another result or shape; a padding with zeros before an AveragePool that has none of its own is left right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxoptimizer==0.4.2 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxoptimizer
import onnxruntime as ort
from onnx import TensorProto, checker, helper as h, numpy_helper

node = h.make_node
x = -np.ones((1, 2, 2, 2), "f")
PADS = dict(pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]))


def model(nodes, rank=4, **weights):
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 2, 2])],
                         [h.make_tensor_value_info("y", TensorProto.FLOAT, list("abcd")[:rank])], [numpy_helper.from_array(a, k) for k, a in weights.items()])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    return made


def run(made):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def pool(operator, **more):
    return [node("Pad", ["x", "pads"], ["p"]), node(operator, ["p"], ["y"], kernel_shape=[3, 3], **more)]


for name, made, same in [
    ("Pad, AveragePool", model(pool("AveragePool"), **PADS), True),
    ("Pad, MaxPool", model(pool("MaxPool"), **PADS), False),
    ("Pad, AveragePool with padding", model(pool("AveragePool", pads=[1, 1, 1, 1]), **PADS), False),
    ("Reshape to 2 x 4, Reshape to 0 x 2 x 2",
     model([node("Reshape", ["x", "a"], ["r"]), node("Reshape", ["r", "b"], ["y"])], a=np.int64([2, 4]), b=np.int64([0, 2, -1]), rank=3), False),
]:
    before, after = run(made), run(onnxoptimizer.optimize(made))
    print(f"{name}: {before.shape} {before.ravel().round(2).tolist()}\n  optimized: {after.shape} {after.ravel().round(2).tolist()}")
    assert (before.shape == after.shape and np.allclose(before, after)) == same, "changed"
PYTHON
