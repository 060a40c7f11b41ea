"""The forms in which a model is taken away."""

from typing import Literal

Format = Literal["onnx", "torch"]

OPSETS = (18, 23)
"""The oldest and the newest version of ONNX's operations that a model is written in."""
OPSET = 20
"""The one that is taken where none is asked for."""

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
"""The model's file, by its form."""
