#!/bin/sh
# skl2onnx 1.20.0: the columns of an SVC with two classes and without probabilities are in the other order than its labels.
#
# The output called probabilities has a column for each class, the greatest of which is the label of every other model, and of SVC with
# three classes or more. With two classes it is the decision function and its negative, in this order: the greater column is that of the
# class that it is not. The output label beside it is right.
#
# Expected beforehand: the greater of two columns is the label, as with three.
# Seen: the greater column is the other class for each of the pictures of two digits, and the right class for three digits.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check skl2onnx==1.20.0 scikit-learn==1.9.1 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.svm import SVC

pictures, digits = load_digits(return_X_y=True)
for count, least, most in ((2, 0.0, 0.0), (3, 0.95, 1.0)):
    chosen = digits < count
    x, y = pictures[chosen].astype(np.float32), digits[chosen]
    model = SVC().fit(x, y)
    file = to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString()
    label, columns = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"X": x})
    expected = model.predict(x)
    right, by_column = (label == expected).mean(), (columns.argmax(axis=1) == expected).mean()
    print(f"{count} classes: the label is right for {right:.1%}, the greatest column for {by_column:.1%} of {len(x)}")
    assert right == 1, "changed: the label"
    assert least <= by_column <= most, "changed: the columns"
PYTHON
