"""What every model returns."""

from typing import Any

import flax.struct


@flax.struct.dataclass
class Attention:
    """The weights of one attention, and what their axes are.

    Attributes:
        weights: Float[Array, "batch *others"].
        axes: a name for every axis, "batch" first: "channels", "heads", "queries" (frames that look), "tokens" (of a
            decoder, the first is the emotion's), "frames" (that are looked at). Where "frames" is an axis it is the
            last, and the weights are a distribution over the utterance's own frames: they sum to one, and are zero in
            the padding.
        stride: frames of the model's input for each of these frames.
    """

    # The types are in the docstring alone: transformations put shapes and axes in the places of arrays.
    weights: Any
    axes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    stride: int = flax.struct.field(pytree_node=False, default=1)


@flax.struct.dataclass
class Output:
    """Logits of a batch, and its attention weights.

    Attributes:
        logits: unnormalised log-probabilities of the emotions, Float[Array, "batch classes"].
        attention: name of a part of the model -> its attention. Empty without attention.
        tokens: unnormalised log-probabilities of a text that follows the emotion, Float[Array, "batch tokens symbols"],
            or None.
        tracks: a value for every frame of the input and every track, Float[Array, "batch frames tracks"], or None.
        reconstruction: the features of every frame of the input, masked or not, as the model reconstructs them,
            Float[Array, "batch frames features"]; those of padding mean nothing. None unless it is trained to.
    """

    logits: Any
    attention: dict[str, Attention] = flax.struct.field(default_factory=dict)
    tokens: Any = None
    tracks: Any = None
    reconstruction: Any = None
