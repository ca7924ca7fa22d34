"""The interval of a single variant's figure: over speakers, with the noise of training that speakers share added.

It is that of a difference (`paired`), for any figure that is computed from sums over speakers: UA, WA, recalls, CCC,
scores of votes, ECE, Brier score. With one seed and folds of several speakers it is over speakers alone: what speakers
of a fold share by their model is small beside what they differ in. Where one training tested all speakers, it is the
interval of this model alone.
"""

import numpy as np
from jaxtyping import Float

from ser_jax.statistics import bootstrap, components, metrics
from ser_jax.statistics.bootstrap import Estimate
from ser_jax.statistics.components import Cells

THIS_MODEL = (
    "one training tested all speakers: the intervals are of this trained model, and leave out that another training of "
    "the same would differ"
)


def interval(
    cells: Cells,
    metric: bootstrap.Metric = metrics.unweighted_accuracy,
    *,
    replicates: int = bootstrap.REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Estimates a metric of one variant, pooled over folds and averaged over seeds, with its 95 % interval.

    `cells` are of one variant. Of a metric that gives [..., classes] each class has its own interval, over the speakers
    who have it. NaN as in `bootstrap.bootstrap_interval`.
    """
    by_speaker = cells.by_speaker()[0]
    found = bootstrap.bootstrap_interval(by_speaker, metric, replicates=replicates, seed=seed)
    if not cells.shares_models():
        return found
    speakers = bootstrap.counting_speakers(by_speaker, found.value)
    return widened(found, components.slopes(cells.counts[0], metric), cells, speakers, (0.0, 1.0))


def widened(
    found: Estimate,
    own: Float[np.ndarray, "seeds cells ..."],
    cells: Cells,
    speakers: int | np.integer | np.ndarray,
    bounds: tuple[float | np.ndarray, float | np.ndarray],
) -> Estimate:
    """An estimate over speakers, whose interval has the noise of training that they share as well.

    `own` is what each cell adds to the figure, or figures, of which each counts so many `speakers`.
    """
    shape = np.shape(found.value)
    errors, numbers = (np.broadcast_to(of, shape).reshape(-1) for of in (found.standard_error, speakers))
    parts = [
        components.decompose(one, cells, float(error) ** 2, int(number))
        for one, error, number in zip(own.reshape(*own.shape[:2], -1).transpose(2, 0, 1), errors, numbers, strict=True)
    ]
    half = np.reshape([one.half_width() for one in parts], shape)
    low, high = np.clip(found.value - half, *bounds), np.clip(found.value + half, *bounds)
    error = np.sqrt(np.reshape([one.total for one in parts], shape))
    return Estimate(found.value, *map(np.asarray, (low, high, error)))
