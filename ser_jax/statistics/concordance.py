"""How well time-continuous predictions agree with their tracks.

The table has one row for every frame: variant, fold, seed, utterance, speaker, seconds, then `true_<track>` and
`predicted_<track>` for each track.
"""

from typing import Any

import pandas as pd

from ser_jax.predictions import TRUE
from ser_jax.statistics import bootstrap
from ser_jax.statistics.scores import cell_sums, concordance, moments, with_interval


def summarise_tracks(table: pd.DataFrame, *, replicates: int = bootstrap.REPLICATES) -> dict[str, dict[str, Any]]:
    """Returns for each track `ccc` and `ci95`: its concordance correlation coefficient (Lin 1989) over all frames.

    The frames of all folds are pooled for each seed, and the seeds averaged; the 95 % interval is over speakers, None
    with one.
    """
    names = [column.removeprefix(TRUE) for column in table.columns if column.startswith(TRUE)]
    return {name: _summarise(table, name, replicates) for name in names}


def _summarise(table: pd.DataFrame, name: str, replicates: int) -> dict[str, Any]:
    found = with_interval(cell_sums(table, moments(table, name)[None]), concordance, (-1.0, 1.0), replicates)
    return {"ccc": float(found.value), "ci95": bootstrap.ends(found.low, found.high)}
