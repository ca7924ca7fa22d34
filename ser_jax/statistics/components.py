"""Variance components of a difference in UA: what the choice of speakers adds to it, and what the seeds add.

A run (fold, seed) trains one model. Speakers that the same model tested share the noise of its training, which draws of
speakers do not show: the standard error over speakers is too small then. With two or more seeds, the missing part is
the variance between the seeds of a fold less what of it shows within its speakers (variances of clusters that cross:
Cameron, Gelbach & Miller 2011, Journal of Business & Economic Statistics 29(2)). It is zero where each fold tests one
speaker.

UA is a mean of recalls, so a difference is a sum over cells, the utterances of one speaker in one fold: with the counts
N_c of the classes fixed, each cell adds its hits less those expected of it, by N_c and the number of classes.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Num
from scipy import special

from ser_jax.statistics import metrics, tests
from ser_jax.statistics.bootstrap import LEVEL


@dataclasses.dataclass(frozen=True)
class Cells:
    """Confusion matrices of variants, or other sums, by seed and cell (one speaker's utterances in one fold)."""

    counts: Num[np.ndarray, "variants seeds cells ..."]
    speaker_of: Int[np.ndarray, " cells"]  # numbers into `speakers`
    fold_of: Int[np.ndarray, " cells"]  # numbers into `folds`
    seeds: tuple[int, ...]
    speakers: tuple[str, ...]
    folds: tuple[str, ...]

    def by_speaker(self) -> Num[np.ndarray, "variants seeds speakers ..."]:
        """The sums of each speaker, over folds."""
        return _summed(self.counts, self.speaker_of, len(self.speakers), axis=2)

    def by_fold(self) -> Num[np.ndarray, "variants seeds folds ..."]:
        """The sums of each fold, over its speakers."""
        return _summed(self.counts, self.fold_of, len(self.folds), axis=2)

    def folds_nest_speakers(self) -> bool:
        """Whether every speaker is tested in one fold only."""
        return len(np.unique(self.speaker_of)) == len(self.speaker_of)

    def shares_models(self) -> bool:
        """Whether a model tests several speakers."""
        return len(self.speaker_of) > len(self.folds)

    def every_run_tests_all(self) -> bool:
        """Whether every fold tests every speaker: models of other corpora, tested on a whole corpus."""
        return len(self.folds) > 1 and len(self.speaker_of) == len(self.speakers) * len(self.folds)


@dataclasses.dataclass(frozen=True)
class Components:
    """Parts of the squared standard error of a difference; NaN for what one seed does not show.

    Attributes:
      total: the squared standard error.
      seeds: what of it falls with more seeds.
      shared: the noise of training that speakers have in common and draws of speakers do not show; part of `total`.
        Where it is NaN, and speakers share a model, `total` is that of this model alone.
      clusters: speakers, or folds where the speakers of a fold share a model and one seed does not show how much.
      degrees: of freedom, of Student's t.
    """

    total: float
    seeds: float
    shared: float
    clusters: int
    degrees: float

    def scaled(self, *, seeds: float = 1.0, speakers: float = 1.0) -> "Components":
        """What to expect with so many times the seeds and speakers, which the same number of models tests.

        Where each speaker has a model of its own, there are as many times the models. NaN for other seeds than one.
        """
        own, shared = self.seeds, self.shared
        if np.isnan(self.seeds):
            own = shared = 0.0 if seeds == 1 else np.nan
        shared, own = shared / seeds, (own - shared) / seeds / speakers
        persons = (self.total - (0.0 if np.isnan(self.seeds) else self.seeds)) / speakers
        clusters = self.clusters if speakers == 1 else round(self.clusters * speakers)
        degrees = self.degrees if speakers == 1 else max(self.degrees, clusters - 1.0)
        known = not np.isnan(self.seeds)
        return Components(
            persons + own + shared, own + shared if known else np.nan, shared if known else np.nan, clusters, degrees
        )

    def half_width(self) -> float:
        """Half of the width of the 95 % interval."""
        return float(special.stdtrit(self.degrees, (1 + LEVEL) / 2) * np.sqrt(self.total))

    def detectable(self, comparisons: int = 1) -> float:
        """The smallest difference found in 80 % of studies, where it is one of so many comparisons."""
        return tests.detectable_difference(float(np.sqrt(self.total)), self.degrees, comparisons)


def count_cells(tables: list[pd.DataFrame]) -> Cells:
    """Counts the predictions of variants that were tested on the same rows (see `paired.paired`)."""
    first = tables[0]
    fold_codes, folds = pd.factorize(first["fold"], sort=True)
    speaker_codes, speakers = pd.factorize(first["speaker"], sort=True)
    cell = fold_codes * len(speakers) + speaker_codes
    counted = [metrics.confusion_counts(table.assign(cell=cell), "cell") for table in tables]
    fold_of, speaker_of = np.divmod(np.array(counted[0].groups), len(speakers))
    counts = np.stack([one.counts for one in counted])
    return Cells(counts, speaker_of, fold_of, counted[0].seeds, tuple(speakers), tuple(folds))


def influences(cells: Cells, weights: Float[np.ndarray, " variants"]) -> Float[np.ndarray, "seeds cells"]:
    """What each cell adds to a weighted sum of the variants' UA beyond its share; NaN where nothing was run.

    The cells of a seed sum to that seed's distance from the mean over seeds.
    """
    hits = np.tensordot(weights, np.diagonal(cells.counts, axis1=-2, axis2=-1), axes=1)  # [seeds, cells, classes]
    counts = cells.counts[0].sum(axis=-1)
    totals = counts.sum(axis=1, keepdims=True)
    expected = metrics.divide(hits.sum(axis=(0, 1)), counts.sum(axis=(0, 1)))
    classes = (totals > 0).sum(axis=-1)
    own = np.nansum(metrics.divide(hits - expected * counts, np.broadcast_to(totals, counts.shape)), axis=-1) / classes
    return np.where(counts.sum(axis=-1) > 0, own, np.nan)


def slopes(
    sums: Num[np.ndarray, "seeds cells ..."], statistic: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "seeds cells ..."]:
    """What each cell adds to the mean over seeds of any statistic of sums; NaN where nothing was run.

    It is the derivative of the statistic along the cell's own sums, by central differences. `statistic` maps
    [chunk, ...] to a figure, or several, of each; for UA the slopes of a variant are its `influences`.
    """
    whole, step = sums.sum(axis=1).mean(axis=0), 1e-4
    flat = step * sums.reshape(-1, *sums.shape[2:])
    found = (statistic(whole + flat) - statistic(whole - flat)) / (2 * step)
    found = found.reshape(*sums.shape[:2], *found.shape[1:])
    run = sums.reshape(*sums.shape[:2], -1).any(axis=-1)
    return np.where(run.reshape(*run.shape, *[1] * (found.ndim - 2)), found, np.nan)


def decompose(
    own: Float[np.ndarray, "seeds cells"], cells: Cells, over_speakers: float, speakers: int | None = None
) -> Components:
    """Splits the squared standard error of a figure, `over_speakers` as the bootstrap over speakers has it.

    `own` is what each cell adds to the figure; `speakers` how many count, by default all.
    """
    speakers, fold_of = speakers or len(cells.speakers), cells.fold_of
    if np.isnan(over_speakers):
        return Components(np.nan, np.nan, np.nan, speakers, speakers - 1.0)
    if cells.every_run_tests_all():  # then a fold is one more training of the same, as a seed is
        own = own.reshape(-1, len(cells.speakers)) * len(cells.folds)
        fold_of = np.zeros(len(cells.speakers), int)
    run, groups = ~np.isnan(own), int(fold_of.max()) + 1
    of_fold = _summed(np.nan_to_num(own), fold_of, groups, axis=1)
    run_of_fold = _summed(run.astype(int), fold_of, groups, axis=1) > 0
    between, trainings = _variance_of_mean(of_fold, run_of_fold)
    if not (trainings > 1).any():
        return _of_one_seed(of_fold[0], np.nan_to_num(own[0]), cells, over_speakers, speakers)
    within, _ = _variance_of_mean(np.nan_to_num(own), run)
    shared, degrees = 0.0, speakers - 1.0
    if cells.shares_models():
        shared = max(0.0, float(between.sum() - within.sum()))
        degrees = _degrees(over_speakers, speakers, shared, between, trainings)
    total = over_speakers + shared
    return Components(total, min(float(between.sum()), total), shared, speakers, degrees)


def _of_one_seed(
    of_fold: Float[np.ndarray, " folds"],
    own: Float[np.ndarray, " cells"],
    cells: Cells,
    over_speakers: float,
    speakers: int,
) -> Components:
    """Where seeds show nothing of the noise that speakers share, folds do that cross with speakers.

    Variances of clusters that cross add up, less that of their intersections (Cameron, Gelbach & Miller 2011), with the
    degrees of freedom of the fewer clusters. Folds that nest speakers take another bootstrap (`paired.variances`).
    """
    if not cells.shares_models() or cells.folds_nest_speakers():
        return Components(over_speakers, np.nan, np.nan, speakers, speakers - 1.0)
    shared = max(0.0, _clustered(of_fold) - _clustered(own))
    return Components(over_speakers + shared, np.nan, shared, speakers, min(speakers, len(of_fold)) - 1.0)


def _clustered(of_cluster: Float[np.ndarray, " clusters"]) -> float:
    """The variance of a sum of what clusters add."""
    number = len(of_cluster)
    return float(number / (number - 1) * (of_cluster**2).sum())


def _degrees(over_speakers: float, speakers: int, shared: float, between: np.ndarray, trainings: np.ndarray) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946), on the side of fewer.

    Two trainings of one model show next to nothing of its noise: their one degree of freedom is then the sum's.
    """
    of_trainings = float((trainings - 1).sum())
    if of_trainings == 1:
        return 1.0
    if not shared:
        return speakers - 1.0
    parts = over_speakers**2 / (speakers - 1) + float((between**2 / np.maximum(trainings - 1, 1)).sum())
    return max((over_speakers + shared) ** 2 / parts, min(speakers - 1.0, of_trainings))


def _variance_of_mean(
    values: Float[np.ndarray, "trainings groups"], present: Bool[np.ndarray, "trainings groups"]
) -> tuple[Float[np.ndarray, " groups"], Int[np.ndarray, " groups"]]:
    """The variance of each group's mean over trainings, and how many trainings it has.

    A group of one training is given the mean noise of the others; where all are such, NaN.
    """
    number = present.sum(axis=0)
    mean = metrics.divide(np.where(present, values, 0).sum(axis=0), number)
    of_one = metrics.divide((np.where(present, values - mean, 0) ** 2).sum(axis=0), number - 1)
    return np.where(number > 1, of_one, metrics.mean_of_present(of_one, axis=0)) / np.maximum(number, 1), number


def _summed(values: np.ndarray, group_of: Int[np.ndarray, " cells"], groups: int, axis: int) -> np.ndarray:
    """Sums along `axis` what belongs to the same group."""
    moved = np.moveaxis(values, axis, 0)
    total = np.zeros((groups, *moved.shape[1:]), values.dtype)
    np.add.at(total, group_of, moved)
    return np.moveaxis(total, 0, axis)
