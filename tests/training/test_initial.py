import dataclasses

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ser_jax import config as configuration
from ser_jax.corpora import load_corpus, packed_folder
from ser_jax.corpora.corpus import make_corpus, save, waveform
from ser_jax.corpora.merge import merge_corpora, parts_of
from ser_jax.corpora.protocols import make_protocol
from ser_jax.errors import UserError
from ser_jax.studies.run import run_study
from ser_jax.studies.variants import population_of
from ser_jax.studies.workdirs import load_initial
from ser_jax.training.initial import check_initial, corpora_seen, in_common
from ser_jax.training.population import describe, initial_state
from tests.training.tiny import CONFIG, PARTS, tiny_merged, vectors

MODEL = {"name": "tcn", "width": 8, "levels": 1}  # with batch normalisation
EARLIER = {
    "corpus": {"options": {"num_speakers": 4, "utterances_per_speaker": 8, "seed": 1}},
    "protocol": {"name": "everything"},
    "seeds": [0, 1],
    "model": MODEL,
    "evaluation": {"latency": False},
}
LATER = {"folds": [0, 1], "seeds": [1, 7], "model": MODEL}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("earlier")
    run_study(configuration.merge(CONFIG, EARLIER), folder, data_dir=data_dir)
    return str(folder)


def later(workdir, data_dir, changes=None):
    config = configuration.merge(configuration.merge(CONFIG, LATER), {"training": {"initial": workdir}})
    config = configuration.merge(config, changes or {})
    corpus = load_corpus(config["corpus"]["name"], data_dir, **config["corpus"]["options"])
    return population_of(config, corpus, make_protocol(corpus, "leave_one_speaker_out"), data_dir)


def parameters(population, run):
    return jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:])[run], initial_state(population).parameters)


def test_runs_begin_with_the_averages_of_their_own_seed_or_of_the_first(workdir, data_dir):
    variables = load_initial(workdir).variables
    assert list(variables) == [0, 1]
    assert np.abs(ravel_pytree(variables[0])[0] - ravel_pytree(variables[1])[0]).max() > 0.01
    population = later(workdir, data_dir)
    assert [seed for _, seed in population.runs] == [1, 7, 1, 7]
    state = initial_state(population)
    for run, seed in enumerate([1, 0, 1, 0]):
        for tree, collection in ((state.parameters, "params"), (state.batch_stats, "batch_stats")):
            np.testing.assert_array_equal(vectors(tree, 4)[run], vectors(variables[seed][collection], 1)[0])
    np.testing.assert_array_equal(vectors(state.ema_parameters, 4), vectors(state.parameters, 4))
    np.testing.assert_array_equal(vectors(state.ema_batch_stats, 4), vectors(state.batch_stats, 4))
    assert not np.any(state.step) and not np.any(ravel_pytree(state.optimizer)[0])


def test_the_classifier_of_other_emotions_is_drawn_anew(workdir, data_dir):
    initial = load_initial(workdir)
    other = {**initial.metadata, "corpus": {**initial.metadata["corpus"], "emotions": ["a", "b", "c", "d"]}}
    initial = dataclasses.replace(initial, metadata=other)
    begun = parameters(dataclasses.replace(later(workdir, data_dir), initial=initial), 0)
    drawn, earlier = parameters(later("", data_dir), 0), initial.variables[1]["params"]
    np.testing.assert_array_equal(begun["classifier"]["kernel"], drawn["classifier"]["kernel"])
    np.testing.assert_array_equal(begun["forward"]["kernel"], earlier["forward"]["kernel"])
    assert np.any(begun["classifier"]["kernel"] != earlier["classifier"]["kernel"])
    assert np.any(begun["forward"]["kernel"] != drawn["forward"]["kernel"])


def test_a_checkpoint_says_what_its_runs_began_with(workdir, data_dir):
    told = describe(later(workdir, data_dir))["initial"]
    earlier = load_corpus("synthetic", data_dir, **EARLIER["corpus"]["options"])
    assert told["corpus"]["fingerprint"] == earlier.fingerprint and told["initial"] is None
    assert len(told["parameters"]) == 64
    assert describe(later("", data_dir))["initial"] is None


def test_corpora_are_remembered_through_several_trainings(workdir, data_dir):
    population = later(workdir, data_dir)
    seen = [corpus["fingerprint"] for corpus in corpora_seen(describe(population))]
    assert seen == [population.corpus.fingerprint, population.initial.metadata["corpus"]["fingerprint"]]


