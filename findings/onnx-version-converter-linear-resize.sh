#!/bin/sh
# onnx 1.23.2: the converter of opsets changes what linear Upsample and Resize, and Hardmax, compute.
#
# Until opset 10 linear Upsample and Resize put the first pixel of the output on the first of the input (asymmetric). Since opset 11 Resize
# has coordinate_transformation_mode, whose default is half_pixel. convert_version leaves the attribute out, so that a converted file samples
# half a pixel beside, without a word. Hardmax took all axes from `axis` on as one list until opset 13, and one axis since then: Softmax and
# LogSoftmax are converted with a Flatten, Hardmax keeps its attribute and gets several ones. Nearest Upsample stays the same.
#
# Expected beforehand: a conversion that is not possible raises, and any other keeps the result.
# Seen: three of four files with another result, by the same engine without optimization.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper as h, numpy_helper, version_converter

x = np.float32([[[[0, 1, 2, 3], [4, 5, 6, 7]]]])
scales = numpy_helper.from_array(np.float32([1, 1, 1, 2]), "s")


def model(node, opset, shape, weights=()):
    value = lambda name, shape: h.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = h.make_graph([node], "g", [value("x", [1, 1, 2, 4])], [value("y", shape)], weights)
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    checker.check_model(made)
    return made


def run(made):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


for name, made, to, same in [
    ("Upsample 9, nearest", model(h.make_node("Upsample", ["x", "s"], ["y"], mode="nearest"), 9, [1, 1, 2, 8], [scales]), 13, True),
    ("Upsample 9, linear", model(h.make_node("Upsample", ["x", "s"], ["y"], mode="linear"), 9, [1, 1, 2, 8], [scales]), 13, False),
    ("Resize 10, linear", model(h.make_node("Resize", ["x", "s"], ["y"], mode="linear"), 10, [1, 1, 2, 8], [scales]), 13, False),
    ("Hardmax 11, axis 2", model(h.make_node("Hardmax", ["x"], ["y"], axis=2), 11, [1, 1, 2, 4]), 13, False),
]:
    before, after = run(made), run(version_converter.convert_version(made, to))
    print(f"{name}: {before.ravel().tolist()}\n  in opset {to}: {after.ravel().tolist()}")
    assert np.allclose(before, after) == same, "changed"
PYTHON
