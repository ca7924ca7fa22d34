"""Learning to predict the features of masked frames, without labels or beside the emotion."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError
from ser_jax.inference import predict
from ser_jax.studies.run import run_study
from ser_jax.studies.variants import population_of as variant_population
from ser_jax.studies.workdirs import load_initial
from ser_jax.training import devices, loop
from ser_jax.training import population as populations
from tests.training.tiny import CONFIG, tiny_corpus, vectors

UNLABELLED = {"emotion": 0.0, "frames": 1.0}
MELS = 20
TRAINING = {
    "folds": [0],
    "frontend": {"hop_ms": 20.0, "num_mels": MELS},
    "masking": {"span": 3},
    "model": {"name": "rnn", "hidden": 8, "depth": 1},
    "optimizer": {"learning_rate": 0.02},
    "training": {"batch_size": 16, "crop_seconds": 1.0, "validate_steps": -1, "validate_epochs": 1e6, "split": "runs"},
}
SHOWN = {"speed": 0.0, "spec_augment": 0.0, "mixup": 0.0}


@pytest.fixture(scope="module")
def data():
    return tiny_corpus()


def population_of(data, data_dir=None, **changes):
    config = configuration.merge(configuration.merge(CONFIG, TRAINING), changes)
    return populations.make_population(config, *data, data_dir=data_dir)


def stepped(population, steps=3):
    """The state and the metrics after some steps."""
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(steps))
    state, sums = populations.train_steps(population, populations.initial_state(population), piece)
    return jax.tree.map(np.asarray, (devices.gather(state, 1), devices.gather(sums, 1)))


def by_path(tree, axes):
    """The parameters of the first run by their paths; `axes` is the number of axes that runs have."""
    return {path: np.asarray(leaf)[(0,) * axes] for path, leaf in flatten_dict(tree).items()}


def test_masked_frames_are_predicted_far_better_than_by_zeros(data, tmp_path):
    """Whose error is 1, the variance of normalised features."""
    population = population_of(data, objective=UNLABELLED, augmentation=SHOWN, training={"train_steps": 60})
    entries = []
    loop.train(population, tmp_path, report=entries.append)
    assert entries[0]["frames_loss"] > 0.9
    assert entries[-1]["frames_loss"] < 0.6


def test_without_the_emotion_s_loss_labels_change_nothing_and_the_classifier_has_no_gradient(data):
    corpus, protocol = data
    table = corpus.utterances.copy()
    table["label"] = np.random.default_rng(0).permutation(table["label"].to_numpy())
    shuffled = dataclasses.replace(corpus, utterances=table, fingerprint="shuffled")
    changes = {"augmentation": {"mixup": 1.0}, "optimizer": {"class_weights": True}}
    for weights, alike in ((UNLABELLED, True), ({"frames": 1.0}, False)):
        population = population_of(data, objective=weights, **changes)
        own, other = (
            stepped(chosen)[0]
            for chosen in (population, population_of((shuffled, protocol), objective=weights, **changes))
        )
        assert np.array_equal(vectors(own.parameters, 1), vectors(other.parameters, 1)) == alike
        moments = by_path(own.optimizer[1][0].mu, 1)
        assert (np.abs(moments["classifier", "kernel"]).max() == 0) == alike
        assert np.abs(moments["reconstruction", "kernel"]).max() > 0


def test_a_batch_seen_in_parts_or_shared_by_devices_makes_the_parameters_of_the_whole(data):
    whole, sums = stepped(population_of(data, objective={"frames": 0.5}))
    assert sums["frames_weight"] > 0
    for training in ({"accumulate": 2}, {"split": "batch"}, {"split": "batch", "accumulate": 2}):
        population = population_of(data, objective={"frames": 0.5}, training=training)
        found = stepped(population)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, (whole, sums))
    assert population.layout.parts == 8


def test_the_streaming_feed_trains_as_the_resident_one(data, tmp_path):
    states = [
        stepped(population_of(data, str(tmp_path), objective=UNLABELLED, feed=feed))[0]
        for feed in ("resident", "streaming")
    ]
    found, expected = (vectors(state.parameters, 1) for state in states)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_masked_in_evaluation_even_by_a_speaker_s_batch_statistics(data):
    """What is drawn beside the layer is as drawn without it, so both must predict the same."""
    corpus, _ = data
    model = {"name": "cnn", "width": 2, "time_stride": 2}
    for statistics in ("running", "speaker"):
        with_it, without = (
            predict.evaluate(population, populations.initial_state(population), [np.arange(len(corpus.utterances))])
            for population in (
                population_of(data, model=model, objective=weights, evaluation={"batch_statistics": statistics})
                for weights in (UNLABELLED, {})
            )
        )
        np.testing.assert_allclose(with_it[0], without[0], atol=1e-6)


def test_a_checkpoint_s_population_is_made_with_the_layer(data):
    population = population_of(data, objective=UNLABELLED)
    again = populations.make_population(
        population.config, *data, trained_targets=populations.describe(population)["targets"]
    )
    assert again.learner.num_parameters == population.learner.num_parameters
    without = population_of(data)
    assert again.learner.num_parameters == without.learner.num_parameters + (2 * 8 + 1) * MELS


def test_other_runs_begin_with_all_but_the_layer(tmp_path):
    """By the two commands: `train` on a corpus without its labels, then `train` on another one."""
    earlier = {
        "corpus": {"options": {"num_speakers": 4, "utterances_per_speaker": 8, "seed": 1}},
        "protocol": {"name": "everything"},
        "model": {"name": "rnn", "hidden": 8, "depth": 1},
        "training": {"train_steps": 3},
        "objective": UNLABELLED,
        "evaluation": {"latency": False},
    }
    workdir = tmp_path / "earlier"
    run_study(configuration.merge(CONFIG, earlier), workdir, data_dir=str(tmp_path))
    later = {"folds": [0], "model": earlier["model"], "training": {"initial": str(workdir)}}
    config = configuration.merge(CONFIG, later)
    corpus = load_corpus("synthetic", str(tmp_path), **config["corpus"]["options"])
    protocol = make_protocol(corpus, "leave_one_speaker_out")
    learnt = flatten_dict(load_initial(workdir).variables[0]["params"])

    population = variant_population(config, corpus, protocol, str(tmp_path))
    begun = by_path(populations.initial_state(population).parameters, 2)
    assert {path[0] for path in learnt.keys() - begun.keys()} == {"reconstruction"}
    for path, leaf in begun.items():
        np.testing.assert_array_equal(leaf, learnt[path])

    config = configuration.merge(config, {"objective": {"frames": 0.1}})
    population = variant_population(config, corpus, protocol, str(tmp_path))
    begun = by_path(populations.initial_state(population).parameters, 2)
    np.testing.assert_array_equal(begun["reconstruction", "kernel"], learnt["reconstruction", "kernel"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"name": "linear"}},
            "model linear has no option reconstruction, which is one of cnn, crnn, reslstm, rnn",
        ),
        (
            {"model": {"name": "rnn", "reconstruction": 3}},
            r"config\.model\.reconstruction: config\.objective\.frames decides it",
        ),
        ({"frontend": {"normalization": "none"}}, r"config\.frontend\.normalization: found none, expected utterance"),
        ({"frontend": {"kind": "functionals"}}, "kind functionals have no frames in time to mask"),
        ({"frontend": {"kind": "histogram"}}, "kind histogram have no frames in time to mask"),
    ],
    ids=str,
)
def test_what_cannot_be_masked_or_predicted_is_refused_before_anything_compiles(data, changes, message):
    with pytest.raises(UserError, match=message):
        population_of(data, **{"objective": UNLABELLED, "augmentation": SHOWN, **changes})
