#!/bin/sh
# onnx 1.23.2: pooling with ceil_mode=1 in the reference evaluator has other values (AveragePool, LpPool) or another shape (MaxPool)
# than the specification's formula. ONNX Runtime 1.32.0 follows the formula.
#
# ceil_mode lets the last window hang over the edge; what hangs over takes no part. PyTorch exports such graphs for `ceil_mode=True`
# (SqueezeNet and GoogLeNet have it). The expected values below are a loop over each window of the specification's text.
#
# Expected beforehand: both agree with the loop.
# Seen: AveragePool and LpPool differ in values; MaxPool with stride 1 and padding 1 has shape 10 x 11, where the formula and ONNX Runtime
# have 8 x 9.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import math
import numpy as np, onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).standard_normal((1, 2, 7, 8)).astype(np.float32)


def both(op, **attributes):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], ceil_mode=1, **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(model).run(None, {"x": x})[0], session.run(None, {"x": x})[0]


def by_hand(kernel, stride, pad, reduce):
    def positions(length):
        count = math.ceil((length + 2 * pad - kernel) / stride) + 1
        # A window that would begin in the padding on the far side does not exist.
        return count - 1 if (count - 1) * stride >= length + pad else count

    height, width = x.shape[2:]
    rows = []
    for i in range(positions(height)):
        top, bottom = max(0, i * stride - pad), min(height, i * stride - pad + kernel)
        row = []
        for j in range(positions(width)):
            left, right = max(0, j * stride - pad), min(width, j * stride - pad + kernel)
            row.append(reduce(x[:, :, top:bottom, left:right]))
        rows.append(row)
    return np.array(rows).transpose(2, 3, 0, 1)


cases = [
    ("AveragePool", 3, 3, 0, lambda w: w.mean((2, 3)), {}),
    ("LpPool", 3, 2, 1, lambda w: np.sqrt((w**2).sum((2, 3))), {"p": 2}),
    ("MaxPool", 2, 1, 1, lambda w: w.max((2, 3)), {}),
]
for op, kernel, stride, pad, reduce, more in cases:
    reference, runtime = both(op, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **more)
    expected = by_hand(kernel, stride, pad, reduce)
    same_shape = reference.shape == expected.shape
    print(op, "onnxruntime", runtime.shape, "reference", reference.shape,
          "largest difference of the reference", np.abs(reference - expected).max() if same_shape else "other shape")
    assert runtime.shape == expected.shape and np.allclose(runtime, expected, atol=1e-5), "changed: onnxruntime"
    assert not same_shape or not np.allclose(reference, expected, atol=1e-3), "changed: the reference is right now"
PYTHON
