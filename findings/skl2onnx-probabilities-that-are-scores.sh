#!/bin/sh
# skl2onnx 1.20.0: the output "probabilities" of LinearSVC, RidgeClassifier, SGDClassifier(hinge), Perceptron and SVC holds decision scores,
# from -24,000 to 9,500 on the digits, and with two classes LinearSVC has one column instead of two.
#
# These classifiers have no probabilities in scikit-learn 1.9.1. The exported graph names its second output "probabilities" or "output_probability" all the
# same, so that a server which shows the largest of them as the confidence shows 9.53 or -5.2. A server has to look at the numbers and not
# at the name.
#
# Expected beforehand: another name, or a softmax.
# Seen: LinearSVC from -26.6 to 9.5, RidgeClassifier from -2.6 to 1.9, Perceptron from -24022 to 9160; two classes: shape (1197, 1).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scikit-learn==1.9.1 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime, warnings
from sklearn.datasets import load_digits
from sklearn.linear_model import Perceptron, RidgeClassifier, SGDClassifier
from sklearn.svm import SVC, LinearSVC
from skl2onnx import to_onnx

warnings.filterwarnings("ignore")
digits = load_digits()
x = digits.data.astype(np.float32)


def second_output(model, target):
    model.fit(x[:600], target[:600])
    onnx = to_onnx(model, x[:1])
    session = onnxruntime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_outputs()[1].name
    values = session.run([name], {session.get_inputs()[0].name: x[600:]})[0]
    if isinstance(values, list):  # a map for each row
        values = np.array([list(row.values()) for row in values])
    return name, values


for model in (LinearSVC(), RidgeClassifier(), SGDClassifier(random_state=0), Perceptron(random_state=0), SVC()):
    name, values = second_output(model, digits.target)
    print(type(model).__name__, name, values.shape, "from", values.min(), "to", values.max())
    assert name in ("probabilities", "output_probability") and values.max() > 1, "changed"
name, values = second_output(LinearSVC(), digits.target % 2)
print("LinearSVC, two classes", name, values.shape)
assert values.shape == (1197, 1), "changed"
PYTHON
