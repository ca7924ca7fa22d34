"""The formats of exported models: how each is written, and what runs it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ser_jax.export import onnx, stablehlo, tensorflow
from ser_jax.export.program import Program


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
      write: the program, to a file that is not there or, where `is_folder`, to an empty folder; returns how many
        weights have 8 bits in it.
      load: the source of a function `load(path)`; see `ser_jax.export.runtime`.
      runtime: its name.
      is_folder: whether it is a folder.
    """

    write: Callable[[Program, Path], int]
    load: str
    runtime: str
    is_folder: bool = False


FORMATS = {
    "stablehlo": Format(stablehlo.write, stablehlo.LOAD, "JAX alone"),
    "onnx": Format(onnx.write, onnx.LOAD, "ONNX Runtime"),
    "savedmodel": Format(tensorflow.write_saved_model, tensorflow.LOAD_SAVED_MODEL, "TensorFlow", is_folder=True),
    "tflite": Format(tensorflow.write_tflite, tensorflow.LOAD_TFLITE, "LiteRT"),
}
