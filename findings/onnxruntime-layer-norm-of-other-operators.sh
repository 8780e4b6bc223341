#!/bin/sh
# onnxruntime 1.32.0: operators that only resemble a layer normalization are replaced by one, and the result is another.
#
# At its default level of optimization ONNX Runtime fuses ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul and Add into a
# LayerNormalization. It does not look at the order of the inputs of Sub and Div, nor at the power: the mean minus the value loses its sign,
# the deviation over the difference becomes its reciprocal, and a cubic or fourth power counts as a square. Without optimization the same
# files give what the specification says. The fusion for RMS normalization checks the power.
#
# Expected beforehand: only the operators of a layer normalization are fused.
# Seen: four graphs with other results, the first with all signs turned round.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper as h, numpy_helper

node = h.make_node
value = lambda name: h.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])


def graph(difference=("x", "mean"), quotient=("d", "s"), power=2):
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[1]), node("Sub", difference, ["d"]), node("Pow", ["d", "p"], ["q"]),
        node("ReduceMean", ["q"], ["v"], axes=[1]), node("Add", ["v", "e"], ["w"]), node("Sqrt", ["w"], ["s"]),
        node("Div", quotient, ["n"]), node("Mul", ["n", "scale"], ["m"]), node("Add", ["m", "bias"], ["y"]),
    ]
    weights = dict(p=np.float32(power), e=np.float32(1e-5), scale=np.ones(3, "f"), bias=np.zeros(3, "f"))
    made = h.make_graph(nodes, "g", [value("x")], [value("y")], [numpy_helper.from_array(a, k) for k, a in weights.items()])
    return h.make_model(made, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()


def run(model, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.float32([[0.8, 0.4, 0.2]])})[0].round(3)


for name, model, differs in [
    ("a layer normalization", graph(), False),
    ("the mean minus the value", graph(difference=("mean", "x")), True),
    ("the deviation over the difference", graph(quotient=("s", "d")), True),
    ("the third power", graph(power=3), True),
    ("the fourth power", graph(power=4), True),
]:
    plain, fused = (run(model, level) for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL))
    print(f"{name}: {plain.tolist()}, optimized {fused.tolist()}")
    assert np.allclose(plain, fused, atol=0.01) != differs, "changed"
PYTHON
