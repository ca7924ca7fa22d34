"""What every feed brings to the device, and every training step takes."""

import flax.struct
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class Batch:
    """Utterances, or crops of them, side by side.

    Attributes:
      waveform: samples in [-1, 1) at 16 kHz, zero past each row's end.
      num_samples: how many samples of each row are the utterance's own.
      label: the class of each row.
      weight: 1 for an utterance, 0 for a row that only fills the batch up.
    """

    waveform: Float[Array, "batch samples"]
    num_samples: Int[Array, " batch"]
    label: Int[Array, " batch"]
    weight: Float[Array, " batch"]
