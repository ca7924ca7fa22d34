"""The doors of the project: small valid files of every kind, and what reads them. See `tests.fuzz`."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_jax import checksums, predictions
from ser_jax import config as configuration
from ser_jax.baselines import functionals, linear
from ser_jax.corpora import containers, corpus, duplicates, features
from ser_jax.corpora.audio import read_recording
from ser_jax.corpora.builders.source import Release, open_source, read_sums, sha256
from ser_jax.corpora.feature_source import read_features
from ser_jax.corpora.fold_lists import read_fold_list
from ser_jax.corpora.folder import read_table
from ser_jax.corpora.problems import Problems
from ser_jax.corpora.protocols import make_protocol
from ser_jax.encoders import architecture, weights
from ser_jax.errors import UserError
from ser_jax.report import summary
from ser_jax.studies import more_seeds, outside, results, robustness, status, store
from ser_jax.studies.plan import make_plan
from ser_jax.training import log
from ser_jax.training.state import for_evaluation
from tests.fuzz import Door

ROOT = Path(__file__).parents[1]
EMOTIONS = ("anger", "joy")
IDS = ("a", "b", "c", "d")
WHISPER = {"model_type": "whisper", "d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2}
WHISPER |= {"encoder_ffn_dim": 12, "num_mel_bins": 8, "max_source_positions": 20, "activation_function": "gelu"}
PREPROCESSOR = {"sampling_rate": 16000, "feature_size": 8, "n_fft": 400, "hop_length": 160, "do_normalize": False}


def spoken() -> corpus.Corpus:
    """A corpus of four utterances."""
    table = pd.DataFrame({"id": IDS, "emotion": EMOTIONS * 2, "speaker": list("ppqq"), "take": range(4)})
    rng = np.random.default_rng(0)
    waveforms = [rng.integers(-9000, 9000, 400).astype(np.int16) for _ in IDS]
    return corpus.make_corpus("own", table, waveforms, EMOTIONS, {"licence": "mine", "labels": []})


def table_of_predictions() -> pd.DataFrame:
    return predictions.make_predictions(
        "own", "eca", "p", 0, IDS, list("ppqq"), np.array([0, 1, 0, 1]), np.full((4, 2), 0.5), EMOTIONS
    )


def inside(scratch: Path, made: Path, name: str, read: Callable[[Path], object]) -> Door:
    """A file of a folder that is made whole before; without its checksums, which would refuse every change."""
    own = Path(shutil.copytree(made, scratch / f"{made.name}-{name.replace('/', '-')}"))
    for path in own.rglob(checksums.FILE):
        path.unlink()

    def door(path: Path) -> object:
        shutil.copy(path, own / name)
        return read(own)

    return Path(name).name, (made / name).read_bytes(), door


def text(name: str, content: str, read: Callable[[Path], object]) -> Door:
    return name, content.encode(), read


def tables(scratch: Path) -> Iterable[Door]:
    for name in IDS:
        soundfile.write(scratch / f"{name}.wav", np.zeros(2000), 16000)
    rows = ["a.wav,anger,p,0.01,0.1,1", "b.wav,joy,p,,,2", "c.wav,anger,q,0,0.05,3", "d.wav,joy,q,,,4"]
    names = "path,emotion,speaker,start,end,take"
    records = [dict(zip(names.split(","), row.split(","), strict=True)) for row in rows]

    def read(path: Path) -> pd.DataFrame:
        return read_table(path, scratch, Problems())

    yield text("table.csv", "\n".join([names, *rows, ""]), read)
    yield text("table.tsv", "\n".join([names, *rows, ""]).replace(",", "\t"), read)
    yield text("table.jsonl", "\n".join(map(json.dumps, records)), read)
    yield text("table.json", json.dumps(records), read)
    pd.DataFrame(records).to_parquet(scratch / "table.parquet")
    yield "table.parquet", (scratch / "table.parquet").read_bytes(), read
    folds = [{"fold": fold, "split": "test" if who == fold else "train", "utterance": name}
             for fold in "pq" for name, who in zip(IDS, "ppqq", strict=True)]  # fmt: skip

    def official(path: Path) -> object:
        read_fold_list(path)
        return make_protocol(spoken(), "official", validation_speakers=0, file=str(path))

    yield text("folds.json", json.dumps(folds), official)
    yield text("folds.jsonl", "\n".join(map(json.dumps, folds)), official)
    yield text("folds.csv", pd.DataFrame(folds).to_csv(index=False), official)


def audio(scratch: Path) -> Iterable[Door]:
    sound = 0.3 * np.sin(np.arange(3000) / 9)
    kinds = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "aiff": {}, "au": {}, "w64": {}, "caf": {}, "rf64": {}}
    kinds |= {"oga": {"format": "OGG", "subtype": "OPUS"}, "voc": {}, "nist": {}}
    for suffix, options in kinds.items():
        path = scratch / f"a.{suffix}"
        soundfile.write(path, sound, 16000, **options)
        yield path.name, path.read_bytes(), read_recording
    soundfile.write(scratch / "wide.wav", np.stack([sound] * 3, 1), 48000, subtype="FLOAT")
    yield "wide.wav", (scratch / "wide.wav").read_bytes(), read_recording


def structure(scratch: Path) -> Iterable[Door]:
    """The containers' own walk over bytes, without a decoder behind it."""
    for name, content, _ in audio(scratch):
        yield name, content, lambda path: containers.check_structure("a", path.read_bytes())


