"""What TensorFlow's converter to TFLite computes beforehand is left to the program, where this makes a smaller file."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ser_jax.export import eight_bits

_FEWEST = 256  # values of an array that is worth an operation


def compact(content: bytes, int8: bool) -> tuple[bytes, int]:
    """Returns a TFLite file whose large arrays of a single number are filled by the program.

    With `int8`, constants that are integers times scales become integers of 8 bits. LiteRT multiplies them when it
    loads the file, or in each call where scales lie along two axes. All other constants, as the filters of a frontend,
    stay as they are. Returns also how many weights have 8 bits.
    """
    from tensorflow.lite.tools import flatbuffer_utils

    file, kept = _File(flatbuffer_utils.convert_bytearray_to_object(bytearray(content))), 0
    for place, values in file.constants().items():
        could_be_weights = int8 and values.dtype == np.float32 and not eight_bits.are_whole(values)
        if values.size >= _FEWEST and len(np.unique(values.view(np.uint32))) == 1:
            file.replace(place, file.filled(values))
        elif could_be_weights and (parts := eight_bits.found(values)):
            file.replace(place, file.product(*parts))
            kept += values.size
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file.model)), kept


def _place(tensor: Any) -> tuple:
    return tensor.buffer, tensor.type, tuple(tensor.shape)


class _File:
    """A TFLite file as objects. Operations are made by functions of (graph, the number of the tensor to compute)."""

    def __init__(self, model: Any) -> None:
        from tensorflow.lite.python import schema_py_generated

        self.model, self._schema = model, schema_py_generated

    def constants(self) -> dict[tuple, np.ndarray]:
        """Returns the numbers of 32 bits that tensors have, each where it is: in a buffer, of a type and a shape."""
        kinds, found = {self._schema.TensorType.FLOAT32: "<f4", self._schema.TensorType.INT32: "<i4"}, {}
        for tensor in [one for graph in self.model.subgraphs for one in graph.tensors if one.type in kinds]:
            data = self.model.buffers[tensor.buffer].data
            if data is not None and len(data):
                found[_place(tensor)] = np.asarray(data).view(kinds[tensor.type]).reshape(tensor.shape)
        return found

    def replace(self, place: tuple, made: Callable[[Any, int], list[Any]]) -> None:
        """Has operations compute all tensors that have their values from a place."""
        for graph in self.model.subgraphs:
            used = {int(at) for operation in graph.operators for at in operation.inputs} | set(map(int, graph.outputs))
            for at in [at for at, tensor in enumerate(graph.tensors) if _place(tensor) == place]:
                graph.tensors[at].buffer = 0  # the empty one
                if at in used:  # a loop leaves its constants outside it too
                    graph.operators[:0] = made(graph, at)
        if all(tensor.buffer != place[0] for graph in self.model.subgraphs for tensor in graph.tensors):
            self.model.buffers[place[0]].data = None

    def filled(self, values: np.ndarray) -> Callable[[Any, int], list[Any]]:
        """Makes an array of one number."""
        shape = self._constant(np.array(values.shape, np.int32))
        value = self._constant(values.reshape(-1)[:1].reshape(()))
        return lambda graph, at: [self._operation("FILL", 1, [shape(graph, at), value(graph, at)], at)]

    def product(self, whole: np.ndarray, scale: np.ndarray) -> Callable[[Any, int], list[Any]]:
        """Multiplies integers by scales for each place along one axis, or two."""
        axes = np.flatnonzero(np.array(scale.shape) > 1)
        if len(axes) < 2:
            integers = self._constant(whole, scale.reshape(-1), int(axes[0]) if len(axes) else 0)
            return lambda graph, at: [self._operation("DEQUANTIZE", 5, [integers(graph, at)], at)]
        integers, scales = self._constant(whole, np.ones(1, np.float32)), self._constant(scale)

        def made(graph: Any, at: int) -> list[Any]:
            floats = self._tensor(graph, at, whole.shape, np.dtype(np.float32), 0)
            product = self._operation("MUL", 1, [floats, scales(graph, at)], at)
            product.builtinOptionsType = self._schema.BuiltinOptions.MulOptions
            product.builtinOptions = self._schema.MulOptionsT()
            return [self._operation("DEQUANTIZE", 5, [integers(graph, at)], floats), product]

        return made

    def _constant(
        self, values: np.ndarray, scale: np.ndarray | None = None, axis: int = 0
    ) -> Callable[[Any, int], int]:
        """Writes values once; returns what adds a tensor of them to a graph. `scale`: what integers are times."""
        buffer, number = self._schema.BufferT(), len(self.model.buffers)
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)

        def tensor(graph: Any, beside: int) -> int:
            at = self._tensor(graph, beside, values.shape, values.dtype, number)
            if scale is not None:
                quantization = graph.tensors[at].quantization = self._schema.QuantizationParametersT()
                quantization.scale, quantization.zeroPoint = scale, np.zeros(scale.size, np.int64)
                quantization.quantizedDimension = axis
            return at

        return tensor

    def _tensor(self, graph: Any, beside: int, shape: tuple[int, ...], dtype: np.dtype, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.name = graph.tensors[beside].name + f"_{len(graph.tensors)}".encode()
        tensor.shape, tensor.buffer = np.array(shape, np.int32), buffer
        tensor.type = getattr(self._schema.TensorType, dtype.name.upper())
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def _operation(self, name: str, version: int, inputs: list[int], output: int) -> Any:
        code, operation = self._schema.OperatorCodeT(), self._schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self._schema.BuiltinOperator, name)
        code.version = version
        operation.opcodeIndex = len(self.model.operatorCodes)
        operation.inputs, operation.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        self.model.operatorCodes.append(code)
        return operation
