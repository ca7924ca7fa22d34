"""Which time steps of a batch of maps are real.

Maps have shape [batch, time, frequency, channels] and come with a `Mask`. One rule keeps padding out of every result:
**a map is zero where its utterance has ended**. A convolution then reads zeros beyond the end, as it does at a true
border, and a sum over the map is a sum over real cells.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Map = Float[Array, "batch _time _frequency _channels"]  # a leading underscore: sizes differ within a function


@flax.struct.dataclass
class Mask:
    """The real cells of a batch of maps.

    Attributes:
        lengths: number of real time steps of each utterance, Int[Array, "batch"].
        num_steps: time steps of the map, real and padded.
        num_bands: frequency bands of the map, all real.
    """

    lengths: Any
    num_steps: int = flax.struct.field(pytree_node=False)
    num_bands: int = flax.struct.field(pytree_node=False)

    def strided(self, strides: tuple[int, int]) -> "Mask":
        """The mask of the map that a convolution or pooling with `strides` makes of this one."""
        time, frequency = strides
        return Mask(-(-self.lengths // time), -(-self.num_steps // time), -(-self.num_bands // frequency))

    @property
    def real(self) -> Bool[Array, "batch time 1 1"]:
        """True where a time step is real."""
        steps = jax.lax.broadcasted_iota(self.lengths.dtype, (1, self.num_steps, 1, 1), 1)
        return steps < self.lengths.reshape(-1, 1, 1, 1)

    def apply(self, x: Map) -> Map:
        """The map with zeros in its padding."""
        return jax.lax.select(jnp.broadcast_to(self.real, x.shape), x, jnp.zeros_like(x))

    def count(self) -> Float[Array, ""]:
        """The number of real cells of the batch."""
        return jnp.sum(self.lengths).astype(jnp.float32) * self.num_bands

    def mean(self, x: Map) -> Float[Array, "batch channels"]:
        """Mean of each channel over an utterance's real cells, summed in float32; zero for an utterance without any."""
        total = jnp.sum(self.apply(x), (1, 2), dtype=jnp.float32)
        return (total / jnp.maximum(self.lengths * self.num_bands, 1)[:, None]).astype(x.dtype)
