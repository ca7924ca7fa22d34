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

    Compiled programs are kept in ~/.cache/ser_jax/xla, unless JAX_COMPILATION_CACHE_DIR says where: the next process
    does not compile them anew.

    Args:
        model: one that comes with ser_jax (`emodb`, `ravdess`, `both`), a folder that `train`, `study` or `publish`
            made, or a published model on the Hugging Face hub, as `hub:OWNER/NAME`.
        variant: which one, of a study that has several.
        fold: uses the runs of this fold alone; by default the probabilities are the mean over all runs.
        seed: likewise of this seed.
        data_dir: where pretrained encoders lie, for a model on the hidden states of one (default: SER_JAX_DATA, else
            ./data).

    Raises:
        ser_jax.errors.UserError: in one line, for a model, variant, fold, seed or encoder that is not there, several
            variants of which none is named, a damaged checkpoint, and a model that does not take recordings.
    """
    from ser_jax import api  # it imports JAX, which neither `import ser_jax` nor `--help` should wait for

    return api.load(model, variant=variant, fold=fold, seed=seed, data_dir=data_dir)
