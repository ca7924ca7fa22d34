import dataclasses

import numpy as np
import pytest
from scipy import stats

from ser_jax.statistics import bootstrap, components, intervals, metrics
from tests.statistics.simulated_designs import rates, simulate


def cells_of(design, speakers=8, seeds=3, shared=0.4):
    cells, _ = simulate(np.random.default_rng(0), design, speakers, seeds, (0.0,), shared=shared)
    return dataclasses.replace(cells, counts=cells.counts[:1])


def test_with_a_model_for_each_speaker_it_is_the_bootstraps_over_speakers():
    cells = cells_of("own model")
    found, expected = (
        f(of) for f, of in ((intervals.interval, cells), (bootstrap.bootstrap_interval, cells.by_speaker()[0]))
    )
    assert (found.low, found.high) == (expected.low, expected.high)


@pytest.mark.parametrize("design", ["folds", "one model"])
def test_the_noise_that_speakers_share_is_added(design):
    cells = cells_of(design)
    found = intervals.interval(cells, replicates=400)
    over_speakers = float(bootstrap.bootstrap_interval(cells.by_speaker()[0], replicates=400).standard_error)
    recall = np.diagonal(cells.counts[0], axis1=-2, axis2=-1) / cells.counts[0].sum(axis=(1, -1), keepdims=True)[..., 0]
    of_cells = recall.mean(axis=-1)  # [seeds, cells]: what each adds to its seed's UA
    of_fold = np.stack([of_cells[:, cells.fold_of == fold].sum(axis=1) for fold in range(len(cells.folds))], axis=1)
    shared = (of_fold.var(axis=0, ddof=1).sum() - of_cells.var(axis=0, ddof=1).sum()) / 3
    assert shared > 0
    assert float(found.standard_error) == pytest.approx(np.sqrt(over_speakers**2 + shared), rel=1e-6)
    half = (float(found.high) - float(found.low)) / 2
    assert half > stats.t.ppf(0.975, 20) * float(found.standard_error)
    for metric in (metrics.recall, metrics.macro_f1, metrics.weighted_accuracy):
        wider = intervals.interval(cells, metric, replicates=400)
        plain = bootstrap.bootstrap_interval(cells.by_speaker()[0], metric, replicates=400)
        assert (wider.standard_error >= plain.standard_error - 1e-12).all()
        assert (wider.standard_error > plain.standard_error).any()
        assert ((wider.low >= 0) & (wider.high <= 1)).all()


def test_the_interval_of_a_shared_model_ends_where_figures_can_be():
    found = intervals.interval(cells_of("one model", speakers=2, seeds=2, shared=2.0), replicates=50)
    assert (found.low, found.high) == (0, 1)  # one degree of freedom


def test_an_emotion_of_one_speaker_has_no_interval_and_leaves_the_others():
    cells = cells_of("one model")
    counts = cells.counts.copy()
    counts[:, :, 1:, 0] = 0  # the first class: of the first speaker alone
    found = intervals.interval(dataclasses.replace(cells, counts=counts), metrics.recall, replicates=200)
    assert np.isnan(found.low[0])
    assert not np.isnan(found.low[1:]).any()


def test_the_recall_of_an_emotion_has_the_degrees_of_freedom_of_the_speakers_who_were_heard_with_it():
    cells = cells_of("one model")
    counts = cells.counts.copy()
    counts[:, :, 3:, 0] = 0  # the first class: of three of the eight speakers
    cells = dataclasses.replace(cells, counts=counts)
    found = intervals.interval(cells, metrics.recall, replicates=200)
    alone = bootstrap.bootstrap_interval(cells.by_speaker()[0], metrics.recall, replicates=200)
    slopes, classes = components.slopes(cells.counts[0], metrics.recall), counts.shape[-1]
    expected = intervals.widened(alone, slopes, cells, np.array([3] + [8] * (classes - 1)), (0.0, 1.0))
    np.testing.assert_array_equal(found.low, expected.low)
    np.testing.assert_array_equal(found.high, expected.high)
    assert found.high[0] > intervals.widened(alone, slopes, cells, 8, (0.0, 1.0)).high[0]  # of more speakers


def test_intervals_of_one_model_for_all_speakers_cover_what_very_many_trainings_would_have():
    # Of the bootstrap over speakers alone 75 to 85 % do.
    assert rates("one model", 12, 4, studies=60, replicates=100, shared=0.5, of_variants=True)["UA covered"] >= 0.9


def test_intervals_of_one_training_cover_what_this_model_would_have_of_very_many_speakers():
    found = rates("one model", 12, 1, studies=60, replicates=100, shared=0.5, of_variants=True)
    assert found["UA covered"] >= 0.88
    assert found["covered"] >= 0.88
