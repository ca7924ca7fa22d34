"""A classifier for each corpus that a merged one was made from: it tells that corpus's emotions, and no others."""

import dataclasses
import functools
import json

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus
from ser_jax.corpora.corpus import make_corpus
from ser_jax.corpora.protocols import Fold, Protocol
from ser_jax.errors import UserError
from ser_jax.feeds.resident import crop_batch
from ser_jax.inference import predict, tables
from ser_jax.studies import workdirs
from ser_jax.studies.restored import relabel
from ser_jax.studies.workdirs import Restored
from ser_jax.training import checkpoints, devices, loop
from ser_jax.training import heads as heads_of
from ser_jax.training import population as populations
from ser_jax.training.heads import Heads, own_logits, probabilities, source_numbers
from ser_jax.training.objectives import cross_entropy
from ser_jax.training.step import train_step
from ser_jax.training.teacher import Teacher
from tests.training.tiny import CONFIG, PARTS, tiny_merged, vectors

OWN = {"augmentation": {"mixup": 0.0}, "training": {"heads": "source"}}
HEADS = Heads(("first", "second"), ((0, 1, 2), (1, 3)), 4)

some_classes = st.lists(st.lists(st.sampled_from(range(5)), min_size=2, unique=True), min_size=2, max_size=4)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data(data_dir):
    return tiny_merged(data_dir)


def population_of(data, *changes, **options):
    config = functools.reduce(configuration.merge, (OWN, *changes), CONFIG)
    return populations.make_population(config, *data, **options)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    population = population_of(data, {"folds": [0, 3]})
    folder = tmp_path_factory.mktemp("heads")
    state, _ = loop.train(population, folder)
    return population, state, folder


def slow_logits(heads, outputs, source):
    """Row by row and class by class, what the head of the row's source says; None: it does not know the class."""
    firsts = np.cumsum([0, *map(len, heads.classes)])
    return [
        [
            row[firsts[number] + heads.classes[number].index(one)] if one in heads.classes[number] else None
            for one in range(heads.num_classes)
        ]
        for row, number in zip(outputs, source, strict=True)
    ]


