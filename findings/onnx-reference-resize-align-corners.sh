#!/bin/sh
# onnx 1.23.2: Resize with align_corners and scales in the reference evaluator does not align the far corner.
#
# align_corners means that the first and the last samples of input and output fall together. With 8 samples and a scale of 0.6 the output
# has floor(8 x 0.6) = 4 samples; ONNX Runtime 1.32.0 reads 0, 2.33, 4.67 and 7. ReferenceEvaluator puts the fractional length 4.8 into
# the formula and never reaches the last sample. A graph with a Resize in front (PyTorch's interpolate with scale_factor) gets other
# pixels from the two.
#
# Expected beforehand: the last output is the last input, whatever the scale.
# Seen: reference [0, 1.8421, 3.6842, 5.5263], onnxruntime [0, 2.3333, 4.6667, 7].
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.array(range(8), np.float32).reshape(1, 1, 1, 8)
scales = numpy_helper.from_array(np.array([1, 1, 1, 0.6], np.float32), "scales")
graph = helper.make_graph(
    [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 4])],
    [scales],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
reference = ReferenceEvaluator(model).run(None, {"x": x})[0].ravel()
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
runtime = session.run(None, {"x": x})[0].ravel()
print("reference", reference, "onnxruntime", runtime)
assert np.allclose(runtime, [0, 7 / 3, 14 / 3, 7]), "changed: onnxruntime"
assert np.allclose(reference, np.array(range(4)) * 7 / 3.8, atol=1e-3), "changed: the reference"
PYTHON
