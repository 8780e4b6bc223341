#!/usr/bin/env python3
"""The table of torchvision's weights (worker/src/classify/onnx/preset/torchvision.csv), from torchvision's own metadata.

    pip install -r requirements.txt
    python torchvision_table.py --check     # compares; without it, writes the table
"""
import sys
from pathlib import Path

import torchvision.models as models

TABLE = Path(__file__).parents[2] / "worker/src/classify/onnx/preset/torchvision.csv"


def numbers(values):
    return " ".join(f"{value:.8g}" for value in values)


lines = ["weights,default,size,resize,filter,mean,std"]
for model in models.list_models(module=models):
    weights = models.get_model_weights(model)
    for weight in weights:
        seen = weight.transforms()
        (size,), (resize,) = seen.crop_size, seen.resize_size
        default = "yes" if weights.DEFAULT == weight else ""
        name = f"{weights.__name__}.{weight.name}"
        lines.append(f"{name},{default},{size},{resize},{seen.interpolation.value},{numbers(seen.mean)},{numbers(seen.std)}")
table = "\n".join(lines) + "\n"
if "--check" in sys.argv:
    sys.exit(0 if TABLE.read_text() == table else f"{TABLE.name} is not what torchvision says")
TABLE.write_text(table)