def drawn_rows(draw):
    """Some heads, and what a network said of utterances of their sources."""
    classes = draw(some_classes)
    heads = Heads(tuple(f"corpus{i}" for i in range(len(classes))), tuple(tuple(sorted(own)) for own in classes), 5)
    source = np.array(draw(st.lists(st.integers(0, len(heads.sources) - 1), min_size=1, max_size=6)), np.int32)
    numbers = st.floats(-50, 50, width=32)
    return heads, draw(arrays.arrays(np.float32, (len(source), heads.num_outputs), elements=numbers)), source


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_what_a_head_says_lies_at_its_source_s_classes(data):
    heads, outputs, source = drawn_rows(data.draw)
    logits, possible = map(np.asarray, own_logits(heads, jnp.asarray(outputs), jnp.asarray(source)))
    expected = slow_logits(heads, outputs, source)
    np.testing.assert_array_equal(possible, [[one is not None for one in row] for row in expected])
    np.testing.assert_array_equal(logits[possible], [one for row in expected for one in row if one is not None])
    assert (logits[~possible] == heads_of.OUT_OF_REACH).all()


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_and_are_zero_for_what_a_source_lacks(data):
    heads, outputs, source = drawn_rows(data.draw)
    found = np.asarray(probabilities(heads, jnp.asarray(outputs), jnp.asarray(source)))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (found[heads.places[source] < 0] == 0).all()
    for row, own in zip(found, slow_logits(heads, outputs.astype(np.float64), source), strict=True):
        odds = np.exp([-np.inf if one is None else one for one in own])
        np.testing.assert_allclose(row, odds / odds.sum(), rtol=1e-4, atol=1e-30)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_of_no_source_is_told_by_the_mean_of_all_heads(data):
    heads, outputs, source = drawn_rows(data.draw)
    each = [
        np.asarray(probabilities(heads, jnp.asarray(outputs), jnp.full(len(source), number)))
        for number in range(len(heads.sources))
    ]
    found = np.asarray(probabilities(heads, jnp.asarray(outputs), jnp.full(len(source), -1)))
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_heads_are_the_same_after_a_checkpoint_has_kept_them():
    emotions = ("neutral", "anger", "sadness", "happiness")
    kept = json.loads(json.dumps(heads_of.to_json(HEADS, emotions)))
    assert kept[1] == {"source": "second", "emotions": ["anger", "happiness"]}
    assert heads_of.from_json(kept, emotions) == HEADS
    assert heads_of.to_json(None, emotions) == [] and heads_of.from_json([], emotions) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_those_of_two_linear_layers_in_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(7, 5)).astype(np.float32)
    source = np.array([0, 1, 1, 0, 0, 1, 0], np.int32)
    labels = np.array([rng.choice(HEADS.classes[number]) for number in source])
    kernel = rng.normal(size=(5, HEADS.num_outputs)).astype(np.float32)
    bias = rng.normal(size=HEADS.num_outputs).astype(np.float32)

    def mean_loss(kernel, bias, inputs):
        logits, possible = own_logits(HEADS, inputs @ kernel + bias[None], jnp.asarray(source))
        targets = jax.nn.one_hot(labels, HEADS.num_classes)
        loss, weight = cross_entropy(logits, targets, jnp.ones(7), jnp.ones(4), jnp.float32(smoothing), possible)
        return loss / weight

    ours, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1, 2))(kernel, bias, inputs)

    layers = torch.nn.ModuleList([torch.nn.Linear(5, 3), torch.nn.Linear(5, 2)])
    for layer, columns in zip(layers, (slice(3), slice(3, 5)), strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(kernel[:, columns].T.copy()), torch.tensor(bias[columns])
    seen = torch.tensor(inputs, requires_grad=True)
    total = 0.0
    for number, layer in enumerate(layers):
        rows = np.flatnonzero(source == number)
        own = torch.tensor([HEADS.classes[number].index(label) for label in labels[rows]])
        total += torch.nn.functional.cross_entropy(layer(seen[rows]), own, label_smoothing=smoothing, reduction="sum")
    (total / 7).backward()
    np.testing.assert_allclose(ours, total.item() / 7, rtol=1e-5)
    theirs = (
        np.concatenate([layer.weight.grad.numpy() for layer in layers]).T,
        np.concatenate([layer.bias.grad.numpy() for layer in layers]),
        seen.grad.numpy(),
    )
    for gradient, expected in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("own", [0, 1])
def test_a_batch_of_one_source_leaves_the_other_s_head_as_it_was(data, own):
    population = population_of(data, {"folds": [0], "optimizer": {"weight_decay": 0.0, "warmup_steps": 0}})
    learner = population.learner
    state, run = (
        jax.tree.map(lambda leaf: leaf[0, 0], tree) for tree in (population_state(population), population.run_values)
    )
    rows = np.flatnonzero(source_numbers(HEADS, population.corpus) == own)[:4]
    step = jax.jit(functools.partial(train_step, learner))
    after, metrics = step(state, run, jnp.asarray(rows), population.resident)
    assert metrics["count"] == 4 and np.isfinite(metrics["loss"]) and metrics["loss"] < 4 * 10
    moments = after.optimizer[1][0].mu["classifier"]
    parameters = [one.parameters["classifier"] for one in (state, after)]
    columns = (slice(3), slice(3, 5))
    for name in ("kernel", "bias"):
        assert (np.asarray(moments[name])[..., columns[1 - own]] == 0).all()
        assert (np.asarray(moments[name])[..., columns[own]] != 0).any()
        before, now = (np.asarray(one[name]) for one in parameters)
        np.testing.assert_array_equal(before[..., columns[1 - own]], now[..., columns[1 - own]])


def population_state(population):
    return jax.tree.map(jnp.asarray, populations.initial_state(population))


def test_every_utterance_of_a_batch_has_its_source(data):
    population = population_of(data)
    corpus = population.corpus
    rows = jnp.asarray([0, len(corpus.utterances) - 1, 3, -1])
    keys = jax.random.split(jax.random.key(0), 4)
    batch = crop_batch(population.resident, rows, keys, 4000, jnp.zeros(()))
    assert batch.source.tolist()[:3] == [0, 1, 0] and batch.weight.tolist() == [1, 1, 1, 0]
    assert population.learner.heads == HEADS and population.learner.num_classes == 4
    assert population.num_parameters == HEADS.num_outputs * (2 * 64 + 1)
    shared = population_of(data, {"training": {"heads": "shared"}})
    assert shared.resident.source is None and shared.learner.heads is None
    assert shared.num_parameters == 4 * (2 * 64 + 1)


def test_a_training_predicts_each_corpus_s_own_emotions(trained):
    population, state, _ = trained
    table = tables.test_predictions(population, state, "heads")
    emotions = population.corpus.emotions
    for part, known in PARTS.items():
        own = table[table["utterance"].str.startswith(part)]
        assert len(own) and (own[[f"p_{emotion}" for emotion in emotions if emotion not in known]] == 0).all(axis=None)
        np.testing.assert_allclose(own[[f"p_{emotion}" for emotion in known]].sum(axis=1), 1, rtol=1e-5)


def restored_from(folder):
    store = checkpoints.Checkpoints(folder / "checkpoints")
    try:
        return Restored("heads", folder, store.metadata())
    finally:
        store.close()


def test_a_checkpoint_tells_a_source_alone_by_that_source_s_head(trained, data_dir):
    population, state, folder = trained
    restored = restored_from(folder)
    assert restored.metadata["targets"]["heads"] == [
        {"source": part, "emotions": list(emotions)} for part, emotions in PARTS.items()
    ]
    assert restored.metadata["corpus"]["parts"] == {part: load_corpus(part, data_dir).fingerprint for part in PARTS}
    for part in PARTS:
        corpus, _ = relabel(load_corpus(part, data_dir), restored.emotions)
        alone = workdirs.population_on(restored, corpus)
        found = predict.evaluate(alone, loop.restore(alone, folder), [np.arange(len(corpus.utterances))] * 2)
        rows = np.flatnonzero(population.corpus.utterances["source"] == part)
        for ours, theirs in zip(found, predict.evaluate(population, state, [rows] * 2), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            lacking = [i for i, emotion in enumerate(restored.emotions) if emotion not in PARTS[part]]
            assert (ours[:, lacking] == 0).all()


def test_a_corpus_that_was_not_learnt_is_told_by_the_mean_of_the_heads(trained, data_dir):
    *_, folder = trained
    restored = restored_from(folder)
    corpus, _ = relabel(load_corpus("first", data_dir), restored.emotions)
    rows = [np.arange(len(corpus.utterances))] * 2
    said = {}
    for name in ("first", "second", "another"):
        on = workdirs.population_on(restored, dataclasses.replace(corpus, name=name))
        said[name] = predict.evaluate(on, loop.restore(on, folder), rows)
    for run in range(2):
        expected = (said["first"][run] + said["second"][run]) / 2
        np.testing.assert_allclose(said["another"][run], expected, atol=1e-6)


def test_what_a_corpus_says_of_its_sources_comes_before_its_name(data):
    corpus, _ = data
    table = corpus.utterances.iloc[:4].assign(source=["second", "", "third", None])
    for name, expected in (("both", [1, -1, -1, -1]), ("first", [1, -1, 0, -1])):
        found = source_numbers(HEADS, dataclasses.replace(corpus, name=name, utterances=table))
        assert found.tolist() == expected
    recordings = workdirs.recordings({"a.wav": np.ones(9, np.int16)}, corpus.emotions)
    assert source_numbers(HEADS, dataclasses.replace(recordings, name="first")).tolist() == [-1]


def test_devices_that_share_batches_and_parts_of_batches_learn_the_same(data):
    states = []
    for changes in ({"split": "runs"}, {"split": "runs", "accumulate": 2}, {"split": "batch"}):
        population = population_of(data, {"folds": [0], "training": {"batch_size": 16, **changes}})
        assert population.layout.parts == (len(jax.devices()) if changes["split"] == "batch" else 1)
        piece = populations.to_devices(population, populations.training_feed(population, 0).take(3))
        state, _ = populations.train_steps(population, population_state(population), piece)
        states.append(vectors(state.parameters, 1))
    for other in states[1:]:
        np.testing.assert_allclose(other, states[0], atol=1e-5)


def test_a_checkpoint_from_before_there_were_heads_is_one_of_a_shared_classifier(data, tmp_path):
    population = population_of(data, {"folds": [0], "training": {"heads": "shared"}})
    metadata = populations.describe(population)
    assert metadata["targets"]["heads"] == []
    del metadata["corpus"]["parts"], metadata["config"]["training"]["heads"]
    state = devices.gather(populations.initial_state(population), 1)
    store = checkpoints.Checkpoints(tmp_path / "checkpoints")
    store.save(state, metadata)
    store.close()
    restored = restored_from(tmp_path)
    assert restored.metadata["config"]["training"]["heads"] == "shared"
    again = workdirs.population_on(restored, workdirs.recordings({"a.wav": np.ones(9, np.int16)}, restored.emotions))
    assert again.targets.heads is None
    found = loop.restore(again, tmp_path)
    np.testing.assert_array_equal(vectors(found.ema_parameters, 1), vectors(state.ema_parameters, 1))


def with_sources(data, sources):
    corpus, protocol = data
    table = corpus.utterances.drop(columns="source")
    table = table if sources is None else table.assign(source=sources(corpus.utterances))
    return dataclasses.replace(corpus, utterances=table), protocol


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        (None, {}, r"heads=source: corpus both has no column source; expected one that `prepare merge` made"),
        (lambda table: "one", {}, "heads=source: corpus both has only the source one, expected several"),
        (
            lambda table: table["source"].where(table.index > 0, ""),
            {},
            r"heads=source: utterance 'first-synthetic-\S+' of corpus both has no source",
        ),
        (
            lambda table: table["emotion"],
            {},
            "heads=source: source neutral of corpus both has only neutral; a classifier needs at least 2 emotions",
        ),
        (
            lambda table: table["source"],
            {"augmentation": {"mixup": 0.5}},
            r"config\.augmentation\.mixup: mixed utterances have no single head of their source; expected 0",
        ),
        (
            lambda table: table["source"],
            {"feed": "streaming"},
            r"config\.feed=streaming: sources with heads of their own cannot be streamed; expected auto or resident",
        ),
    ],
    ids=["no column", "one source", "no source", "one emotion", "mixup", "streaming"],
)
def test_what_heads_by_source_cannot_be_trained_with_is_refused(data, sources, changes, message):
    with pytest.raises(UserError, match=message) as error:
        population_of(with_sources(data, sources), changes)
    assert "\n" not in str(error.value)


