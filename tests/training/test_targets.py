"""What is learned beside the emotion: the transcript, and time-continuous tracks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora.tracks import interpolate, load_tracks
from ser_jax.corpora.vocabulary import decode
from ser_jax.errors import UserError
from ser_jax.feeds.resident import crop_batch
from ser_jax.frontend import Frontend
from ser_jax.inference import tables
from ser_jax.statistics.concordance import summarise_tracks
from ser_jax.training import loop
from ser_jax.training import population as populations
from tests.training.tiny import CONFIG, tiny_corpus

ATTENTION_RNN = {"name": "attention_rnn", "cell": "gru", "hidden": 8, "decoder_hidden": 16, "text": "characters"}
TRAINING = {
    "folds": [0],
    "augmentation": {"mixup": 0.0},
    "optimizer": {"learning_rate": 0.02},
    "training": {"crop_seconds": 3.0, "train_steps": 12, "validate_steps": -1, "validate_epochs": 100.0},
}


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


@pytest.fixture(scope="module")
def tracks(data):
    return load_tracks(data[0])


def population_of(data, tracks=None, **changes):
    config = configuration.merge(configuration.merge(CONFIG, TRAINING), changes)
    return populations.make_population(config, *data, tracks=tracks)


@pytest.fixture(scope="module")
def trained(data, tracks, tmp_path_factory):
    population = population_of(data, tracks, model=ATTENTION_RNN)
    entries = []
    folder = tmp_path_factory.mktemp("targets")
    state, _ = loop.train(population, folder, report=entries.append)
    return population, state, entries


def test_every_loss_falls_and_is_logged(trained):
    _, _, entries = trained
    assert entries[-1]["text_loss"] < entries[0]["text_loss"]
    assert entries[-1]["concordance"] > entries[0]["concordance"]


def test_tracks_are_told_for_every_frame_of_the_test_utterances(trained, data, tracks):
    population, state, _ = trained
    table = tables.test_tracks(population, state, "gru")
    corpus, _ = data
    rows = population.folds[0].test
    lengths = corpus.utterances["num_samples"].to_numpy()[rows]
    assert len(table) == sum(1 + length // population.learner.frontend.hop for length in lengths)
    first = table[table["utterance"] == corpus.utterances["id"].iloc[rows[0]]]
    expected = interpolate(tracks, int(rows[0]), first["seconds"].to_numpy(np.float64))
    np.testing.assert_allclose(first[["true_arousal", "true_valence"]].to_numpy(), expected, atol=1e-6)
    assert set(summarise_tracks(table, replicates=10)) == {"arousal", "valence"}


def test_a_checkpoint_says_which_symbols_and_tracks_it_knows(trained, data):
    population, _, _ = trained
    metadata = populations.describe(population)["targets"]
    assert metadata["tracks"] == ["arousal", "valence"]
    again = populations.make_population(population.config, *data, trained_targets=metadata)
    assert again.targets.vocabulary == population.targets.vocabulary
    assert again.learner.num_parameters == population.learner.num_parameters


def test_a_crop_has_its_transcript_only_where_it_is_the_whole_utterance(data):
    population = population_of(data, model=ATTENTION_RNN)
    rows = jnp.arange(4)
    for crop_samples, whole in ((1 << 16, True), (4000, False)):
        batch = crop_batch(
            population.resident, rows, jax.random.split(jax.random.key(0), len(rows)), crop_samples, jnp.zeros(())
        )
        texts = [decode(population.targets.vocabulary, tokens.tolist()) for tokens in batch.tokens]
        assert texts == (data[0].utterances["transcript"].tolist()[:4] if whole else [""] * 4)


def test_a_crop_s_tracks_are_those_of_its_frames(data, tracks):
    frontend = Frontend(hop_ms=20.0)
    population = population_of(data, tracks, model={"name": "rnn", "hidden": 8})
    crop_samples = 8000
    batch = crop_batch(
        population.resident,
        jnp.arange(3),
        jax.random.split(jax.random.key(0), 3),
        crop_samples,
        jnp.zeros(()),
        frontend=frontend,
    )
    corpus, _ = data
    for row in range(3):
        start, length = (int(corpus.utterances[name].iloc[row]) for name in ("start", "num_samples"))
        own = corpus.samples[start : start + length] / 32768.0
        crop = np.asarray(batch.waveform[row])
        [offset] = [i for i in range(length - crop_samples + 1) if np.array_equal(own[i : i + crop_samples], crop)]
        seconds = (offset + np.arange(batch.tracks.shape[1]) * frontend.hop) / 16000
        np.testing.assert_allclose(batch.tracks[row], interpolate(tracks, row, seconds), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "with_tracks", "message"),
    [
        ({"model": {"name": "rnn"}, "augmentation": {"mixup": 0.5}}, True, "mixup: mixed utterances"),
        ({"model": {"name": "linear"}}, True, "model linear has no option tracks, which is one of attention_rnn, rnn"),
        ({"model": {"name": "rnn", "tracks": 2}}, False, r"config\.model\.tracks: the corpus decides it"),
        ({"model": ATTENTION_RNN, "corpus": {"symbols": "abc"}}, False, "character .* is not in the vocabulary"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_compiles(data, tracks, changes, with_tracks, message):
    with pytest.raises(UserError, match=message):
        population_of(data, tracks if with_tracks else None, **changes)


def test_a_model_that_takes_deltas_apart_is_refused_features_without_them(data):
    with pytest.raises(UserError, match=r"config\.frontend\.deltas: found 0; the model takes 2 orders of them apart"):
        population_of(data, model={"name": "crnn", "size": "tiny", "channels": 3})


def test_an_utterance_shorter_than_the_subsampling_is_refused(data):
    changes = {"frontend": {"hop_ms": 2000.0, "window_ms": 2000.0}, "model": {"name": "transformer"}}
    with pytest.raises(UserError, match=r"utterance 'synthetic-\d+-\d+' has 1 frame; the model needs 4"):
        population_of(data, **changes)


@pytest.mark.parametrize(("group", "option"), [("training", "crop_seconds"), ("evaluation", "window_seconds")])
def test_a_crop_and_a_window_shorter_than_the_subsampling_are_refused(data, group, option):
    changes = {"frontend": {"hop_ms": 40.0, "window_ms": 40.0}, "model": {"name": "transformer"}}
    with pytest.raises(UserError, match=rf"config\.{group}\.{option}: found 0\.1, .* 3 frames; the model needs 4"):
        population_of(data, **changes, **{group: {option: 0.1}})
    population_of(data, **changes, **{group: {option: 0.12}})
