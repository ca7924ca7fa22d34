"""The precision that programs compute in, by one name: that of the network's activations, and that of products.

Parameters, statistics of batch normalisation, softmax and losses are float32 in any case. Log-mel features have a
precision of their own: see `ser_jax.frontend.logmel`.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ser_jax import machine
from ser_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtype of activations, and JAX's name for the precision of the products of float32 arrays."""

    activations: DTypeLike
    products: str


_BFLOAT16_SINCE = 8  # compute capability of NVIDIA's devices

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


def lacking_bfloat16() -> jax.Device | None:
    """Returns one of this process's devices that has no bfloat16, if there is one."""
    return next((one for one in jax.local_devices() if 0 < machine.capability(one) < _BFLOAT16_SINCE), None)


def check_precision(precision: str, *, training: bool) -> None:
    """Raises `UserError` for a `training.precision` that a device does not have; a trained model cannot change its."""
    device = lacking_bfloat16() if precision == "bfloat16" else None
    if device is not None:
        raise UserError(
            f"config.training.precision: found bfloat16, which {device.device_kind} does not have (compute capability "
            f"{device.compute_capability}, expected {_BFLOAT16_SINCE}.0 or later); expected "
            + ("tf32 or float32" if training else "another device, or JAX_PLATFORMS=cpu")
        )
