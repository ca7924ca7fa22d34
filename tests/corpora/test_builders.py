import http.server
import math
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from ser_jax.corpora.audio import to_int16
from ser_jax.corpora.builders import emodb, ravdess
from ser_jax.corpora.builders.source import Release, open_source, read_sums, sha256
from ser_jax.errors import UserError

# Four names as EMO-DB's and four as RAVDESS's.
EMODB_NAMES = ("03a01Fa", "03a01Wb", "08b02Tc", "16b10Na")
RAVDESS_NAMES = ("03-01-01-01-01-01-01", "03-01-08-02-02-01-01", "03-01-02-01-01-02-24", "03-01-04-02-02-02-24")


def write_corpus(folder, names, *, suffix="wav", rate=16000, channels=1):
    """Writes a second of noise for each name, a different one each."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (rate, 1)).repeat(channels, axis=1)
        soundfile.write(folder / f"{name}.{suffix}", noise, rate)
    return folder


def release_of(folder, title="Toy", url="http://nowhere.invalid/toy.zip"):
    hashes = {path.stem: sha256(path) for path in sorted(folder.rglob("*.*")) if path.suffix in (".wav", ".flac")}
    return Release(title=title, version="1.1.0", url=url, hashes=hashes)


def write_sums(folder):
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.suffix in (".wav", ".flac")]
    (folder / "SHA256SUMS").write_text("".join(lines))


def write_zip(folder, path, inside="toy/wav"):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{inside}/{file.name}")
    return path


def change_one_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def toy(tmp_path):
    """A folder with a corpus of four files, and the release that it is a copy of."""
    folder = write_corpus(tmp_path / "toy", EMODB_NAMES)
    return folder, release_of(folder)


def open_toy(path, release, tmp_path, **options):
    with open_source(path, release, tmp_path / "scratch", **options) as source:
        return source


def test_the_releases_have_the_known_counts():
    assert (len(emodb.RELEASE.hashes), len(ravdess.RELEASE.hashes)) == (535, 1440)


def test_a_plain_copy_is_verified_against_the_release(toy, tmp_path):
    folder, release = toy
    source = open_toy(folder, release, tmp_path)
    assert source.recordings == {name: folder / f"{name}.wav" for name in EMODB_NAMES}
    assert source.check["verified_against"] == "the hashes of Toy as released"
    assert (source.check["files"], source.check["same_as_released"]) == (4, 4)
    assert source.check["missing"] == source.check["extra"] == source.check["changed"] == []


def test_files_may_stand_anywhere_below_the_folder(toy, tmp_path):
    folder, release = toy
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "03a01Fa.wav").rename(folder / "deep" / "er" / "03a01Fa.wav")
    assert open_toy(folder, release, tmp_path).check["same_as_released"] == 4


def test_a_zip_is_verified_like_a_folder_and_nothing_unpacked_is_left(toy, tmp_path):
    folder, release = toy
    path = write_zip(folder, tmp_path / "toy.zip")
    with open_source(path, release, tmp_path / "scratch") as source:
        assert all(recording.is_file() for recording in source.recordings.values())
    assert source.check == open_toy(folder, release, tmp_path).check
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "08b02Tc.wav").unlink(), r"of 4 files 1 missing \(08b02Tc\);"),
        (lambda folder: write_corpus(folder, ("x", "y")), r"2 extra \(x, y\);"),
        (lambda folder: change_one_byte(folder / "03a01Wb.wav"), r"1 changed \(03a01Wb\);"),
        (
            lambda folder: [path.rename(path.with_name(f"not_{path.name}")) for path in sorted(folder.iterdir())],
            r"4 missing \(03a01Fa, 03a01Wb, 08b02Tc, ...\), 4 extra \(not_03a01Fa, not_03a01Wb, not_08b02Tc, ...\);",
        ),
    ],
    ids=["a file too few", "two files too many", "one changed byte", "other names"],
)
def test_what_is_not_the_release_is_refused_by_name(toy, tmp_path, damage, message):
    folder, release = toy
    damage(folder)
    with pytest.raises(UserError, match=f"toy: not Toy as released: .*{message}.*--allow_mismatch"):
        open_toy(folder, release, tmp_path)


def test_a_mismatch_that_is_allowed_is_recorded(toy, tmp_path):
    folder, release = toy
    (folder / "08b02Tc.wav").unlink()
    write_corpus(folder, ("extra",))
    change_one_byte(folder / "03a01Wb.wav")
    source = open_toy(folder, release, tmp_path, allow_mismatch=True)
    assert sorted(source.recordings) == ["03a01Fa", "03a01Wb", "16b10Na"], "what is extra is not used"
    differences = [source.check[kind] for kind in ("missing", "extra", "changed", "same_as_released")]
    assert differences == [["08b02Tc"], ["extra"], ["03a01Wb"], 2]


def test_a_copy_with_its_own_sums_is_checked_against_these_and_says_so(toy, tmp_path):
    _, release = toy
    resampled = write_corpus(tmp_path / "resampled", EMODB_NAMES, suffix="flac", rate=8000)
    with pytest.raises(UserError, match="4 changed"):
        open_toy(resampled, release, tmp_path)
    write_sums(resampled)
    source = open_toy(resampled, release, tmp_path)
    expected = "the names of Toy as released, and the hashes of the folder's own SHA256SUMS"
    assert source.check["verified_against"] == expected
    assert (source.check["same_as_released"], source.check["changed"]) == (0, [])

    change_one_byte(resampled / "03a01Wb.flac")
    with pytest.raises(UserError, match=r"1 changed \(03a01Wb\); compared with .*own SHA256SUMS"):
        open_toy(resampled, release, tmp_path)


def test_own_sums_do_not_excuse_a_missing_file(toy, tmp_path):
    folder, release = toy
    (folder / "08b02Tc.wav").unlink()
    write_sums(folder)
    with pytest.raises(UserError, match="1 missing"):
        open_toy(folder, release, tmp_path)


def test_own_sums_that_are_none_are_refused(toy, tmp_path):
    folder, release = toy
    change_one_byte(folder / "03a01Wb.wav")
    (folder / "SHA256SUMS").write_text("these are no sums\n")
    with pytest.raises(UserError, match="SHA256SUMS: line 1 is 'these are no sums'"):
        open_toy(folder, release, tmp_path)


def test_sums_are_read_as_sha256sum_writes_them(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{'A' * 64}  wav/x.wav\n{'b' * 64} *y z.flac\n")
    assert read_sums(tmp_path / "SHA256SUMS") == {"x": "a" * 64, "y z": "b" * 64}


def test_the_same_recording_twice_is_refused(toy, tmp_path):
    folder, release = toy
    write_corpus(folder / "copy", EMODB_NAMES[:1])
    with pytest.raises(UserError, match=r"holds 03a01Fa twice, 03a01Fa.wav and copy/03a01Fa.wav"):
        open_toy(folder, release, tmp_path)


def test_a_source_that_is_no_folder_and_no_whole_zip_is_refused(toy, tmp_path):
    folder, release = toy
    with pytest.raises(UserError, match="nothing_here: no such folder or zip"):
        open_toy(tmp_path / "nothing_here", release, tmp_path)
    with pytest.raises(UserError, match=r"03a01Fa.wav: neither a folder nor a complete zip"):
        open_toy(folder / "03a01Fa.wav", release, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no audio file"):
        open_toy(tmp_path / "empty", release, tmp_path)

    whole = write_zip(folder, tmp_path / "toy.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut.zip: neither a folder nor a complete zip"):
        open_toy(tmp_path / "cut.zip", release, tmp_path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged.zip: damaged zip"):
        open_toy(tmp_path / "damaged.zip", release, tmp_path)
    assert list((tmp_path / "scratch").iterdir()) == []


def zip_of(path, name, content, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags, then the method, in both headers
        place = data.find(signature) + at
        data[place] |= options.get("flags", 0)
        data[place + 2 : place + 4] = options.get("method", zipfile.ZIP_DEFLATED).to_bytes(2, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [({"flags": 1}, "encrypted, expected the owner's archive"), ({"method": 77}, "method that Python does not know")],
)
def test_a_zip_that_cannot_be_unpacked_is_refused_in_one_line(toy, tmp_path, options, message):
    path = zip_of(tmp_path / "odd.zip", "03a01Fa.wav", b"x" * 1000, **options)
    with pytest.raises(UserError, match=f"odd.zip: .*{message}") as error:
        open_toy(path, toy[1], tmp_path)
    assert "\n" not in str(error.value)


def test_a_zip_is_looked_at_before_it_takes_room(toy, tmp_path, monkeypatch):
    folder, release = toy
    unpacked = []
    extract = zipfile.ZipFile.extract
    monkeypatch.setattr(
        zipfile.ZipFile, "extract", lambda self, m, to: unpacked.append(m.filename) or extract(self, m, to)
    )
    bomb = zip_of(tmp_path / "bomb.zip", "03a01Fa.wav", bytes(100_000_001))
    with pytest.raises(UserError, match=r"03a01Fa.wav would take 100 MB, expected a recording of at most 100"):
        open_toy(bomb, release, tmp_path)
    path = write_zip(folder, tmp_path / "toy.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("zeros.bin", bytes(1000))
        archive.writestr("toy/wav/other.wav", bytes(1000))
    unpacked.clear()
    with pytest.raises(UserError, match=r"1 extra \(other\)"):
        open_toy(path, release, tmp_path)
    assert sorted(unpacked) == sorted(f"toy/wav/{name}.wav" for name in EMODB_NAMES)


def build(module, source, data_dir):
    """Runs a TFDS builder on a verified source (None: downloads) and returns its examples by id, and its info."""
    builder = module.Builder(source=source, data_dir=str(data_dir))
    builder.download_and_prepare()
    examples = {}
    for example in builder.as_dataset(split="train").as_numpy_iterator():
        decoded = {key: value.decode() if isinstance(value, bytes) else value for key, value in example.items()}
        examples[decoded["id"]] = decoded
    return examples, builder.info


def test_emodb_carries_what_names_and_listeners_tell(tmp_path):
    from ser_jax.corpora.builders.emodb import emodb_dataset_builder as module

    folder = write_corpus(tmp_path / "toy", EMODB_NAMES)
    rows = ["Nr.\tSatz\terkannt\tnatuerlich", "1\xa0\xa0\t03a01Fa.wav\t90,00\xa0\xa0\xa0\t66,67\xa0"]
    (folder / "erkennung.txt").write_text("\n".join([*rows, "2\t03a01Xx.wav\t1,00\t2,00", ""]), encoding="latin-1")
    source = open_toy(folder, release_of(folder), tmp_path)
    examples, info = build(module, source, tmp_path / "data")

    assert sorted(examples) == sorted(EMODB_NAMES)
    names = info.features["emotion"].names
    first, last = examples["03a01Fa"], examples["16b10Na"]
    assert [names[examples[name]["emotion"]] for name in EMODB_NAMES] == ["happiness", "anger", "sadness", "neutral"]
    assert (first["speaker"], first["gender"], first["text"], first["language"]) == ("03", "male", "a01", "de")
    assert (last["speaker"], last["gender"], last["text"], last["intensity"]) == ("16", "female", "b10", "")
    assert first["transcript"] == "Der Lappen liegt auf dem Eisschrank."
    assert (first["recognition"], first["naturalness"]) == (pytest.approx(0.9), pytest.approx(0.6667))
    assert math.isnan(last["recognition"]), "a recording that listeners did not rate"
    assert info.metadata["source_check"] == source.check
    assert len(tfds.load("emodb", data_dir=str(tmp_path / "data"), split="train")) == 4, "as TFDS's users load it"
    np.testing.assert_array_equal(first["waveform"], soundfile.read(folder / "03a01Fa.wav", dtype="int16")[0])
    assert first["waveform"].dtype == np.int16


def test_a_damaged_list_of_ratings_is_refused_by_line(tmp_path):
    from ser_jax.corpora.builders.emodb.emodb_dataset_builder import _read_ratings

    assert _read_ratings(tmp_path) == {}
    (tmp_path / "erkennung.txt").write_text("Nr.\tSatz\terkannt\tnatuerlich\n1\t03a01Fa.wav\tmany\t2\n")
    with pytest.raises(UserError, match=r"erkennung.txt: line 2 is '1\\t03a01Fa.wav\\tmany"):
        _read_ratings(tmp_path)


def test_ravdess_carries_what_names_tell_and_48_khz_stereo_becomes_16_khz_mono(tmp_path):
    from ser_jax.corpora.builders.ravdess import ravdess_dataset_builder as module

    folder = write_corpus(tmp_path / "toy", RAVDESS_NAMES, rate=48000, channels=2)
    examples, info = build(module, open_toy(folder, release_of(folder), tmp_path), tmp_path / "data")
    names = info.features["emotion"].names
    assert [names[examples[name]["emotion"]] for name in RAVDESS_NAMES] == ["neutral", "surprise", "calm", "sadness"]
    first, last = examples[RAVDESS_NAMES[0]], examples[RAVDESS_NAMES[3]]
    assert (first["speaker"], first["gender"], first["intensity"], first["text"]) == ("01", "male", "normal", "01")
    assert (last["speaker"], last["gender"], last["intensity"], last["text"]) == ("24", "female", "strong", "02")
    assert last["transcript"] == "Dogs are sitting by the door"
    assert first["waveform"].shape == (16000,)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_without_a_source_the_archive_is_downloaded_and_verified(tmp_path, monkeypatch):
    from ser_jax.corpora.builders.emodb import emodb_dataset_builder as module

    folder = write_corpus(tmp_path / "toy", EMODB_NAMES)
    (tmp_path / "site").mkdir()
    write_zip(folder, tmp_path / "site" / "toy.zip")
    handler = partial(QuietHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/toy.zip"
        monkeypatch.setattr(module.Builder, "RELEASE", release_of(folder, url=url))
        examples, info = build(module, None, tmp_path / "data")
        server.shutdown()
    assert sorted(examples) == sorted(EMODB_NAMES)
    assert info.metadata["source_check"]["same_as_released"] == 4


def test_without_network_the_error_says_what_to_download_and_how_to_go_on(tmp_path, monkeypatch):
    from ser_jax.corpora.builders.emodb import emodb_dataset_builder as module

    url = "http://127.0.0.1:9/toy.zip"  # the discard port: nobody answers
    monkeypatch.setattr(module.Builder, "RELEASE", Release("Toy", "1.1.0", url, {"a": "0" * 64}))
    with pytest.raises(UserError, match=f"Toy could not be downloaded .*: download {url} yourself and pass --source"):
        build(module, None, tmp_path / "data")


def test_a_recording_that_cannot_be_read_stops_the_builder_and_is_named(tmp_path):
    from ser_jax.corpora.builders.emodb import emodb_dataset_builder as module

    folder = write_corpus(tmp_path / "toy", EMODB_NAMES)
    (folder / "03a01Wb.wav").write_bytes(b"RIFF")
    source = open_toy(folder, release_of(folder), tmp_path)
    with pytest.raises(UserError, match=r"03a01Wb.wav: cannot be read as audio"):
        build(module, source, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


def test_noise_survives_the_record_format(tmp_path):
    from ser_jax.corpora.builders.emodb import emodb_dataset_builder as module

    folder = tmp_path / "toy"
    folder.mkdir()
    extremes = np.array([-32768, 32767, 0, -1, 1], np.int16)
    soundfile.write(folder / "03a01Fa.wav", extremes, 16000)
    examples, _ = build(module, open_toy(folder, release_of(folder), tmp_path), tmp_path / "data")
    assert examples["03a01Fa"]["waveform"].tolist() == extremes.tolist()
    assert to_int16((extremes / 32768).astype(np.float32)).tolist() == extremes.tolist()
