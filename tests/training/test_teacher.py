import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError
from ser_jax.inference.predict import evaluate
from ser_jax.studies.run import run_study
from ser_jax.studies.variants import load_teacher, population_of
from ser_jax.training import loop
from ser_jax.training.population import describe, initial_state, to_devices, train_steps, training_feed
from ser_jax.training.teacher import Teacher
from tests.training.tiny import CONFIG, tiny_corpus, tiny_population, vectors

OWN = {"augmentation": {"mixup": 0.0}, "evaluation": {"latency": False}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("teacher")
    run_study(configuration.merge(CONFIG, {**OWN, "seeds": [0, 1, 2]}), folder, data_dir=data_dir)
    return str(folder)


def pupils(workdir, data_dir, changes=None, cache=None):
    config = configuration.merge(CONFIG, {**OWN, "seeds": [5, 6], "training": {"teacher": workdir}})
    config = configuration.merge(config, changes or {})
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=1)
    return population_of(config, corpus, protocol, data_dir, cache)


def table_of(population):
    """What stands on every device, [folds, utterances, classes]."""
    table = np.asarray(population.resident.teacher_probabilities)
    return table.reshape(-1, *table.shape[-3:])[0]


def made_up(corpus, protocol, tables):
    """A teacher with a run for each fold, which says what is in its table of all utterances."""
    metadata = {"config": CONFIG, "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint}, "runs": []}
    rows = [fold.train for fold in protocol.folds]
    return Teacher(metadata, "", protocol.folds, lambda: [t[own] for t, own in zip(tables, rows, strict=True)])


def after_steps(population, count=3):
    state = initial_state(population)
    state, sums = train_steps(population, state, to_devices(population, training_feed(population, 0).take(count)))
    return state, sums


def test_a_fold_is_taught_the_mean_over_the_seeds_of_its_own_runs(workdir, data_dir):
    teacher, population = load_teacher(workdir, data_dir), pupils(workdir, data_dir)
    table = table_of(population)
    assert table.shape[0] == 3
    for place_, fold in enumerate(population.protocol.folds):
        own = [said for said, other in zip(teacher.predict(), teacher.folds, strict=True) if other.name == fold.name]
        assert len(own) == 3
        np.testing.assert_allclose(table[place_][fold.train], np.mean(own, 0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(table[place_][fold.train].sum(-1), 1, rtol=1e-5)
        others = np.setdiff1d(np.arange(table.shape[1]), fold.train)
        assert not table[place_][others].any()


def test_what_it_says_is_what_its_networks_say_when_they_are_tested(workdir, data_dir):
    population = pupils("", data_dir, {"seeds": [0, 1, 2]})
    folder = next(path.parent for path in Path(workdir).rglob("checkpoints"))
    state = loop.restore(population, folder)
    rows = [fold.train for fold in population.folds]
    for said, expected in zip(
        load_teacher(workdir, data_dir).predict(), evaluate(population, state, rows), strict=True
    ):
        np.testing.assert_allclose(said, expected, rtol=1e-5, atol=1e-6)


def test_some_folds_alone_are_taught_their_own(workdir, data_dir):
    all_folds, some = pupils(workdir, data_dir), pupils(workdir, data_dir, {"folds": [2, 0]})
    np.testing.assert_array_equal(table_of(some), table_of(all_folds)[[2, 0]])
    np.testing.assert_array_equal(np.asarray(some.run_values.fold).ravel(), [0, 0, 1, 1])


def test_a_teacher_who_says_the_labels_changes_nothing():
    corpus, protocol = tiny_corpus()
    labels = np.eye(len(corpus.emotions), dtype=np.float32)[corpus.utterances["label"].to_numpy()]
    alone = tiny_population(corpus, protocol, **OWN)
    from_labels = dataclasses.replace(alone, teacher=made_up(corpus, protocol, [labels] * 3), cache={})
    for a, b in zip(jax.tree.leaves(after_steps(alone)), jax.tree.leaves(after_steps(from_labels)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_loss_is_linear_in_the_share_of_the_teacher():
    """Cross-entropy is: with a share of s it is (1 - s) of that from labels and s of that from the teacher alone."""
    corpus, protocol = tiny_corpus()
    rng = np.random.default_rng(0)
    tables = rng.dirichlet(np.ones(len(corpus.emotions)), (3, len(corpus.utterances))).astype(np.float32)
    losses = {}
    for share in (0.0, 0.25, 1.0):
        population = tiny_population(corpus, protocol, **OWN, training={"teacher_share": share})
        population = dataclasses.replace(population, teacher=made_up(corpus, protocol, tables), cache={})
        losses[share] = np.asarray(after_steps(population, 1)[1]["loss"]).ravel()
    np.testing.assert_allclose(losses[0.25], 0.75 * losses[0.0] + 0.25 * losses[1.0], rtol=1e-5)
    assert np.abs(losses[1.0] - losses[0.0]).min() > 0.01


def test_a_run_reads_the_rows_of_its_own_fold():
    """Of the utterances that only another fold learns, a change changes nothing; of its own, it does."""
    corpus, protocol = tiny_corpus()
    uniform = np.full((3, len(corpus.utterances), len(corpus.emotions)), 1 / len(corpus.emotions), np.float32)
    other = uniform.copy()
    other[1] = np.eye(len(corpus.emotions), dtype=np.float32)[0]
    found = []
    for tables in (uniform, other):
        population = tiny_population(corpus, protocol, **OWN)
        population = dataclasses.replace(population, teacher=made_up(corpus, protocol, tables), cache={})
        found.append(vectors(after_steps(population)[0].parameters, 3))
    same = [np.array_equal(a, b) for a, b in zip(*found, strict=True)]
    assert same == [True, False, True]


def test_labels_of_other_corpora_and_folds_are_refused(workdir, data_dir):
    corpus, _ = tiny_corpus()
    seeded = {"corpus": {"options": {"seed": 3}}}
    with pytest.raises(UserError, match=r"config.training.teacher: trained on synthetic, expected synthetic as it is"):
        pupils(workdir, data_dir, seeded)
    with pytest.raises(UserError, match=r"config.training.teacher: it learnt other utterances of fold"):
        config = configuration.merge(CONFIG, {**OWN, "training": {"teacher": workdir}})
        population_of(config, corpus, make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0), data_dir)
    with pytest.raises(UserError, match=r"config.training.teacher: it has no fold 'everything', found"):
        config = configuration.merge(CONFIG, {**OWN, "training": {"teacher": workdir}})
        population_of(config, corpus, make_protocol(corpus, "everything"), data_dir)
    with pytest.raises(UserError, match=r"config.training.teacher nowhere: no such folder"):
        pupils("nowhere", data_dir)
    with pytest.raises(UserError, match="what a teacher says"):
        pupils(workdir, data_dir, {"feed": "streaming"})


def test_a_checkpoint_says_who_taught_it_and_another_teacher_is_another_training(workdir, data_dir, tmp_path):
    told = describe(pupils(workdir, data_dir))["teacher"]
    assert told["seeds"] == [0, 1, 2] and told["model"]["name"] == "linear" and len(told["parameters"]) == 64
    assert told["initial"] is None and told["teacher"] is None
    assert describe(pupils("", data_dir))["teacher"] is None
    config = configuration.merge(CONFIG, {**OWN, "seeds": [5], "training": {"teacher": workdir}})
    outcome = run_study(config, tmp_path / "pupil", data_dir=data_dir)
    assert not outcome.failed
    loop.train(pupils(workdir, data_dir), tmp_path / "training")
    with pytest.raises(UserError, match="this workdir holds another training"):
        loop.train(pupils("", data_dir), tmp_path / "training")


def test_pupils_of_one_seed_share_the_resident_corpus_only_with_pupils_of_the_same_teacher(workdir, data_dir):
    cache = {}
    taught_here, alone = pupils(workdir, data_dir, cache=cache), pupils("", data_dir, cache=cache)
    assert taught_here.resident.teacher_probabilities is not None and alone.resident.teacher_probabilities is None
    assert taught_here.resident.samples is alone.resident.samples