def archives(scratch: Path) -> Iterable[Door]:
    soundfile.write(scratch / "a.wav", np.zeros(500), 16000)
    release = Release("Own", "1.0.0", "", {"a": sha256(scratch / "a.wav")})

    def read(path: Path) -> object:
        with open_source(path, release, scratch / "unpacked") as source:
            return source

    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(scratch / name, "w", method) as archive:
            archive.write(scratch / "a.wav", "own/a.wav")
            archive.writestr("notes.txt", "nothing")
        yield name, (scratch / name).read_bytes(), read
    yield text("SHA256SUMS", f"{release.hashes['a']}  a.wav\n", read_sums)


def feature_files(scratch: Path) -> Iterable[Door]:
    own = spoken()
    values = {name: np.arange(6, dtype=np.float32).reshape(2, 3) + i for i, name in enumerate(IDS)}

    def read(path: Path) -> object:
        with read_features(path, own) as found:
            return [found.read(row) for row in range(len(IDS))]

    np.savez(scratch / "made.npz", **values)
    np.savez_compressed(scratch / "small.npz", **values)
    lists = pd.DataFrame({"id": IDS, "value": [array.tolist() for array in values.values()]})
    lists.to_parquet(scratch / "lists.parquet")
    frames = [(name, t, *row) for name, array in values.items() for t, row in enumerate(array.tolist())]
    pd.DataFrame(frames, columns=["id", "frame", "x", "y", "z"]).to_parquet(scratch / "frames.parquet")
    names = ["made.npz", "small.npz", "lists.parquet", "frames.parquet"]
    try:
        import h5py
    except ImportError:
        pass
    else:
        with h5py.File(scratch / "made.h5", "w") as file:
            for name, array in values.items():
                file[name] = array
        names.append("made.h5")
    for name in names:
        yield name, (scratch / name).read_bytes(), read
    folder = scratch / "folder"
    folder.mkdir()
    for name, array in values.items():
        np.save(folder / f"{name}.npy", array)
    yield inside(scratch, folder, "a.npy", read)


def packed(scratch: Path) -> Iterable[Door]:
    own, folder = spoken(), scratch / "packed" / "own"
    corpus.save(own, folder)
    np.savez(scratch / "made.npz", **{name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in IDS})
    features.pack_features("vector", scratch / "made.npz", own, scratch, 20.0)
    duplicates._signatures(corpus.load(folder))
    for name in ("samples.npy", "utterances.parquet", "corpus.json"):
        yield inside(scratch, folder, name, lambda own: corpus.load(own, again=True))
    for name in ("values.npy", "index.parquet", "features.json"):
        yield inside(scratch, folder / "features" / "vector", name, lambda own: features.read_packed(own, again=True))
    yield inside(scratch, folder, duplicates.CACHE, lambda own: duplicates._signatures(corpus.load(own)))
    np.savez(scratch / "kept.npz", ids=np.array(IDS), values=np.zeros((4, 2), np.float32), names=np.array(["x", "y"]))
    yield "kept.npz", (scratch / "kept.npz").read_bytes(), functionals._read


