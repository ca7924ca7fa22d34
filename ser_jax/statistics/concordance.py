"""How well time-continuous predictions agree with their tracks.

The table has one row for every frame: variant, fold, seed, utterance, speaker, seconds, then `true_<track>` and
`predicted_<track>` for each track.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ser_jax.statistics import bootstrap


def summarise_tracks(table: pd.DataFrame, *, replicates: int = bootstrap.REPLICATES) -> dict[str, dict[str, Any]]:
    """Returns for each track `ccc` and `ci95`: its concordance correlation coefficient (Lin 1989) over all frames.

    The frames of all folds are pooled for each seed, and the seeds averaged; the 95 % interval is a bootstrap over
    speakers, None with one.
    """
    names = [column.removeprefix("true_") for column in table.columns if column.startswith("true_")]
    return {name: _summarise(table, name, replicates) for name in names}


def concordance(sums: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "..."]:
    """The coefficient from the sums of 1, x, y, x^2, y^2 and x y; 0 where neither side moves."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    mean_x, mean_y = x / count, y / count
    spread = xx / count - mean_x**2 + yy / count - mean_y**2 + (mean_x - mean_y) ** 2
    covariance = xy / count - mean_x * mean_y
    return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12)


def _summarise(table: pd.DataFrame, name: str, replicates: int) -> dict[str, Any]:
    x, y = (table[f"{side}_{name}"].to_numpy(np.float64) for side in ("true", "predicted"))
    columns = pd.DataFrame(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))
    sums = columns.groupby([table["seed"], table["speaker"]]).sum().unstack(fill_value=0)
    by_speaker = sums.to_numpy().reshape(len(sums), 6, -1).transpose(2, 0, 1)  # [speakers, seeds, 6]
    value = np.asarray(_mean_over_seeds(by_speaker.sum(axis=0)[None])[0])
    values = bootstrap.bootstrap_sums(by_speaker, _mean_over_seeds, replicates=replicates, seed=0)
    found = bootstrap.estimate(value, values, len(by_speaker), bounds=(-1.0, 1.0))
    return {"ccc": float(found.value), "ci95": None if np.isnan(found.low) else [float(found.low), float(found.high)]}


def _mean_over_seeds(sums: Float[np.ndarray, "chunk seeds 6"]) -> Float[np.ndarray, " chunk"]:
    return concordance(sums).mean(axis=-1)
