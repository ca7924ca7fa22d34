"""What every model returns."""

from typing import Any

import flax.struct


@flax.struct.dataclass
class Output:
    """Logits of a batch, and what its attention looked at.

    Attributes:
        logits: unnormalised log-probabilities, Float[Array, "batch classes"].
        attention: name of a part of the model -> the weights of its attention, batch first. Empty without attention.
    """

    # The types are in the docstring alone: transformations put shapes and axes in the places of arrays.
    logits: Any
    attention: dict[str, Any] = flax.struct.field(default_factory=dict)
