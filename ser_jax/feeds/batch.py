"""What every feed brings to the device, and every training step takes."""

from typing import Any

import flax.struct


@flax.struct.dataclass
class Batch:
    """Utterances, or crops of them, side by side.

    The types are here alone: transformations put other things in the places of arrays.

    Attributes:
      waveform: float [batch, samples] in [-1, 1) at 16 kHz, zero past each row's end; or [batch, frames, dims] of
        pre-extracted features.
      num_samples: [batch], how many samples, or such frames, of each row are the utterance's own.
      label: [batch], the class of each row.
      weight: [batch], 1 for an utterance, 0 for a row that only fills the batch up.
      tokens: [batch, tokens] of each row's transcript, -1 after its end and where the row is not the whole utterance;
        None where no text is trained.
      dimensions: [batch, dimensions], NaN where a value is not known; None where none are trained.
      votes: [batch, classes], the share of raters that heard each class; None where labels are trained.
      tracks: [batch, frames, tracks], a value for every frame and track; None where no tracks are trained.
      statistics: `ser_jax.frontend.Statistics` [batch, features] of each row's speaker; None where they are not asked
        for.
      source: [batch], the number of the corpus that each row was merged from, -1 for none that has a classifier of its
        own; None where one classifier is shared.
      masked: bool [batch, frames], which frames are masked, chosen by the training step; None where none is.
    """

    waveform: Any
    num_samples: Any
    label: Any
    weight: Any
    tokens: Any = None
    dimensions: Any = None
    votes: Any = None
    tracks: Any = None
    statistics: Any = None
    source: Any = None
    masked: Any = None
