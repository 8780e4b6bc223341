#!/bin/sh
# onnxruntime 1.32.0: ConvTranspose with auto_pad=SAME_UPPER or SAME_LOWER and a kernel smaller than its stride returns too small an output.
#
# The specification of ConvTranspose says for these two: output_shape[i] = input_shape[i] * strides[i]. With 3 samples, stride 3 and a
# kernel of 2, ONNX Runtime returns 8 samples instead of 9; onnx 1.23.2's reference evaluator says 9, and its own shape inference 8. The session
# loads and runs without an error where the graph declares no static output shape.
#
# Expected beforehand: 9 from all three.
# Seen: onnxruntime (1, 1, 8, 8), reference (1, 1, 9, 9), shape inference 8 x 8.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime
from onnx import TensorProto, helper, shape_inference
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
x, w = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 2, 2), np.float32)
for padding in ("SAME_UPPER", "SAME_LOWER"):
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[3, 3], auto_pad=padding)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("w", TensorProto.FLOAT, w.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    inferred = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    reference = ReferenceEvaluator(model).run(None, {"x": x, "w": w})[0].shape
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runtime = session.run(None, {"x": x, "w": w})[0].shape
    print(padding, "onnxruntime", runtime, "reference", reference, "inferred", [d.dim_value for d in inferred])
    assert runtime == (1, 1, 8, 8), "changed: onnxruntime"
    assert reference == (1, 1, 9, 9), "changed: the reference"
PYTHON
