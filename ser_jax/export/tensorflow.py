"""A model as a SavedModel of TensorFlow and as a TFLite file, by jax2tf and TensorFlow's converter."""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path

from ser_jax.errors import UserError, brief
from ser_jax.export import eight_bits, tflite
from ser_jax.export.program import Program

LOAD_SAVED_MODEL = """
def load(path):
    import tensorflow as tf
    model = tf.saved_model.load(path)  # kept, for its signature does not keep it
    call = model.signatures["serving_default"]
    return lambda samples, size: (model, call(waveform=tf.constant(samples), num_samples=tf.constant(size)))[1][
        "probabilities"
    ]
"""
LOAD_TFLITE = """
def load(path):
    from ai_edge_litert.interpreter import Interpreter
    call = Interpreter(model_path=path, num_threads=1).get_signature_runner()
    return lambda samples, size: call(waveform=samples, num_samples=size)["probabilities"]
"""


def write_saved_model(program: Program, folder: Path) -> int:
    """Writes a SavedModel for CPUs and GPUs to an empty folder; its signature is `serving_default`.

    Returns how many weights have 8 bits in it.
    """
    _save(program, folder, ("cpu", "cuda"))
    return program.num_rounded


def write_tflite(program: Program, path: Path, int8: bool | None = None) -> int:
    """Writes a TFLite file of built-in operations alone. Returns how many weights have 8 bits in it.

    `int8`: as the program has it, if it is not said; weights that are rounded stay float32 where it is false.
    Raises `UserError` for a program that TensorFlow's converter does not take.
    """
    with tempfile.TemporaryDirectory() as folder, eight_bits.multiplied():
        _save(program, Path(folder), ("cpu",))
        content = _converted(folder)
    content, kept = tflite.compact(content, program.int8 if int8 is None else int8)
    path.write_bytes(content)
    return kept


def _converted(folder: str) -> bytes:
    """The TFLite file of a SavedModel. What the converter prints is shown afterwards, unless it gives up."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    with tempfile.TemporaryFile() as said:
        errors = os.dup(2)  # it does not print by Python, as others do meanwhile: an interruption
        os.dup2(said.fileno(), 2)
        try:
            with open(errors, "w", closefd=False) as shown, contextlib.redirect_stderr(shown):
                return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except ConverterError as error:
            said.truncate(0)
            reason = brief(str(error).partition("error: ")[2] or str(error))
            raise UserError(
                "export: TensorFlow's converter to TFLite, and so to ONNX, does not take this model "
                f"({reason}); expected --to stablehlo or --to savedmodel"
            ) from error
        finally:
            os.dup2(errors, 2)
            os.close(errors)
            said.seek(0)
            with contextlib.suppress(OSError):  # nobody reads it
                os.write(2, said.read())


def _save(program: Program, folder: Path, platforms: tuple[str, ...]) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")  # JAX has them
    call = jax2tf.convert(program.call, with_gradient=False, native_serialization_platforms=platforms)
    signature = [tf.TensorSpec([program.max_samples], tf.float32), tf.TensorSpec([], tf.int32)]

    @tf.function(autograph=False, input_signature=signature)
    def recognise(waveform: tf.Tensor, num_samples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": call(waveform, num_samples)}

    module = tf.Module()
    module.recognise = recognise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(folder), signatures=recognise)
