#!/bin/sh
# pycm 4.6: the area under the precision-recall curve of a perfect classifier is 0.0.
#
# `PRCurve` has a point for each threshold, and `area` sums between them. The part from recall 0 to the first point is left out, and that
# is all of it when the positives share one score, as the sure answers of a classifier do. With two different scores half of it is missing.
# The area under the other curve (`ROCCurve`, which adds its end points: `augment_endpoint` in pycm/curve.py) is right.
#
# Expected beforehand: 1.0, which is what scikit-learn 1.9.1 returns (average_precision_score, auc of precision_recall_curve).
# Seen: 0.0 for scores of 0.9 and 0.1, 0.5 for 0.9, 0.8, 0.2 and 0.1; the ROC area is 1.0 in both cases.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pycm==4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
from pycm import PRCurve, ROCCurve

labels = [1, 1, 0, 0]
for scores, expected in (([0.9, 0.9, 0.1, 0.1], 0.0), ([0.9, 0.8, 0.2, 0.1], 0.5)):
    both = numpy.column_stack([1 - numpy.array(scores), scores])
    area = PRCurve(labels, both, classes=[0, 1]).area()[1]
    roc = ROCCurve(labels, both, classes=[0, 1]).area()[1]
    print("scores", scores, "area", area, "ROC area", roc)
    assert roc == 1
    assert area == expected, "changed"
PYTHON