def test_a_corpus_that_was_packed_otherwise_is_known_by_its_recordings(workdir, data_dir):
    heard = load_corpus("synthetic", data_dir, **EARLIER["corpus"]["options"])
    other = load_corpus("synthetic", data_dir, **CONFIG["corpus"]["options"])
    (seen,) = corpora_seen(load_initial(workdir).metadata)
    assert in_common(seen, heard) == ["synthetic"]
    assert in_common(seen, other) == []
    table = other.utterances[["id", "speaker", "emotion"]].iloc[:4].assign(id=list("abcd"))
    # With silence at the ends, and two of them not from there.
    sources = (heard, other, heard, other)
    waveforms = [np.pad(waveform(source, row), (800, 9)) for row, source in enumerate(sources)]
    exact = make_corpus("exact", table, waveforms, other.emotions)
    assert in_common(seen, exact) == ["utterance a", "utterance c"]
    config = configuration.merge(configuration.merge(CONFIG, LATER), {"training": {"initial": workdir}})
    with pytest.raises(UserError, match=r"in which utterance a is too \(and 1 more\), with test speakers"):
        check_initial(load_initial(workdir), config, exact, later(workdir, data_dir).learner)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": EARLIER["corpus"]}, "config.training.initial: trained on synthetic itself, with its test speakers"),
        ({"frontend": {"hop_ms": 50.0}}, "config.training.initial: trained with another frontend (config.frontend.hop"),
        ({"model": {"name": "linear"}}, "config.training.initial: trained with another model (config.model."),
        ({"training": {"initial": "nowhere"}}, "config.training.initial nowhere: no such folder"),
    ],
    ids=str,
)
def test_what_cannot_be_begun_with_is_refused_in_one_line(workdir, data_dir, changes, message):
    with pytest.raises(UserError) as error:
        later(workdir, data_dir, changes)
    assert str(error.value).startswith(message)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, data_dir):
    """What was learnt from the corpora first, both (first and second) and more (both and synthetic)."""
    tiny_merged(data_dir)
    third = load_corpus("synthetic", data_dir, num_speakers=2, utterances_per_speaker=8, seed=9)
    save(dataclasses.replace(third, name="third"), packed_folder("third", data_dir))
    for name, parts in {"more": ("both", "third"), "apart": ("second", "third")}.items():
        merge_corpora(name, parts, data_dir)
    folders = {}
    for name in ("first", "both", "more"):
        folders[name] = str(tmp_path_factory.mktemp(name))
        config = config_on(name, heads="shared" if name == "first" else "source")
        config = configuration.merge(config, {"protocol": EARLIER["protocol"]})
        assert not run_study(config, folders[name], data_dir=data_dir).failed
    return folders


def config_on(name, **training):
    """The linear model on a packed corpus."""
    changes = {"augmentation": {"mixup": 0.0}, "evaluation": {"latency": False}, "training": training}
    config = configuration.merge(CONFIG, changes)
    return config | {"corpus": config["corpus"] | {"name": name, "options": {}}}


def on_corpus(name, workdir, data_dir, **training):
    corpus = load_corpus(name, data_dir)
    protocol = make_protocol(corpus, "leave_one_speaker_out", validation_speakers=0)
    return population_of(config_on(name, initial=workdir, **training), corpus, protocol, data_dir)


def test_a_merged_corpus_knows_the_parts_of_its_parts(learnt, data_dir):
    more, both = (load_corpus(name, data_dir) for name in ("more", "both"))
    assert set(parts_of(more)) == {"both", "both/first", "both/second", "third"}
    assert parts_of(both) == {part: load_corpus(part, data_dir).fingerprint for part in PARTS}
    assert parts_of(load_corpus("first", data_dir)) == parts_of(load_corpus("synthetic", data_dir)) == {}


@pytest.mark.parametrize(
    ("earlier", "now", "common"),
    [
        ("first", "both", "first"),
        ("both", "second", "second"),
        ("first", "more", "both/first"),
        ("more", "first", "first"),
        ("both", "more", "both"),
        ("more", "both", "both"),
        ("both", "apart", "second"),
    ],
)
def test_what_has_heard_a_part_of_a_merged_corpus_is_not_begun_with(learnt, data_dir, earlier, now, common):
    with pytest.raises(UserError) as error:
        on_corpus(now, learnt[earlier], data_dir)
    expected = f"config.training.initial: trained on {earlier}, in which {common} is too"
    message = str(error.value)
    more = {("both", "more"): " (and 2 more)", ("more", "both"): " (and 2 more)"}.get((earlier, now), "")
    assert message.startswith(f"{expected}{more}, with test speakers")
    assert "\n" not in message


def test_what_was_heard_long_ago_is_remembered_too(learnt, data_dir):
    """A merged corpus, then one that has nothing of it, then a part of it."""
    between = dataclasses.replace(on_corpus("third", "", data_dir), initial=load_initial(learnt["both"]))
    now = on_corpus("second", "", data_dir)
    initial = dataclasses.replace(between.initial, metadata=describe(between))
    assert [seen["name"] for seen in corpora_seen(initial.metadata)] == ["third", "both"]
    with pytest.raises(UserError, match="trained on both, in which second is too"):
        check_initial(initial, now.config, now.corpus, now.learner)


def test_heads_are_kept_for_the_same_sources_alone(learnt, data_dir):
    earlier = load_initial(learnt["both"])
    kernel = earlier.variables[0]["params"]["classifier"]["kernel"]
    own = earlier.metadata["targets"]["heads"]
    same = on_corpus("both", "", data_dir, heads="source")
    # The corpus is the same, so that the shapes are: what must not be begun with was refused before this.
    for described, kept in ((own, True), ([{**own[0], "source": "another"}, own[1]], False), ([], False)):
        metadata = earlier.metadata | {"targets": earlier.metadata["targets"] | {"heads": described}}
        initial = dataclasses.replace(earlier, metadata=metadata)
        found = parameters(dataclasses.replace(same, initial=initial), 0)["classifier"]["kernel"]
        assert np.array_equal(found, kernel) == kept
    shared = dataclasses.replace(on_corpus("both", "", data_dir), initial=earlier)
    begun, drawn = (
        vectors(initial_state(population).parameters, 4)
        for population in (shared, dataclasses.replace(shared, initial=None))
    )
    np.testing.assert_array_equal(begun, drawn)


def test_what_a_teacher_began_with_was_heard_too(learnt, data_dir):
    taught = describe(on_corpus("third", "", data_dir))
    begun = load_initial(learnt["both"]).describe()
    taught["teacher"] = {"initial": begun, "teacher": None}
    assert [seen["name"] for seen in corpora_seen(taught)] == ["third", "both"]
    again = dataclasses.replace(load_initial(learnt["both"]), metadata=taught).describe()
    assert [seen["name"] for seen in corpora_seen({"initial": again})] == ["third", "both"]
