"""Matrix products of maps with kernels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def product(
    x: Float[Array, "*cells channels"], kernel: Float[Array, "channels channels_out"]
) -> Float[Array, "*cells channels_out"]:
    """`x @ kernel` in the dtype of x. The gradient of the kernel is summed over all cells in float32."""
    return x @ kernel.astype(x.dtype)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    cells, gradients = (part.reshape(-1, part.shape[-1]) for part in (x, gradient))
    of_kernel = jnp.einsum("nc,nd->cd", cells, gradients, preferred_element_type=jnp.float32)
    return gradient @ kernel.T.astype(x.dtype), of_kernel.astype(kernel.dtype)


product.defvjp(_forward, _backward)
