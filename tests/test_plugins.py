"""One of everything from a folder outside the package: what a configuration names as `package.module:NAME`."""

import inspect
import json
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ser_jax
from ser_jax import config as configuration
from ser_jax import models, plugins
from ser_jax.corpora import load_corpus
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError
from ser_jax.frontend import Strengths, augment_waveform, num_features
from ser_jax.inference import predict
from ser_jax.report.summarise import How, summarise
from ser_jax.report.summary import Study
from ser_jax.report.terminal import results_table
from ser_jax.statistics.metrics import with_others
from ser_jax.studies import render
from ser_jax.studies.plan import make_plan
from ser_jax.studies.source_code import code_version, files_behind
from ser_jax.studies.variants import load
from ser_jax.training import heads, loop, optimizers
from ser_jax.training.checkpoints import check_metadata
from ser_jax.training.population import make_population
from tests.report import made_study

MODULE = textwrap.dedent("""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from ser_jax.corpora.synthetic import make_synthetic
    from ser_jax.models.family import COUNT, Family
    from ser_jax.models.output import Output
    from ser_jax.statistics.metrics import Metric, recall
    from ser_jax.training.objectives import target_weights

    LAST = "the last of the module"


    class Mean(nn.Module):
        num_classes: int
        hidden: int = 4

        @nn.compact
        def __call__(self, inputs, num_frames, *, train):
            pooled = jnp.sum(inputs, 1) / jnp.maximum(num_frames, 1)[:, None]
            return Output(logits=nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.hidden)(pooled))))


    class InTheDtypeOfFeatures(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, inputs, num_frames, *, train):
            pooled = (jnp.sum(inputs, 1) / jnp.maximum(num_frames, 1)[:, None]).astype(inputs.dtype)
            return Output(logits=nn.Dense(self.num_classes, dtype=inputs.dtype)(pooled))


    MODEL = Family(Mean, "a mean over time", {"hidden": COUNT}, {}, {})
    HALF = Family(InTheDtypeOfFeatures, "a linear layer", {}, {}, {})


    def squared(logits, targets, weight, class_weights, label_smoothing, possible=None):
        rows = target_weights(targets, weight, class_weights)
        return jnp.sum(rows * jnp.sum(jnp.square(jax.nn.softmax(logits) - targets), -1)), jnp.sum(rows)


    def of_float32(logits, *others):
        assert logits.dtype == jnp.float32
        return squared(logits, *others)


    def sure(logits, targets, weight, class_weights, label_smoothing, possible=None):
        rows = weight * jax.lax.stop_gradient(jnp.max(jax.nn.softmax(logits), -1))
        return jnp.sum(rows * jnp.sum(jnp.square(jax.nn.softmax(logits) - targets), -1)), jnp.sum(rows)


    def of_rows(logits, targets, weight, class_weights, label_smoothing, possible=None):
        return jnp.sum(jnp.square(jax.nn.softmax(logits) - targets), -1), weight


    def of_three(logits, targets, weight):
        return jnp.sum(weight), jnp.sum(weight)


    def energy(frontend, waveform):
        frames = 1 + waveform.shape[-1] // frontend.hop
        padded = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, frames * frontend.hop - waveform.shape[-1])])
        blocks = padded.reshape(*waveform.shape[:-1], frames, frontend.hop)
        return jnp.stack([jnp.mean(jnp.square(blocks), -1), jnp.mean(jnp.abs(blocks), -1)], -1)


    def too_short(frontend, waveform):
        return energy(frontend, waveform)[..., 1:, :]


    def cut(key, waveform, num_samples, strength):
        return waveform[1:]


    def flip(key, waveform, num_samples, strength):
        return jnp.where(strength > 0, -waveform, waveform)


    def halved(learning_rate, share=0.5):
        return optax.scale(-share * learning_rate)


    def no_optimizer(learning_rate):
        return learning_rate


    def stairs(init_value, decay_steps):
        return lambda step: init_value * jnp.where(step < decay_steps // 2, 1.0, 0.25)


    WORST = Metric("worst", "worst recall", lambda confusion: np.nanmin(recall(confusion), axis=-1))
    UA_AGAIN = Metric("ua", "UA", recall)


    def voices(speakers=3):
        return make_synthetic("synthetic", num_speakers=speakers, utterances_per_speaker=6)
""")
NAME = "own_package_for_tests.parts"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    folder = tmp_path / "own_package_for_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.startswith(folder.name)]:  # of the test before
        del sys.modules[module]
    plugins._load.cache_clear()
    return folder / "parts.py"


