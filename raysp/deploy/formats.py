"""The forms in which a model is taken away."""

from typing import Literal

Format = Literal["onnx", "torch"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
"""The model's file, by its form."""
