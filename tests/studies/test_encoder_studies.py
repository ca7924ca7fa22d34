"""The shipped studies on a pretrained encoder: on a tiny random one, they load, match parameters and train."""

import dataclasses
import functools
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ser_jax import config as configuration
from ser_jax.baselines.columns import column_sets
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import waveform
from ser_jax.encoders import extract, weights
from ser_jax.encoders.architecture import WhisperArchitecture
from ser_jax.encoders.store import LoadedEncoder
from ser_jax.errors import UserError
from ser_jax.inference import tables
from ser_jax.inference.restore import restore_network
from ser_jax.models import build
from ser_jax.studies import baselines
from ser_jax.studies.dry_run import dry_run
from ser_jax.studies.plan import make_plan
from ser_jax.studies.recognise import make_recogniser
from ser_jax.studies.variants import load, population_of, prepare
from ser_jax.studies.workdirs import Restored, recordings
from ser_jax.training import checkpoints, devices, encoder, loop
from ser_jax.training.population import initial_state

CONFIGS = Path(__file__).parents[2] / "configs"
SPEAKERS = {"corpus": {"options": {"num_speakers": 3, "utterances_per_speaker": 8}}, "folds": [0], "seeds": [0]}
SHORT = {  # some steps of the networks
    "training": {"train_steps": 4, "validate_steps": 0, "batch_size": 4, "crop_seconds": 0.5},
    "optimizer": {"warmup_steps": 1},
    "evaluation": {"window_seconds": 0.5},
}