CHANGES = {
    "corpus": {"name": f"{NAME}:voices", "options": {"speakers": 2}},
    "protocol": {"validation_speakers": 0},
    "frontend": {"kind": f"{NAME}:energy", "hop_ms": 20.0, "deltas": 1, "normalization": "train"},
    "augmentation": {"custom": {f"{NAME}:flip": 1.0}},
    "model": {"name": f"{NAME}:MODEL", "hidden": 3},
    "training": {"loss": f"{NAME}:squared", "batch_size": 4, "crop_seconds": 0.5, "train_steps": 4},
}


def test_a_training_takes_everything_from_outside(outside, tmp_path):
    config = configuration.check(configuration.merge(configuration.default(), CHANGES))
    corpus, protocol = load(config, str(tmp_path))
    assert len(set(corpus.utterances["speaker"])) == 2
    population = make_population(config, corpus, protocol)
    assert num_features(population.learner.frontend) == 4  # two features and their derivatives
    assert type(population.learner.model).__name__ == "Mean" and population.learner.model.hidden == 3
    assert population.learner.loss.__name__ == "squared"
    state, _ = loop.train(population, tmp_path / "run")
    assert int(np.max(np.asarray(state.step))) == 4


def test_losses_and_probabilities_are_float32_whatever_a_model_from_outside_returns(outside, tmp_path):
    own = {"model": {"name": f"{NAME}:HALF"}, "training": {"loss": f"{NAME}:of_float32", "precision": "bfloat16"}}
    del (changes := configuration.merge(configuration.default(), CHANGES))["model"]["hidden"]
    config = configuration.check(configuration.merge(changes, own))
    population = make_population(config, *load(config, str(tmp_path)))
    state, _ = loop.train(population, tmp_path / "run")
    for probabilities in predict.evaluate(population, state, [fold.test for fold in population.folds]):
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.bfloat16)
    np.testing.assert_allclose(heads.probabilities(None, logits, None).sum(-1), 1, atol=1e-6)


def test_an_augmentation_from_outside_changes_the_waveform_and_is_off_at_zero(outside):
    waveform = jnp.arange(8.0)
    for strength, sign in ((1.0, -1), (0.0, 1)):
        made = augment_waveform(jax.random.key(0), waveform, jnp.int32(8), Strengths(custom={f"{NAME}:flip": strength}))
        np.testing.assert_array_equal(made, sign * waveform)


