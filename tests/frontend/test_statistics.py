"""The statistics of folds and speakers from sums over utterances, against NumPy on the frames themselves."""

import numpy as np
import pytest

from ser_jax.frontend import statistics
from ser_jax.frontend.logmel import FeatureSums

LENGTHS = (3, 1, 8, 5, 2)
SPEAKERS = ["b", "a", "b", "", "a"]


@pytest.fixture(scope="module")
def utterances():
    rng = np.random.default_rng(0)
    return [rng.normal(2 * number, 1 + number, (length, 4)) for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def sums(utterances):
    return FeatureSums(
        np.array(LENGTHS),
        np.stack([frames.sum(0) for frames in utterances]),
        np.stack([np.square(frames).sum(0) for frames in utterances]),
    )


def test_statistics_of_a_fold_are_those_of_all_its_frames(utterances, sums):
    found = statistics.fold_statistics(sums, np.array([0, 2, 3]))
    frames = np.concatenate([utterances[row] for row in (0, 2, 3)])
    np.testing.assert_allclose(found.mean, frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, frames.std(0), rtol=1e-5)


def test_each_utterance_has_the_statistics_of_its_speaker_and_rows_behind_the_last_change_nothing(utterances, sums):
    speakers = np.array(SPEAKERS)
    found = statistics.speaker_statistics(sums, speakers, len(LENGTHS) + 2)
    for row, speaker in enumerate(speakers):
        frames = np.concatenate([utterances[i] for i in np.flatnonzero(speakers == speaker)])
        np.testing.assert_allclose(found.mean[row], frames.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.std[row], frames.std(0), rtol=1e-5)
    np.testing.assert_array_equal(found.mean[len(LENGTHS) :], 0)
    np.testing.assert_array_equal(found.std[len(LENGTHS) :], 1)