def tiny_encoder(sha256="a" * 64):
    architecture = WhisperArchitecture(width=8, depth=3, heads=2, hidden=8, mel_bands=10, positions=400)
    rng = np.random.default_rng(0)
    shapes = weights.parameter_shapes(architecture)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    return LoadedEncoder("tiny", architecture, parameters, sha256)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a corpus with the hidden states of a tiny encoder, under the names that the studies look for."""
    folder = tmp_path_factory.mktemp("data")
    tiny = tiny_encoder()
    corpus = load_corpus("synthetic", folder, **SPEAKERS["corpus"]["options"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "_LENGTHS_PER_OCTAVE", 1)  # few programs
        for name, form, layers, average in (
            ("tiny.frames", "frames", "123", 4),
            ("tiny.all.frames", "frames", None, 4),
            ("tiny.all.pooled", "pooled", None, 1),
            ("tiny.lower.frames", "frames", "1", 1),
        ):
            request = extract.make_request(tiny.architecture, form, layers, average=average)
            extract.prepare_states(corpus, tiny, request, folder, name=name)
        patch.setattr(extract, "load", lambda name, data_dir: tiny)
        patch.setattr(encoder, "load", lambda name, data_dir: tiny)
        yield str(folder)


def study(argument, *changes):
    config = configuration.load(str(CONFIGS / argument))
    for more in (SPEAKERS, *changes):
        config = configuration.merge(config, more)
    return configuration.check(config)


def population(config, name, data, *changes, cache=None):
    """Some steps of one variant of a study."""
    variant = make_plan(config).variants[name]
    for more in (SHORT, *changes):
        variant = configuration.merge(variant, more)
    return population_of(variant, *load(variant, data), data, cache)


@pytest.mark.parametrize(
    ("argument", "number", "some"),
    [
        ("attention.py:synthetic,encoder_pooling,tiny", 15, ("multi-head", "decoder with additive attention")),
        ("layers.py:synthetic,tiny,3", 13, ("linear: final", "head: learned sum", "head: final")),
        ("adaptation.py:synthetic,tiny", 4, ("frozen", "LoRA on all projections")),
    ],
)
def test_a_study_on_an_encoder_is_ready_to_be_trained(argument, number, some, data, tmp_path):
    config = study(f"studies/{argument}")
    variants = make_plan(config).variants
    assert len(variants) == number
    few = {"questions": [], "variants": {name: variants[name] for name in some}, "comparisons": []}
    table = dry_run({**config, "study": {**config["study"], **few}}, tmp_path, data)
    assert [line.split("  ")[0] for line in table.split("\n\n")[0].splitlines()[1:]] == list(some)


@pytest.mark.parametrize("argument", ["attention.py:{},encoder_pooling", "layers.py:{}", "adaptation.py:{}"])
def test_heads_on_a_corpus_of_ones_own_are_trained_as_long_as_it_needs(argument):
    """Not for the epochs of another corpus: of few utterances these are too few steps."""
    (own, emodb) = (configuration.load(str(CONFIGS / "studies" / argument.format(name))) for name in ("mine", "emodb"))
    assert configuration.steps(own, "training", "train", 480 / 32) == 750
    assert configuration.steps(own, "training", "train", 4 * 480 / 32) == 1500
    assert configuration.steps(emodb, "training", "train", 480 / 32) == 300
    same = configuration.merge(own, {"training": {"crop_seconds": 3.0}, "corpus": {"name": "emodb"}})
    changed = {key for key in same if same[key] != emodb[key]}
    assert changed == {"training", "optimizer", "study"}


def test_attention_is_measured_against_as_many_parameters():
    plan = make_plan(study("studies/attention.py:synthetic,encoder_pooling"))

    @functools.cache
    def count(name):
        model = build(num_classes=7, **plan.variants[name]["model"])
        frames = jnp.zeros((1, 8, 3 * 384)), jnp.array([8])
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *frames, train=False))["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    (question,) = plan.questions
    matched = [pair for pair in question.comparisons if re.search("hidden|block|state of", pair[1]) or "ECA" in pair[0]]
    assert len(matched) == 7
    for with_attention, without in matched:
        assert count(with_attention) == pytest.approx(count(without), rel=0.01), (with_attention, without)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("studies/attention.py:synthetic,encoder_pooling,tiny", "mean, hidden layer of 67"),
        ("studies/adaptation.py:synthetic,tiny", "last layers"),
    ],
)
def test_every_parameter_of_a_network_is_trained(argument, name, data, tmp_path):
    runs = population(study(argument), name, data)
    first, (state, _) = initial_state(runs).parameters, loop.train(runs, tmp_path)
    assert (np.asarray(state.diverged_at) < 0).all()
    for path, moved in checkpoints.named_arrays(
        jax.tree.map(lambda old, new: np.any(old != new), first, state.parameters)
    ).items():
        assert moved, path


def test_layers_are_chosen_by_the_training_speakers(data):
    plan = make_plan(study("studies/layers.py:synthetic,tiny,3"))
    for name in ("linear: layer 2", "linear: chosen"):
        runs = population_of(plan.variants[name], *load(plan.variants[name], data), data)
        (fitted,) = baselines.fit_folds(name, runs, baselines.standardised(runs)).values()
        used = {states_of_column(c) for c in np.flatnonzero(np.abs(fitted.fitted.coefficients).sum(0))}
        if name == "linear: layer 2":
            assert used == {2}
        else:  # one set of columns, as the inner folds of this fold say, or all of them combined
            states = baselines.pooled_states(runs.config, runs.corpus, runs.data_dir)
            sets = [set(map(states_of_column, own)) for own in column_sets("chosen", states.names).values()]
            assert used == set.union(*(sets[i] for i in fitted.kept))


@pytest.mark.parametrize("scaling", ["fold", "speaker"])
def test_all_candidates_of_a_choice_are_models_of_states_that_are_standardised_alike(scaling):
    variants = make_plan(study(f"studies/encoder_choice.py:emodb,{scaling}")).variants
    assert len(variants) == 5
    for name, variant in variants.items():
        assert (variant["model"]["functionals"], variant["model"]["scaling"]) == ("precomputed", scaling), name


def states_of_column(column):
    """The number of the state, of which there are mean and deviation of 8 channels."""
    return int(column) // 16


def test_runs_adapt_one_copy_of_the_encoder_which_stays_as_it_is(data, tmp_path):
    runs = population(study("studies/adaptation.py:synthetic,tiny", {"folds": [0, 1]}), "LoRA", data)
    before = jax.tree.map(np.array, runs.encoder)
    own = before["adapter"]["weights"]["layers"]
    assert own["query"]["kernel"].shape == (2, 8, 8)  # no axis of runs
    jax.tree.map(
        lambda leaf, whole: np.testing.assert_array_equal(leaf, whole[1:]), own, tiny_encoder().parameters["layers"]
    )
    assert not np.any(initial_state(runs).parameters["adapter"]["query"]["up_kernel"])
    state, _ = loop.train(runs, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, runs.encoder, before)
    adapter = devices.gather(state.parameters["adapter"], 2)
    assert set(adapter) == {"query", "value"}
    one, other = adapter["query"]["up_kernel"]
    assert (np.abs(one).max((1, 2)) > 0).all() and np.abs(one - other).max() > 0

    table = tables.test_predictions(runs, state, "LoRA")
    again = tables.test_predictions(runs, loop.restore(runs, tmp_path), "LoRA")
    pd.testing.assert_frame_equal(table, again)
    described = checkpoints.Checkpoints(tmp_path / "checkpoints").metadata()
    assert described["encoder"]["sha256"] == "a" * 64 and (described["encoder"]["first"], runs.upper.depth) == (1, 2)
    network, _ = restore_network(described, tmp_path)
    assert network.num_parameters == runs.num_parameters
    encoder.check_encoder(runs.upper, described, tmp_path)
    another = dataclasses.replace(runs.upper, encoder={"name": "b", "sha256": "b" * 64})
    with pytest.raises(UserError, match="trained on layers of encoder tiny with sha256 aaaaaaaaaaaa, but b has bbbb"):
        encoder.check_encoder(another, described, tmp_path)
    another = dataclasses.replace(runs.upper, first=0)
    with pytest.raises(UserError, match="states of layer 1 of encoder tiny, but these features are those of layer 0"):
        encoder.check_encoder(another, described, tmp_path)


def test_a_head_takes_whole_states(data):
    """Each third of a state that was taken for three was normalised by itself: eleven points of UA, without a word."""
    config = configuration.load(str(CONFIGS / "studies/attention.py:synthetic,encoder_pooling,tiny"))
    one = configuration.merge(config, {"model": {"states": 1}})
    states = {variant["model"]["states"] for variant in make_plan(configuration.check(one)).variants.values()}
    assert states == {1}  # what is said for all heads is so of all
    whole = study("studies/attention.py:synthetic,encoder_pooling,tiny")
    for number in (1, 3):
        assert population(whole, "mean", data, {"model": {"states": number}}).learner.model.states == number
    for changes, message in (
        (
            {"model": {"states": 2}},
            "config.model.states: found 2, expected 3: features tiny.frames have layer 1, layer",
        ),
        (
            {"frontend": {"features": "tiny.lower.frames"}},
            "config.model.states: found 3, expected 1: features tiny.lower.frames have layer 1",
        ),
    ):
        with pytest.raises(UserError, match=message):
            population(whole, "mean", data, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 3}}, "config.model.layers: found 3 above 'layer 1', .* has the layers 1 to 3"),
        (
            {"model": {"states": 2}},
            "config.model.states: found 2, expected 1: features tiny.lower.frames have layer 1",
        ),
        ({"frontend": {"normalization": "train"}}, "config.frontend.normalization: found train, expected none"),
        (
            {"frontend": {"features": "tiny.frames"}},
            "config.model.layers: found 2, expected 0: layers are computed from",
        ),
        ({"model": {"encoder": "tiny"}}, "config.model.encoder: the features decide it"),
        (
            {"model": {"layers": 0, "adapt": "lora"}},
            "config.model.adapt=lora: expected config.model.layers of at least",
        ),
        ({"model": {"adapt": "lora", "projections": []}}, "config.model.projections: found none"),
        ({"model": {"adapt": "lora", "projections": ["kea"]}}, "did you mean key"),
        ({"model": {"state": 4}}, "config.model.state: found 4, expected at most 3"),
    ],
)
def test_what_cannot_be_adapted_is_refused(changes, message, data):
    with pytest.raises(UserError, match=message):
        population(study("studies/adaptation.py:synthetic,tiny"), "frozen", data, changes)


def test_layers_that_attend_to_extra_tokens_are_not_computed_from_frames(data, monkeypatch):
    attending = types.SimpleNamespace(name="tiny", architecture=types.SimpleNamespace(extra_tokens=3))
    monkeypatch.setattr(encoder, "encoder_of", lambda *_: attending)
    with pytest.raises(
        UserError, match=r"expected 0, or config.frontend.kind=waveform: the layers of encoder tiny att"
    ):
        population(study("studies/adaptation.py:synthetic,tiny"), "frozen", data)


FROM_WAVEFORMS = {
    "frontend": {"kind": "waveform", "features": ""},
    "model": {"encoder": "tiny", "states": 2, "lower": 1},
}


def test_all_of_an_encoder_can_be_trained_and_its_model_takes_recordings(data, tmp_path):
    model, cache = {"lower": 0, "states": 1, "layers": 2, "stem": "full"}, {}

    def with_noise(strength):
        changes = {"model": model, "augmentation": {"noise": strength}}
        config = study("studies/adaptation.py:synthetic,tiny")
        return population(config, "last layers", data, FROM_WAVEFORMS, changes, cache=cache)

    runs = with_noise(1e-9)
    first, (state, _) = initial_state(runs).parameters, loop.train(runs, tmp_path)
    noisy, _ = loop.train(with_noise(1.0), tmp_path / "noisy")
    kernels = (np.asarray(trained.parameters["projection"]["kernel"]) for trained in (state, noisy))
    assert np.abs(np.subtract(*kernels)).max() > 1e-3
    assert set(first["below"]) == {"conv1", "conv2", "positions"}
    moved = checkpoints.named_arrays(jax.tree.map(lambda old, new: np.any(old != new), first, state.parameters))
    assert all(moved.values()), moved
    description = checkpoints.Checkpoints(tmp_path / "checkpoints").metadata()
    restored = Restored("last layers", tmp_path, description)
    recogniser = make_recogniser(restored, data_dir=data)
    table = tables.test_predictions(runs, state, "last layers")
    corpus = load_corpus("synthetic", data, **SPEAKERS["corpus"]["options"])
    row = corpus.utterances.set_index("id").index.get_loc(table["utterance"].iloc[0])
    heard = recordings({"one": np.asarray(waveform(corpus, row))}, restored.emotions)
    np.testing.assert_allclose(
        recogniser.predict(heard, False).probabilities[0], table.filter(like="p_").iloc[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"encoder": ""}}, "config.model.encoder: found none, expected the name of an encoder"),
        ({"model": {"encoder": "tests"}}, "encoder tests: found a folder, expected a name; take it first"),
        ({"model": {"lower": 2}}, "config.model.layers: found 2 above the 2 of config.model.lower; encoder tiny has 3"),
        ({"model": {"states": 3}}, "config.model.states: found 3, expected at most 2, those up to config.model.lower"),
        ({"model": {"stem": "full"}}, "config.model.lower: found 1, expected 0 with stem=full"),
        ({"training": {"crop_seconds": 0.012}}, "config.training.crop_seconds: found 0.012, expected at least 0.012"),
        ({"evaluation": {"window_seconds": 0.01}}, "config.evaluation.window_seconds: found 0.01, expected at least"),
        ({"training": {"crop_seconds": 9.0}}, "config.training.crop_seconds: found 9, expected at most 8 s"),
        ({"evaluation": {"window_seconds": 9.0}}, "config.evaluation.window_seconds: found 9, expected at most 8 s"),
        ({"training": {"precision": "bfloat16"}}, "config.training.precision: found bfloat16, expected float32 or"),
        ({"augmentation": {"spec_augment": 0.5}}, "config.augmentation.spec_augment: found 0.5, expected 0"),
        ({"frontend": {"kind": "log_mel"}}, "config.model.encoder: the features decide it"),
        ({"frontend": {"normalization": "train"}}, "config.frontend.normalization: found train, expected none"),
        ({"model": {"name": "rnn"}}, "config.frontend.kind: found waveform, which encoder_head alone takes, not rnn"),
    ],
)
def test_what_cannot_be_computed_from_waveforms_is_refused(changes, message, data):
    with pytest.raises(UserError, match=message):
        population(study("studies/adaptation.py:synthetic,tiny"), "frozen", data, FROM_WAVEFORMS, changes)


def test_the_key_of_a_variant_and_its_features_tell_encoders_apart(data, monkeypatch):
    config = study("studies/adaptation.py:synthetic,tiny")
    keys = [variant.key for variant in prepare(make_plan(config), data)]
    assert len(set(keys)) == 4
    monkeypatch.setattr(extract, "load", lambda name, data_dir: tiny_encoder("b" * 64))
    with pytest.raises(
        UserError, match="encoder tiny: sha256 bbbbbbbbbbbb, but the model learnt from the states of aaaa"
    ):
        prepare(make_plan(config), data)


def test_the_number_of_layers_is_asked_for_where_it_is_not_known():
    with pytest.raises(UserError, match="expected how many layers it has as a third argument"):
        configuration.load(str(CONFIGS / "studies/layers.py:mine,unknown"))
    with pytest.raises(UserError, match="many: expected how many layers the encoder has"):
        configuration.load(str(CONFIGS / "studies/layers.py:mine,unknown,many"))
    assert len(make_plan(configuration.load(str(CONFIGS / "studies/layers.py:mine"))).variants) == 15
