"""Operations of the models, each with one public function that says what it computes.

Every operation equals one of `jax.lax` or PyTorch, which its test compares it with. How it is computed, and where the
platform decides, is inside.
"""

from ser_jax.models.ops.convolution import convolution
from ser_jax.models.ops.depthwise import depthwise
from ser_jax.models.ops.pooling import average_pool, max_pool
from ser_jax.models.ops.product import product
from ser_jax.models.ops.recurrence import recurrence, recurrent_step

__all__ = [
    "average_pool",
    "convolution",
    "depthwise",
    "max_pool",
    "product",
    "recurrence",
    "recurrent_step",
]
