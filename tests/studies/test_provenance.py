"""Who trained what: kept for each process and seed, named where it differs."""

import platform
import subprocess

import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies import provenance, store
from ser_jax.studies.knowledge import NO_EMOTION, knowledge_of
from ser_jax.training import log
from tests.training.tiny import CONFIG

H200 = {"platform": "gpu", "device": "NVIDIA H200", "devices": 1}
CPU = {"platform": "cpu", "device": "EPYC", "devices": 2}


def entry(seeds, jax="0.10.2", hardware=CPU, commit="a" * 40):
    return {
        "seeds": seeds,
        "versions": {"jax": jax, "numpy": "2.4"},
        "commit": commit,
        "hardware": hardware,
        "host": "h",
    }


def test_a_process_describes_itself():
    found = provenance.provenance({"seeds": (0, 1), "model": {"name": "cnn"}})
    assert found["seeds"] == [0, 1]
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "scipy", "soxr", "python"} <= set(found["versions"])
    assert found["host"] == platform.node()
    assert found["hardware"]["platform"] == "cpu" and found["hardware"]["devices"] == 8


def test_the_commit_is_that_of_the_package_and_says_when_its_files_were_changed(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert provenance.commit.__wrapped__(package) is None
    git("init")
    assert provenance.commit.__wrapped__(package) is None  # it lies in a repository that does not know it
    git("add", "."), git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert provenance.commit.__wrapped__(package) == head
    (package / "more.py").write_text("")
    assert provenance.commit.__wrapped__(package) == f"{head}+"
    (package / "more.py").unlink()
    (tmp_path / "elsewhere").write_text("")
    assert provenance.commit.__wrapped__(package) == head


def test_seeds_that_were_not_trained_alike_are_named():
    assert provenance.differences([entry([0, 1]), entry([2])]) == ""
    said = provenance.differences([entry([0, 1], "0.10.2"), entry([2], "0.11.2", H200)])
    assert said == "seeds 0, 1: jax 0.10.2, 2 x EPYC; seeds 2: jax 0.11.2, 1 x NVIDIA H200"
    said = provenance.differences([entry([0]), entry([1], commit="b" * 40)])
    assert said == f"seeds 0: commit {'a' * 12}; seeds 1: commit {'b' * 12}"


def test_a_report_knows_every_process_that_trained_a_variant():
    metadata = {"config": CONFIG, "versions": {"jax": "0.11.2"}}
    result = {"provenance": [entry([0]), entry([2]), entry([1], "0.11.2", H200)]}
    trained = knowledge_of(metadata, result=result).trained
    assert [(one.versions["jax"], one.hardware["device"]) for one in trained] == [
        ("0.10.2", "EPYC"),
        ("0.11.2", "NVIDIA H200"),
    ]
    assert [one.code for one in trained] == ["a" * 40] * 2
    assert [one.seeds for one in trained] == [(0, 2), (1,)]
    (older,) = knowledge_of(metadata, result={"hardware": H200, "code": "c"}).trained
    assert (older.versions, older.hardware, older.code) == ({"jax": "0.11.2"}, H200, "c")


def test_a_report_says_that_the_emotion_was_not_learnt():
    config = {**CONFIG, "objective": {"emotion": 0.0}}
    assert NO_EMOTION in knowledge_of({"config": config, "versions": {}}).notes
    assert NO_EMOTION not in knowledge_of({"config": CONFIG, "versions": {}}).notes
    without = {"config": config, "versions": {}, "corpus": {"emotions": []}}
    assert NO_EMOTION not in knowledge_of(without).notes, "a corpus that has none"


@pytest.mark.parametrize(
    ("accuracies", "says"),
    [
        (np.linspace(0.3, 0.8, 20), "rose by 11 points in the last fifth of the training, to 76 %"),
        (np.minimum(np.linspace(0.3, 1.6, 20), 0.8), None),
        (np.linspace(0.8, 1.0, 20), None),
        ([0.3, 0.5, 0.8], None),
    ],
)
def test_a_training_says_where_it_ended_and_whether_it_had_finished(accuracies, says):
    steps = 10 if len(accuracies) > 5 else 3  # of few steps nothing is said
    logged = [{"step": steps * (i + 1), "epoch": i, "accuracy": float(one)} for i, one in enumerate(accuracies)]
    learnt = log.learning(logged, logged[-1]["step"], logged[-1]["step"])
    found = knowledge_of({"config": CONFIG, "versions": {}}, result={"learning": list(learnt)})
    last = [one["accuracy"] for one in logged if one["step"] > 0.8 * logged[-1]["step"]]
    assert found.training_accuracy == pytest.approx(np.mean(last))
    assert [note for note in found.notes if "not finished learning" in note] == [
        n for n in found.notes if says and says in n
    ]
    assert bool(found.notes) == (says is not None)
    assert knowledge_of({"config": CONFIG, "versions": {}}).training_accuracy is None


def test_of_some_seeds_only_their_trainers_count():
    entries = [entry([0, 1]), entry([2], hardware=H200)]
    assert provenance.of_seeds(entries, (1,)) == [entry([1])]
    assert provenance.of_seeds(entries, (2, 1)) == [entry([1]), entry([2], hardware=H200)]


def test_an_older_result_says_what_it_knows():
    result = {"seeds": [0], "hardware": H200, "trained": {"versions": {"jax": "0.9"}}}
    (found,) = provenance.of_result(result)
    assert (found["seeds"], found["versions"], found["hardware"]) == ([0], {"jax": "0.9"}, H200)
    assert provenance.of_result({"provenance": [entry([1])]}) == [entry([1])]


@pytest.mark.parametrize("name", [store.PREDICTIONS, store.VALIDATION, store.TRACKS, store.RESULT])
def test_results_that_are_not_what_the_training_wrote_are_refused(tmp_path, name):
    file = tmp_path / name
    store.check_results(tmp_path)  # nothing there yet
    for table in (store.PREDICTIONS, store.VALIDATION, store.TRACKS):
        (tmp_path / table).write_bytes(b"as they were")
    store.finish(tmp_path, {"seeds": [0]})
    store.check_results(tmp_path)
    kept = file.read_bytes()
    file.write_bytes(kept + b" ")
    with pytest.raises(UserError, match=rf"{name}: its SHA-256 is .*, but the training wrote .*; delete") as caught:
        store.check_results(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 1  # a folder's name may be long, and a message is cut
    if name != store.RESULT:
        file.unlink()
        with pytest.raises(UserError, match="its SHA-256 is nothing"):
            store.check_results(tmp_path)
    (tmp_path / store.RESULT).unlink()  # then it counts as not trained
    store.check_results(tmp_path)


def test_pre_extracted_features_are_known_with_what_made_them():
    features = {"name": "layer2.frames", "fingerprint": "f", "info": {"states": ["layer 2"], "form": "frames"}}
    known = knowledge_of({"config": CONFIG, "versions": {}, "features": features})
    assert known.features == features
    assert summary.from_json(summary.Knowledge, summary.to_json(known), "summary") == known
    assert knowledge_of({"config": CONFIG, "versions": {}}).features == {}
