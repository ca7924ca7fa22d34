"""Speech emotion recognition in JAX: does attention help, which, and by how much."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ser_jax.api import Model

__version__ = "0.2.0"


def load(
    model: str | os.PathLike = "emodb",
    *,
    variant: str | None = None,
    fold: str | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Model:
    """Returns a trained model, ready for recordings: see `ser_jax.api.Model`, and docs/using_models.md.

    Compiled programs are kept for later processes in ~/.cache/ser_jax/xla, or JAX_COMPILATION_CACHE_DIR.

    Args:
        model: one that comes with ser_jax (`emodb`, `ravdess`, `both`), a folder that `train`, `study` or `publish`
            made, or a published model on the Hugging Face hub, as `hub:OWNER/NAME`.
        variant: the variant, of a study that has several.
        fold: use only the runs of this fold; by default the probabilities are the mean over all runs.
        seed: use only the runs of this seed.
        data_dir: the folder with pretrained encoders, for a model on hidden states (default: SER_JAX_DATA, else
            ./data).

    Raises:
        ser_jax.errors.UserError: in one line, for a model, variant, fold, seed or encoder that does not exist, several
            variants of which none is named, a damaged checkpoint, or a model that does not take recordings.
    """
    from ser_jax import api  # it imports JAX, which neither `import ser_jax` nor `--help` should wait for

    return api.load(model, variant=variant, fold=fold, seed=seed, data_dir=data_dir)