def configurations(scratch: Path) -> Iterable[Door]:
    def planned(path: Path) -> object:
        return make_plan(configuration.load(str(path)))

    question = {"name": "q", "text": "Does it help?", "base": {"model": {"name": "linear"}}, "compare": ["rate"]}
    question["factors"] = [{"name": "rate", "field": "optimizer.learning_rate", "levels": [1e-3, 1e-2]}]
    studies = [
        {"study": {"variants": {"one": {}, "two": {"seeds": [1]}}, "comparisons": [["two", "one"]], "title": "T"}},
        {"study": {"questions": [question]}},
    ]
    for number, study in enumerate(studies):
        yield text(f"study{number}.json", json.dumps(study), planned)
    yield text("whole.json", json.dumps(configuration.default()), planned)
    own = scratch / "own.json"
    own.write_text("{}")

    def override(path: Path) -> object:
        lines = path.read_text(errors="surrogateescape").splitlines()
        return make_plan(configuration.load(str(own), [f"--config.{line}" for line in lines if "=" in line]))

    lines = ["seeds=0,1", "model.name=cnn", "optimizer.learning_rate=1e-3", "training.batch_size=8", "folds=0,1"]
    yield text(
        "overrides.txt", "\n".join([*lines, "study.comparisons=[['a', 'b']]", "corpus.options.seed=1"]), override
    )


def prediction_tables(scratch: Path) -> Iterable[Door]:
    table = table_of_predictions()
    table.to_parquet(scratch / "predictions.parquet", index=False)
    table.assign(condition="noise_0").to_parquet(scratch / "conditions.parquet", index=False)
    yield "predictions.parquet", (scratch / "predictions.parquet").read_bytes(), predictions.read
    yield "conditions.parquet", (scratch / "conditions.parquet").read_bytes(), robustness.read
    theirs = table.drop(columns=["corpus"])
    theirs.to_parquet(scratch / "theirs.parquet", index=False)
    yield "theirs.parquet", (scratch / "theirs.parquet").read_bytes(), outside.read_outside
    yield text("theirs.csv", theirs.to_csv(index=False), outside.read_outside)
    scores = pd.DataFrame({"file": IDS, "start": 0, "end": 1, "anger": 2.5, "joy": -1.0, "predicted": "anger"})
    scores = scores.assign(truth=list(EMOTIONS) * 2, uncertainty=0.5, correct=True)
    yield text("nkululeko.csv", scores.to_csv(index=False), outside.read_outside)
    labels = pd.DataFrame({"utterance": IDS, "label": EMOTIONS * 2, "prediction": "joy"})
    yield text("labels.tsv", labels.to_csv(index=False, sep="\t"), lambda path: results.read(str(path)))


