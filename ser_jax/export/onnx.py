"""A model as an ONNX file: from its TFLite file by tf2onnx, which does not read what JAX gives TensorFlow directly."""

import logging
import tempfile
import warnings
from pathlib import Path

from ser_jax.export import tensorflow
from ser_jax.export.program import Program
from ser_jax.frontend import spectra_by_product

OPSET = 18
LOAD = """
def load(path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda samples, size: session.run(["probabilities"], {"waveform": samples, "num_samples": size})[0]
"""


def write(program: Program, path: Path) -> None:
    """Writes an ONNX file with the inputs `waveform` and `num_samples` and the output `probabilities`."""
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, spectra_by_product():
        file = Path(folder, "model.tflite")
        tensorflow.write_tflite(program, file)
        with warnings.catch_warnings():  # it reads the file by an interpreter that TensorFlow will drop
            warnings.simplefilter("ignore")
            model, _ = tf2onnx.convert.from_tflite(str(file), opset=OPSET)
    graph, kinds = model.graph, onnx.TensorProto
    for value in graph.input:
        name = "waveform" if value.type.tensor_type.elem_type == kinds.FLOAT else "num_samples"
        graph.node.insert(0, onnx.helper.make_node("Identity", [name], [value.name]))
        value.name = name
    (value,) = graph.output
    graph.node.append(onnx.helper.make_node("Identity", [value.name], ["probabilities"]))
    value.name = "probabilities"
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
