#!/bin/sh
# skl2onnx 1.20.0: an SGDClassifier with log_loss gives other labels than scikit-learn 1.9.1 for 8 % of the digits.
#
# scikit-learn takes the class of the largest decision value. The exported graph takes the class of the largest probability, after
# a sigmoid of each value in float32: where several are so large that the sigmoid is exactly 1, the first class wins. The
# probabilities agree to five digits; only the labels are wrong, and nothing warns. loss="modified_huber" does the same (15 % in one run).
#
# Expected beforehand: the label output equals predict(), up to rounding at near ties.
# Seen: labels agree for 0.923 of 1,197 digits; accuracy 0.874 where scikit-learn has 0.882.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scikit-learn==1.9.1 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from skl2onnx import to_onnx

digits = load_digits()
x = digits.data.astype(np.float32)
model = SGDClassifier(loss="log_loss", random_state=0).fit(x[:600], digits.target[:600])
onnx = to_onnx(model, x[:1], options={id(model): {"zipmap": False}})
session = onnxruntime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
label, probabilities = session.run(None, {session.get_inputs()[0].name: x[600:]})
truth, expected = digits.target[600:], model.predict(x[600:])
agree = np.mean(label == expected)
print("labels agree", agree.round(4), "accuracy here", np.mean(label == truth).round(4), "scikit-learn", np.mean(expected == truth).round(4),
      "largest difference of a probability", np.abs(probabilities - model.predict_proba(x[600:])).max())
assert np.abs(probabilities - model.predict_proba(x[600:])).max() < 1e-3, "changed: the probabilities differ"
assert agree < 0.97, "changed: the labels agree"
PYTHON
