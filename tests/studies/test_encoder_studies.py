"""The shipped studies on a pretrained encoder: on a tiny random one, they load, match parameters and train."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.encoders import extract, weights
from ser_jax.encoders.architecture import WhisperArchitecture
from ser_jax.encoders.store import LoadedEncoder
from ser_jax.errors import UserError
from ser_jax.models import build
from ser_jax.studies.dry_run import dry_run
from ser_jax.studies.plan import make_plan
from ser_jax.studies.variants import load, population_of
from ser_jax.training import loop

CONFIGS = Path(__file__).parents[2] / "configs"
SPEAKERS = {"corpus": {"options": {"num_speakers": 3, "utterances_per_speaker": 8}}, "folds": [0], "seeds": [0]}
SHORT = {  # some steps of the networks
    "training": {"train_steps": 4, "validate_steps": 0, "batch_size": 4, "crop_seconds": 0.5},
    "optimizer": {"warmup_steps": 1},
    "evaluation": {"window_seconds": 0.5},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a corpus with the hidden states of a tiny encoder, under the names that the studies look for."""
    folder = tmp_path_factory.mktemp("data")
    architecture = WhisperArchitecture(width=8, depth=3, heads=2, hidden=8, mel_bands=10, positions=400)
    rng = np.random.default_rng(0)
    shapes = weights.parameter_shapes(architecture)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    encoder = LoadedEncoder("tiny", architecture, parameters, sha256="a" * 64)
    corpus = load_corpus("synthetic", folder, **SPEAKERS["corpus"]["options"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "_LENGTHS_PER_OCTAVE", 1)  # few programs
        for name, form, layers, average in (
            ("tiny.frames", "frames", "123", 4),
            ("tiny.all.frames", "frames", None, 4),
            ("tiny.all.pooled", "pooled", None, 1),
        ):
            request = extract.make_request(architecture, form, layers, average=average)
            extract.prepare_states(corpus, encoder, request, folder, name=name)
    return str(folder)


def study(argument, *changes):
    config = configuration.load(str(CONFIGS / argument))
    for more in (SPEAKERS, *changes):
        config = configuration.merge(config, more)
    return configuration.check(config)


def trained(config, name, data, folder):
    """The final state of one variant of a study."""
    variant = configuration.merge(make_plan(config).variants[name], SHORT)
    population = population_of(variant, *load(variant, data), data)
    return population, loop.train(population, folder)[0]


@pytest.mark.parametrize(
    ("argument", "variants"),
    [("studies/attention.py:synthetic,encoder_pooling,tiny", 14), ("studies/layers.py:synthetic,tiny,3", 13)],
)
def test_a_study_on_an_encoder_is_ready_to_be_trained(argument, variants, data, tmp_path):
    config = study(argument)
    assert len(make_plan(config).variants) == variants
    table = dry_run(config, tmp_path, data)
    assert len(table.split("\n\n")[0].splitlines()) == 1 + variants


@pytest.mark.parametrize("num_classes", [6, 7, 8])
def test_attention_is_measured_against_as_many_parameters(num_classes):
    plan = make_plan(study("studies/attention.py:synthetic,encoder_pooling"))

    def count(name):
        model = build(num_classes=num_classes, **plan.variants[name]["model"])
        frames = jnp.zeros((1, 8, 3 * 384)), jnp.array([8])
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *frames, train=False))["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    (question,) = plan.questions
    matched = [pair for pair in question.comparisons if "hidden" in pair[1] or "block" in pair[1] or "ECA" in pair[0]]
    assert len(matched) == 6
    for with_attention, without in matched:
        assert count(with_attention) == pytest.approx(count(without), rel=0.01), (with_attention, without)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("studies/attention.py:synthetic,encoder_pooling,tiny", "mean, hidden layer of 67"),
        ("studies/layers.py:synthetic,tiny,3", "head: layer 2"),
    ],
)
def test_a_head_of_a_study_trains(argument, name, data, tmp_path):
    _, state = trained(study(argument), name, data, tmp_path)
    assert (np.asarray(state.step) == 4).all() and (np.asarray(state.diverged_at) < 0).all()


def test_the_number_of_layers_is_asked_for_where_it_is_not_known():
    with pytest.raises(UserError, match="expected how many layers it has as a third argument"):
        configuration.load(str(CONFIGS / "studies/layers.py:mine,unknown"))
    with pytest.raises(UserError, match="many: expected how many layers the encoder has"):
        configuration.load(str(CONFIGS / "studies/layers.py:mine,unknown,many"))
    assert len(make_plan(configuration.load(str(CONFIGS / "studies/layers.py:mine"))).variants) == 15
