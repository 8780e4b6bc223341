#!/bin/sh
# onnx 1.23.2: the reference evaluator runs Softmax of opsets 1 to 12 with the meaning of opset 13.
#
# Until opset 12, Softmax flattens its input to two dimensions at `axis` and normalises over all that follows (ONNX operator changelog,
# Softmax-1 and Softmax-11). ReferenceEvaluator normalises over `axis` alone, without a warning, so that the probabilities of one image
# add up to 4 here. ONNX Runtime 1.32.0 follows the specification. LogSoftmax and Hardmax behave in the same way.
#
# Expected beforehand: the evaluator called "reference" is right for every opset that it accepts.
# Seen: reference [[[[0.5 0.5] [0.5 0.5]] ...]], onnxruntime 0.125 everywhere.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.zeros((1, 2, 2, 2), np.float32)
for name in ("Softmax", "LogSoftmax", "Hardmax"):
    graph = helper.make_graph(
        [helper.make_node(name, ["x"], ["y"], axis=1)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runtime = session.run(None, {"x": x})[0]
    print(name, "reference", reference.ravel(), "onnxruntime", runtime.ravel())
    assert not np.allclose(reference, runtime), "changed: the two agree now"
    if name == "Softmax":
        assert np.allclose(runtime, 0.125) and np.allclose(reference, 0.5), "changed"
PYTHON
