"""A model as an ONNX file: from its TFLite file by tf2onnx, which does not read what JAX gives TensorFlow directly."""

import logging
import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.errors import UserError
from ser_jax.export import eight_bits, tensorflow
from ser_jax.export.program import Program
from ser_jax.portable import portable

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


def write(program: Program, path: Path) -> int:
    """Writes an ONNX file with the inputs `waveform` and `num_samples` and the output `probabilities`.

    Returns how many weights have 8 bits in it.
    """
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, portable():
        file = Path(folder, "model.tflite")
        tensorflow.write_tflite(program, file, int8=False)  # its own integers are no constants to tf2onnx
        with warnings.catch_warnings():  # it reads the file by an interpreter that TensorFlow will drop
            warnings.simplefilter("ignore")
            model, _ = tf2onnx.convert.from_tflite(
                str(file),
                opset=OPSET,
                custom_op_handlers={"TFL_DYNAMIC_UPDATE_SLICE": (_update_slice, []), "TFL_GELU": (_gelu, [])},
                custom_rewriter=[_choose_by_where],
            )
    graph, kinds = model.graph, onnx.TensorProto
    for value in graph.input:
        name = "waveform" if value.type.tensor_type.elem_type == kinds.FLOAT else "num_samples"
        graph.node.insert(0, onnx.helper.make_node("Identity", [name], [value.name]))
        value.name = name
    (value,) = graph.output
    graph.node.append(onnx.helper.make_node("Identity", [value.name], ["probabilities"]))
    value.name = "probabilities"
    kept = _keep_int8(graph) if program.int8 else 0
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise UserError(f"--to onnx: the converter does not take this model: {str(error).splitlines()[0]}") from error
    path.write_bytes(model.SerializeToString())
    return kept


def _keep_int8(graph: Any) -> int:
    """Replaces constants that are integers of 8 bits times scales, which the converters multiply, by both.

    A runtime multiplies them when it loads the file. Returns how many weights these are.
    """
    import onnx

    products, kept = [], 0
    for constant in list(graph.initializer):
        parts = (
            eight_bits.found(values) if (values := onnx.numpy_helper.to_array(constant)).dtype == np.float32 else None
        )
        if parts is None:
            continue
        name = constant.name
        kept += 0 if eight_bits.are_whole(values) else values.size
        graph.initializer.remove(constant)
        for part, suffix in zip(parts, ("int8", "scale"), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(part, f"{name}_{suffix}"))
        products.append(onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=onnx.TensorProto.FLOAT))
        products.append(onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name]))
    for at, node in enumerate(products):
        graph.node.insert(at, node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                kept += _keep_int8(attribute.g)
    return kept


def _choose_by_where(graph: Any, nodes: Sequence[Any]) -> Sequence[Any]:
    """Has `Where` choose between two arrays.

    tf2onnx would add both, multiplied by 0 and 1. The array that is not chosen may be infinite, as the polynomials of
    the error function are for large numbers, and its product with 0 is NaN.
    """
    for node in nodes:
        if node.type in ("Select", "SelectV2"):
            node.set_attr("handles_nan", True)
    return nodes


def _update_slice(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """Writes an array into part of another, which tf2onnx does not know: what each step of a scan returns."""
    array, update, start = node.input
    outer, inner = np.array(graph.get_shape(array)), np.array(graph.get_shape(update))
    axes = int(np.max(np.flatnonzero(outer != inner), initial=-1)) + 1  # along those after them it takes all
    make, outputs = graph.make_node, node.output
    shapes, types = node.output_shapes, node.output_dtypes

    def constant(values: Any) -> str:
        return graph.make_const(f"{name}_{len(graph.get_nodes())}", np.asarray(values, np.int64)).output[0]

    first = make("Cast", [start], attr={"to": 7}).output[0]  # to int64
    first = make("Slice", [first, constant([0]), constant([axes])]).output[0]
    first = make("Max", [first, constant([0])]).output[0]
    first = make("Min", [first, constant((outer - inner)[:axes])]).output[0]
    places = constant(np.moveaxis(np.indices(inner[:axes]), 0, -1))
    graph.remove_node(node.name)
    places = make("Add", [places, first]).output[0]
    make("ScatterND", [array, places, update], outputs=outputs, shapes=shapes, dtypes=types, name=name)


def _gelu(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """GELU, which ONNX has from opset 20 on alone."""
    (x,), outputs, shapes, types = node.input, node.output, node.output_shapes, node.output_dtypes
    approximate = node.get_attr_value("approximate")

    def make(kind: str, *inputs: str | float) -> str:
        constants = [
            graph.make_const(f"{name}_{len(graph.get_nodes())}_{i}", np.float32(one)).output[0]
            if isinstance(one, float)
            else one
            for i, one in enumerate(inputs)
        ]
        return graph.make_node(kind, constants).output[0]

    graph.remove_node(node.name)
    if approximate:
        cube = make("Mul", make("Mul", x, x), x)
        gate = make("Tanh", make("Mul", make("Add", x, make("Mul", cube, 0.044715)), math.sqrt(2 / math.pi)))
    else:
        gate = make("Erf", make("Mul", x, math.sqrt(0.5)))
    half = make("Mul", x, 0.5)
    graph.make_node("Mul", [half, make("Add", gate, 1.0)], outputs=outputs, shapes=shapes, dtypes=types, name=name)