def workdirs(scratch: Path) -> Iterable[Door]:
    smallest = min(ROOT.glob("docs/results/**/summary.json"), key=lambda path: path.stat().st_size)
    yield text("summary.json", smallest.read_text(), summary.read)
    places = [{"name": "one", "folder": "populations/one-0123456789ab"}]
    yield text("study.json", json.dumps(places), lambda path: store.read_places(path.parent))
    work = scratch / "work"
    population = work / "populations" / "one-0123456789ab"
    (population / "checkpoints" / "6").mkdir(parents=True)
    study = {"study": {"variants": {"one": {}}}}
    (work / "config.json").write_text(json.dumps(study))
    rows = [{"step": 3 * i, "epoch": i / 2, "fold": "p", "seed": 0, "loss": 1.0 / i} for i in (1, 2)]
    (population / log.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.write_json(population / store.FAILURE, {"message": "it failed", "traceback": ""})
    result = {"family": "f", "seeds": [0, 1], "seconds": {"train": 1.0, "evaluate": 0.1}, "provenance": []}
    for name in (log.FILE, store.FAILURE):
        yield inside(scratch, work, f"populations/{population.name}/{name}", status.study_status)
    yield inside(scratch, work, "config.json", status.study_status)
    yield text(log.FILE, (population / log.FILE).read_text(), lambda path: log.means(log.read(path)))
    store.write_json(population / store.RESULT, result)
    yield inside(
        scratch, population, store.RESULT, lambda folder: more_seeds._finished(folder / store.RESULT, result["family"])
    )
    yield text("SHA256SUMS", 64 * "0" + "  a\n" + 64 * "1" + "  b/c\n", lambda path: checksums.faults(path.parent))
    fitted = linear.Fitted(np.zeros(2), np.ones(2), np.ones((2, 2)), np.zeros(2), 1.0, np.zeros(8))
    linear.save(scratch / "baseline", [fitted], {"folds": ["p"], "config": {}})
    for path in sorted((scratch / "baseline").glob("*.*")):
        read = linear.load_metadata if path.suffix == ".json" else linear.load
        yield inside(scratch, scratch / "baseline", path.name, read)


def tiny_encoder(folder: Path) -> Path:
    """Writes a Whisper encoder of one layer and random weights to a folder, as transformers stores it."""
    from safetensors.numpy import save_file

    from ser_jax.encoders.store import WEIGHTS

    folder.mkdir()
    for name, content in ((architecture.CONFIG, WHISPER), (architecture.PREPROCESSOR, PREPROCESSOR)):
        (folder / name).write_text(json.dumps(content))
    read, rng, tensors = architecture.read_architecture(folder), np.random.default_rng(0), {}
    shapes = weights.flax.traverse_util.flatten_dict(weights.parameter_shapes(read), sep="/")
    for entry in weights._entries(read):
        shape = weights._stored_shape(entry.layout, shapes[entry.path].shape[entry.stacked :])
        tensors |= {name: rng.normal(0, 0.3, shape).astype(np.float32) for name in entry.names}
    save_file(tensors, folder / WEIGHTS)
    return folder


def encoders(scratch: Path) -> Iterable[Door]:
    from ser_jax.encoders import store as encoder_store

    folder = tiny_encoder(scratch / "tiny")
    encoder_store.get(str(folder), scratch, name="kept", licence="mine")
    kept = encoder_store.encoder_folder("kept", scratch)

    def load(own: Path) -> encoder_store.LoadedEncoder:
        return encoder_store.load(str(own))

    for name in (architecture.CONFIG, architecture.PREPROCESSOR, encoder_store.CARD, encoder_store.WEIGHTS):
        yield inside(scratch, kept, name, load)
    config = {
        "model_type": "wavlm",
        "hidden_size": 32,
        "conv_dim": [8, 8],
        "conv_kernel": [10, 3],
        "conv_stride": [5, 2],
    }
    (folder / architecture.CONFIG).write_text(json.dumps(config | {"num_attention_heads": 4}))
    yield inside(scratch, folder, architecture.CONFIG,
                 lambda own: weights.parameter_shapes(architecture.read_architecture(own)))  # fmt: skip
    index = {"weight_map": {"encoder.conv1.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    yield inside(scratch, folder, "model.safetensors.index.json",
                 lambda own: weights.read_tensors(own / "model.safetensors.index.json"))  # fmt: skip


def models(scratch: Path) -> Iterable[Door]:
    """A shared model, its description sealed again as an attacker would; and the files of a checkpoint."""
    from ser_jax.inference.restore import network_of
    from ser_jax.studies import workdirs as of_workdirs
    from ser_jax.training import published
    from ser_jax.training.arrays import sealed
    from ser_jax.training.checkpoints import Checkpoints
    from tests.training.test_checkpoints import METADATA, state_of

    def described(own: Path) -> object:
        path = own / published.METADATA
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            path.write_text(json.dumps(sealed(json.loads(path.read_bytes()))))
        (model,) = of_workdirs.find(own)
        return network_of(model.metadata)

    made = ROOT / "pretrained" / "both"
    yield inside(scratch, made, published.METADATA, described)
    # Of arrays that were never those of a network, so that reading them takes no time.
    small = scratch / "small"
    small.mkdir()
    state = for_evaluation(state_of(3))
    published.write(small, "small", published.arrays_of(state), METADATA)
    yield inside(scratch, small, published.WEIGHTS, lambda own: published.restore(own, state))
    folder = scratch / "checkpoints"
    store = Checkpoints(folder)
    store.save(state_of(3), METADATA)
    store.close()

    def verified(own: Path) -> object:
        with contextlib.closing(Checkpoints(own)) as store:
            return store.verify()

    def resealed(own: Path) -> object:
        path = own / "3" / "metadata" / "metadata"
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            path.write_text(json.dumps(sealed(json.loads(path.read_bytes()))))
        return verified(own)

    file, content, read = inside(scratch, folder, "3/metadata/metadata", resealed)
    yield f"{file}.json", content, read
    for name in ("3/_CHECKPOINT_METADATA", "3/evaluation/_METADATA", "3/evaluation/manifest.ocdbt"):
        yield inside(scratch, folder, name, verified)


DOORS = {
    "tables": tables,
    "audio": audio,
    "structure": structure,
    "archives": archives,
    "features": feature_files,
    "packed": packed,
    "configurations": configurations,
    "predictions": prediction_tables,
    "workdirs": workdirs,
    "encoders": encoders,
    "models": models,
}


def make_doors(scratch: Path, names: Iterable[str]) -> dict[str, list[Door]]:
    """Returns the files of these doors, made in a folder."""
    made = {}
    for name in names:
        (scratch / name).mkdir()
        made[name] = list(DOORS[name](scratch / name))
    return made


def assert_refused(call: Callable[[Path], object], folder: Path, message: str) -> None:
    """Fails unless the call on a folder raises a `UserError` of one short line that holds the message."""
    with pytest.raises(UserError) as refused:
        call(folder)
    said = str(refused.value)
    assert message in said and "\n" not in said and len(said.replace(str(folder), "")) < 300
