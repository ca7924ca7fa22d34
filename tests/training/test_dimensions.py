"""Values of whole utterances, such as arousal, and raters' votes: learnt, predicted, kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import models, predictions
from ser_jax.errors import UserError
from ser_jax.feeds.batch import Batch
from ser_jax.frontend import Frontend
from ser_jax.inference import tables
from ser_jax.statistics.scores import concordance as concordance_of_sums
from ser_jax.training import loop, setup
from ser_jax.training import population as populations
from ser_jax.training.objectives import utterance_concordance
from ser_jax.training.setup import Targets
from ser_jax.training.step import _targets, split_outputs
from tests.training.tiny import CONFIG, tiny_corpus

NAMES = ("arousal", "valence")
MEANS = {"anger": 4.5, "happiness": 4.0, "neutral": 2.5, "sadness": 1.5}
TRAINING = {
    "folds": [0, 1],
    "corpus": {"dimensions": list(NAMES)},
    "augmentation": {"mixup": 0.0, "speed": 0.0, "spec_augment": 0.0},
    "optimizer": {"learning_rate": 0.05},
    "training": {"batch_size": 8, "crop_seconds": 3.0, "train_steps": 40, "validate_steps": -1},
}


def with_columns(data, **columns):
    corpus, protocol = data
    return dataclasses.replace(corpus, utterances=corpus.utterances.assign(**columns)), protocol


@pytest.fixture(scope="module")
def data():
    """The tiny corpus with arousal by emotion, as text with a decimal comma, and a valence that some lack."""
    corpus, protocol = tiny_corpus()
    rng = np.random.default_rng(0)
    arousal = [MEANS.get(emotion, 3.0) + rng.normal(0, 0.1) for emotion in corpus.utterances["emotion"]]
    valence = [f"{10 - value:.3f}" if i % 3 else "" for i, value in enumerate(arousal)]
    return with_columns(
        (corpus, protocol), arousal=[f"{value:.3f}".replace(".", ",") for value in arousal], valence=valence
    )


def population_of(data, cache=None, **changes):
    config = configuration.merge(configuration.merge(CONFIG, TRAINING), changes)
    return populations.make_population(config, *data, cache=cache)


@pytest.fixture(scope="module")
def cache():
    """What populations have in common: their programs."""
    return {}


@pytest.fixture(scope="module")
def trained(data, cache, tmp_path_factory):
    population = population_of(data, cache)
    entries = []
    state, _ = loop.train(population, tmp_path_factory.mktemp("dimensions"), report=entries.append)
    return population, state, entries


def test_the_coefficient_is_that_of_the_known_utterances():
    rng = np.random.default_rng(1)
    predicted, target = rng.normal(size=(2, 9, 2)).astype(np.float32)
    target[[2, 5], 0] = np.nan
    weight = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0], np.float32)

    @jax.jit
    def run(told):
        found = utterance_concordance(told, jnp.asarray(target), jnp.asarray(weight))
        return found.sum(), found

    (_, found), gradient = jax.value_and_grad(run, has_aux=True)(jnp.asarray(predicted))
    for i in range(2):
        rows = (weight > 0) & ~np.isnan(target[:, i])
        x, y = target[rows, i].astype(np.float64), predicted[rows, i].astype(np.float64)
        expected = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)
    gradient = np.asarray(gradient)
    assert np.isfinite(gradient).all() and not gradient[2, 0] and gradient[2, 1] and not gradient[3].any()


def test_dimensions_are_learnt_beside_the_emotion_and_predicted_on_their_own_scale(trained, data):
    population, state, entries = trained
    assert entries[-1]["dimensions_concordance"] > entries[0]["dimensions_concordance"]
    table = tables.test_predictions(population, state, "linear")
    assert predictions.dimensions_of(table) == NAMES
    first = data[0].utterances.set_index("id")
    expected = first["arousal"].str.replace(",", ".").astype(float)[table["utterance"]].to_numpy()
    np.testing.assert_allclose(table["true_arousal"], expected, rtol=1e-6)
    unknown = (first["valence"] == "")[table["utterance"]].to_numpy()
    np.testing.assert_array_equal(table["true_valence"].isna(), unknown)
    for name in NAMES:
        x, y = (table[side + name][~unknown].to_numpy(np.float64) for side in ("true_", "predicted_"))
        found = concordance_of_sums(np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]))
        assert found > 0.3, name
    assert abs(table["predicted_valence"].mean() - table["true_valence"].mean()) < 1


def test_each_run_is_scaled_by_its_own_training_utterances_alone(trained, data):
    population, _, _ = trained
    values = data[0].utterances["arousal"].str.replace(",", ".").astype(float).to_numpy()
    for fold, scaling in zip(population.folds, population.targets.scaling, strict=True):
        np.testing.assert_allclose(scaling[:, 0], [values[fold.train].mean(), values[fold.train].std()], rtol=1e-5)


def test_a_checkpoint_knows_its_dimensions_and_their_scale(trained, data):
    population, _, _ = trained
    metadata = populations.describe(population)["targets"]
    again = populations.make_population(population.config, *data, trained_targets=metadata)
    assert again.targets.dimension_names == NAMES and again.learner.num_parameters == population.num_parameters
    np.testing.assert_array_equal(again.targets.scaling, population.targets.scaling)
    older = {key: value for key, value in metadata.items() if key != "dimensions"}
    assert populations.make_population(population.config, *data, trained_targets=older).targets.dimension_names == ()


def test_without_the_emotion_its_outputs_have_no_part(data, cache):
    changes = {"objective": {"emotion": 0.0}, "optimizer": {"weight_decay": 0.0}}
    population = population_of(data, cache, **changes)
    begun = populations.initial_state(population)
    before = np.asarray(begun.parameters["classifier"]["kernel"])
    piece = populations.to_devices(population, populations.training_feed(population, 0).take(3))
    state, _ = populations.train_steps(population, begun, piece)
    after, classes = np.asarray(state.parameters["classifier"]["kernel"]), len(data[0].emotions)
    np.testing.assert_array_equal(before[..., :classes], after[..., :classes])
    assert (before[..., classes:] != after[..., classes:]).any()


@pytest.mark.parametrize("name", models.FAMILIES)
def test_every_family_has_an_output_for_each_dimension(name):
    config = {**CONFIG, "model": {"name": name}}
    assert setup.make_model(config, Frontend(), Targets(dimension_names=NAMES), 5).num_classes == 7


def test_the_last_outputs_are_the_dimensions(trained):
    outputs = jnp.arange(14.0).reshape(2, 7)
    logits, dimensions = split_outputs(trained[0].learner, outputs)
    assert logits.tolist() == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]] and dimensions.tolist() == [[5, 6], [12, 13]]


def test_votes_take_the_place_of_labels(data):
    corpus = data[0]
    counts = np.random.default_rng(2).integers(0, 4, (len(corpus.utterances), len(corpus.emotions)))
    counts[:, 0] += 1
    voted = with_columns(data, **{f"vote_{emotion}": counts[:, i] for i, emotion in enumerate(corpus.emotions)})
    population = population_of(voted, corpus={"dimensions": [], "votes": "vote_"})
    shares = counts / counts.sum(1, keepdims=True)
    rows = jnp.arange(4)
    nothing = jnp.zeros(4)
    batch = Batch(nothing, nothing, nothing.astype(int), nothing, votes=population.resident.votes[rows])
    run = jax.tree.map(lambda leaf: leaf[0, 0], population.run_values)
    found = _targets(population.learner, run, population.resident, rows, batch)
    np.testing.assert_allclose(found, shares[:4], rtol=1e-6)
    known = tables.references(voted[0], population.config)
    np.testing.assert_allclose(known[[f"v_{emotion}" for emotion in corpus.emotions]], shares, rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({}, {"corpus": {"dimensions": ["arousl"]}}, "has no column 'arousl'; did you mean arousal"),
        ({"arousal": "high"}, {}, r"has the arousal 'high', expected a number, or nothing"),
        ({"arousal": "inf"}, {}, r"has the arousal 'inf'"),
        ({"arousal": "2"}, {}, r"fold .* trains on 8 utterances with a value of arousal, expected at least two"),
        ({"arousal": ""}, {}, r"trains on 0 utterances with a value of arousal"),
        ({}, {"augmentation": {"mixup": 0.2}}, r"mixup: mixed utterances have no single config\.corpus\.dimensions"),
        ({}, {"training": {"accumulate": 2}}, r"accumulate: found 2, expected 1: dimensions are learnt by"),
        ({}, {"model": {"name": "attention_rnn", "text": "characters"}}, "text=characters follows the emotion alone"),
        ({}, {"objective": {"emotion": 0.0}, "training": {"keep": "best"}}, r"objective\.emotion: found 0"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_compiles(data, columns, changes, message):
    with pytest.raises(UserError, match=message):
        population_of(with_columns(data, **columns), **changes)
