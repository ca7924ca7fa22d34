"""What every model returns."""

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Output:
    """Logits of a batch, and what its attention looked at.

    Attributes:
        logits: unnormalised log-probabilities, one per class.
        attention: name of an attention module -> its weights, batch first. Empty without attention.
    """

    logits: Float[Array, "batch classes"]
    attention: dict[str, Array] = flax.struct.field(default_factory=dict)