def test_the_code_of_what_is_outside_decides_a_population_s_key(outside, monkeypatch):
    config = configuration.merge(configuration.default(), CHANGES)
    before = code_version(config)
    assert NAME in files_behind(config, Path(ser_jax.__file__).parent)
    outside.write_text(MODULE.replace("-waveform, waveform", "-2 * waveform, waveform"))
    assert code_version(config) != before


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "subprocess:run", "builtins:exec", "os.path:join"])
def test_python_s_own_modules_are_refused(name):
    with pytest.raises(UserError, match=f"^corpus: '{name}' is of Python's own modules, expected one of yours"):
        plugins.resolve(name, {}, "corpus")
    with pytest.raises(UserError, match="of Python's own modules"):
        load_corpus(name, command="true")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": f"{NAME}:MODLE"}}, r"model: own_package_for_tests.parts:MODLE cannot be imported \(Attrib"),
        ({"model": {"name": "no_such_package:MODEL"}}, r"no_such_package:MODEL cannot be imported .*No module named"),
        ({"model": {"name": f"{NAME}:LAST"}}, "parts:LAST is a str, expected a Family"),
        ({"training": {"loss": f"{NAME}:LAST"}}, r"config.training.loss: .*LAST is a str, expected a function"),
        (
            {"training": {"loss": f"{NAME}:sure"}},
            r"loss: .*:sure returned the weights .* expected one above 0, whatever",
        ),
        ({"training": {"loss": f"{NAME}:of_rows"}}, r"of_rows returned \[\(4,\), \(4,\)\], expected two scalars"),
        ({"training": {"loss": f"{NAME}:of_three"}}, r"loss: .*:of_three failed \(TypeError: "),
        (
            {"training": {"loss": "cross_entropi"}},
            "unknown config.training.loss: 'cross_entropi'; did you mean cross_e",
        ),
        ({"frontend": {"kind": f"{NAME}:too_short"}}, r"too_short: returned the shape .*, expected \("),
        (
            {"frontend": {"kind": "log_mle"}},
            r"kind: found 'log_mle', expected one of .*did you mean log_mel",
        ),
        (
            {"augmentation": {"custom": {"flip": 1}}},
            r"config.augmentation.custom: found .*, expected a dict of",
        ),
        ({"augmentation": {"custom": {f"{NAME}:flip": -1}}}, "-1 is not a number of at least 0"),
        ({"augmentation": {"custom": {f"{NAME}:filp": 1}}}, r"config.augmentation.custom: .*filp cannot be imported"),
        ({"augmentation": {"custom": {f"{NAME}:squared": 1}}}, r"config.augmentation.custom: .*squared failed \("),
        (
            {"augmentation": {"custom": {f"{NAME}:cut": 1}}},
            r"cut returned the shape \(479999,\), expected \(480000,\)",
        ),
        (
            {"corpus": {"name": f"{NAME}:squared", "options": {}}},
            "corpus.options: missing a required",
        ),
    ],
    ids=str,
)
def test_what_is_not_there_or_not_fit_is_refused_in_one_line(outside, tmp_path, changes, message):
    base = configuration.merge(configuration.default(), CHANGES)
    with pytest.raises(UserError, match=message) as error:
        config = configuration.check(configuration.merge(base, changes))
        make_population(config, *load(config, str(tmp_path)))
    assert "\n" not in str(error.value)


def test_an_optimizer_from_outside_makes_its_own_step(outside):
    options = configuration.default()["optimizer"] | {"gradient_clip": 0.0, "weight_decay": 0.0}
    options |= {"name": f"{NAME}:halved", "arguments": {"share": 0.25}, "schedule": f"{NAME}:stairs"}
    parameters = {"kernel": jnp.ones((2, 3))}
    made = optimizers.make_optimizer(options, parameters, num_steps=8, warmup_steps=0)
    updates, _ = made.transformation.update(parameters, made.transformation.init(parameters), parameters)
    (one,) = set(np.unique(updates["kernel"]).tolist())
    assert one == -0.25  # at a learning rate of 1
    assert [float(made.schedule(step)) for step in (0, 3, 4, 7)] == [1.0, 1.0, 0.25, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": f"{NAME}:no_optimizer"}, "no_optimizer is no optimizer: it does not return an optax transformation"),
        ({"name": f"{NAME}:LAST"}, r"config.optimizer.name: .*LAST is a str, expected a function"),
        ({"schedule": f"{NAME}:stars"}, r"config.optimizer.schedule: .*stars cannot be imported"),
        ({"name": f"{NAME}:halved", "arguments": {"shar": 1}}, "halved has no 'shar'; did you mean share"),
    ],
    ids=str,
)
def test_an_optimizer_or_schedule_that_is_none_is_refused(outside, changes, message):
    options = configuration.default()["optimizer"] | changes
    with pytest.raises(UserError, match=message):
        optimizers.make_optimizer(options, {"kernel": jnp.ones((2, 3))}, num_steps=8, warmup_steps=0)


