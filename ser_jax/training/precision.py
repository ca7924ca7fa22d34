"""The precision that programs compute in, by one name: that of the network's activations, and that of products.

Parameters, statistics of batch normalisation, softmax and losses are float32 in any case. Log-mel features have a
precision of their own: see `ser_jax.frontend.logmel`.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtype of activations, and JAX's name for the precision of the products of float32 arrays."""

    activations: DTypeLike
    products: str


PRECISIONS = {
    "float32": Precision(jnp.float32, "highest"),
    "tf32": Precision(jnp.float32, "tensorfloat32"),  # factors of 11 bits, sums of float32, where the device has it
    "bfloat16": Precision(jnp.bfloat16, "bfloat16"),  # factors of 8 bits, sums of float32
}


def activations_dtype(name: str) -> DTypeLike:
    """Returns the dtype that the network's input is brought to; the layers compute in that of what they are given."""
    return PRECISIONS[name].activations


def products_in(name: str) -> contextlib.AbstractContextManager:
    """Returns the context in which a program is traced, so that its products have this precision."""
    return jax.default_matmul_precision(PRECISIONS[name].products)