def test_a_decoder_that_writes_the_text_is_refused(data):
    corpus, protocol = data
    corpus = dataclasses.replace(corpus, utterances=corpus.utterances.assign(transcript="ja"))
    changes = {"model": {"name": "attention_rnn", "text": "characters"}}
    with pytest.raises(
        UserError, match=r"heads=source: config\.model\.text=characters follows the emotion of one head"
    ):
        population_of((corpus, protocol), changes)


def test_votes_with_heads_by_source_are_refused(data):
    corpus, protocol = data
    votes = {f"vote_{emotion}": "1" for emotion in corpus.emotions}
    voted = dataclasses.replace(corpus, utterances=corpus.utterances.assign(**votes)), protocol
    with pytest.raises(UserError, match=r"config\.corpus\.votes: raters voted for all classes, and .*heads=source has"):
        population_of(voted, {"corpus": {"votes": "vote_"}})
    assert (
        population_of(voted, {"corpus": {"votes": "vote_"}, "training": {"heads": "shared"}}).targets.votes is not None
    )


def test_a_fold_that_hears_nothing_of_a_source_is_refused(data):
    corpus, _ = data
    second = np.flatnonzero(corpus.utterances["source"] == "second")
    first = np.flatnonzero(corpus.utterances["source"] == "first")
    protocol = Protocol("across", True, (Fold("second", first, first[:0], second),), "the other corpus")
    with pytest.raises(UserError, match="fold second trains on no utterance of second, whose head would stay"):
        population_of((corpus, protocol))


def test_heads_are_taught_by_the_same_heads(data):
    _, protocol = data
    metadata = populations.describe(population_of(data))

    def taught_by(heads, choice="source"):
        described = metadata | {"targets": metadata["targets"] | {"heads": heads}}
        teacher = Teacher(described, "", tuple(protocol.folds), list)
        return population_of(data, {"training": {"heads": choice}}, teacher=teacher)

    own = metadata["targets"]["heads"]
    for heads, choice in ((own, "source"), (own, "shared"), ([], "shared")):
        assert taught_by(heads, choice).teacher is not None
    for heads in ([], own[::-1]):
        with pytest.raises(UserError, match=r"config\.training\.teacher: it has not the same heads; expected one"):
            taught_by(heads)


def test_a_corpus_with_a_column_source_of_its_own_may_have_heads_too(data):
    corpus, _ = data
    part = make_corpus(
        "mine",
        corpus.utterances[["id", "speaker", "emotion"]].assign(source=[1, 2] * (len(corpus.utterances) // 2)),
        [np.ones(9, np.int16)] * len(corpus.utterances),
        corpus.emotions,
    )
    config = configuration.merge(CONFIG, OWN)
    assert heads_of.make_heads(config, part).sources == ("1", "2")
