"""What every feed brings to the device, and every training step takes."""

from typing import Any

import flax.struct
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class Batch:
    """Utterances, or crops of them, side by side.

    Attributes:
      waveform: samples in [-1, 1) at 16 kHz, zero past each row's end; or frames of features made elsewhere, with
        their dims as a third axis.
      num_samples: how many samples, or such frames, of each row are the utterance's own.
      label: the class of each row.
      weight: 1 for an utterance, 0 for a row that only fills the batch up.
      tokens: [batch, tokens] of each row's transcript, -1 after its end and where the row is not the whole utterance;
        None where no text is trained.
      tracks: [batch, frames, tracks], a value for every frame and track; None where no tracks are trained.
    """

    waveform: Float[Array, "batch samples"] | Float[Array, "batch frames dims"]
    num_samples: Int[Array, " batch"]
    label: Int[Array, " batch"]
    weight: Float[Array, " batch"]
    tokens: Any = None
    tracks: Any = None