def test_a_metric_from_outside_stands_in_the_tables(outside):
    table = made_study.make_predictions(["pooling: mean"])
    made = summarise(table, Study(), how=How(replicates=20, metrics=with_others([f"{NAME}:WORST"])))
    assert made.metrics["worst"] == "worst recall"
    one = made.variants["pooling: mean"]
    assert 0 < one.metrics["worst"].value < one.ua.value
    assert "worst recall" in results_table(made)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("worst", "config.study.metrics: found 'worst', expected package.module:NAME of a Metric"),
        (f"{NAME}:halved", r"config.study.metrics: .*halved is a function, expected a Metric"),
        (f"{NAME}:WORTS", r"config.study.metrics: .*WORTS cannot be imported \(AttributeError"),
        (f"{NAME}:UA_AGAIN", "there is a metric ua already"),
    ],
)
def test_a_metric_that_is_none_is_refused_before_anything_is_trained(outside, name, message):
    config = configuration.merge(configuration.default(), {"study": {"metrics": [name]}})
    with pytest.raises(UserError, match=message):
        make_plan(config)


def test_a_model_from_outside_is_built_like_any_other(outside):
    assert models.build(f"{NAME}:MODEL", num_classes=3, hidden=5).hidden == 5
    with pytest.raises(UserError, match=r"unknown option of model .*: 'hiden'; did you mean hidden"):
        models.build(f"{NAME}:MODEL", num_classes=3, hiden=5)


def test_a_corpus_from_outside_has_folds(outside):
    corpus = load_corpus(f"{NAME}:voices", speakers=3)
    assert len(make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0).folds) == 3


def test_names_outside_are_found_anywhere_in_a_configuration(outside):
    assert list(plugins.files_outside(CHANGES)) == [NAME]
    assert plugins.files_outside({"corpus": {"name": "synthetic"}, "study": ["a:b c"]}) == {}
    paths = {"corpus": {"name": "synthetic", "symbols": "os:path"}, "protocol": {"file": "nowhere:folds.json"}}
    assert plugins.files_outside(paths) == {}


@pytest.mark.parametrize("group", ["corpus", "frontend", "augmentation", "model", "training"])
def test_what_is_stored_runs_no_code_that_the_environment_does_not_list(tmp_path, monkeypatch, group):
    """Whoever sends a model or results could otherwise have any module import, and call any function that it has."""
    config = configuration.merge(configuration.default(), {group: CHANGES[group]} | {"study": {"title": "a:b"}})
    made = {"config": config, "corpus": {"name": "c", "fingerprint": "f", "emotions": ["a"]}}
    made |= {"runs": [{"fold": "a", "seed": 0}], "protocol": {}, "targets": {}, "versions": {}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    doors = (
        lambda: check_metadata(made, "here"),
        lambda: configuration.load(str(path)),
        lambda: inspect.unwrap(render._plan)(path, None),  # without the check of what it is given
    )
    monkeypatch.setattr(plugins, "_load", None)
    for door in doors:
        with pytest.raises(UserError, match=f"names code outside of ser_jax, .{NAME}:.* SER_JAX_PLUGINS=own_pack"):
            door()
    monkeypatch.setenv("SER_JAX_PLUGINS", f"other, {NAME.partition('.')[0]}")
    for door in doors[:2]:
        door()


def test_names_in_a_study_and_in_what_a_model_began_with_count_and_titles_do_not(monkeypatch):
    monkeypatch.setenv("SER_JAX_PLUGINS", "mine.parts")
    trusted = {"variants": {"cnn:eca": {"model": {"name": "mine.parts:M"}}}, "questions": [{"name": "a:b"}]}
    plugins.require_trusted({"study": trusted}, "here")
    for stored in (
        {"study": trusted | {"metrics": ["minest:M"]}},
        {"study": {"variants": {"a": {"optimizer": {"schedule": "pandas:read_pickle"}}}}},
        {"study": {"questions": [{"factors": [{"field": "model.name", "levels": ["cnn", "mine:M"]}]}]}},
        [{}, {"corpus": {"name": "pandas:read_pickle"}, "options": {"filepath_or_buffer": "a"}}],
    ):
        with pytest.raises(UserError, match=r"^here: names code outside of ser_jax, .*, which would run; if you"):
            plugins.require_trusted(stored, "here")
