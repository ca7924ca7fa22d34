"""`encoders` and `prepare encoder` from the command line."""

import pytest

from ser_jax.commands.main import main
from ser_jax.corpora import load_corpus
from ser_jax.corpora.features import load_features
from tests.encoders import checkpoints


@pytest.fixture
def data(tmp_path):
    """A data folder with the tiny encoder "mine"."""
    model = checkpoints.make_reference("whisper", checkpoints.torch.float32)
    folder = checkpoints.save(model, tmp_path / "checkpoint")
    arguments = ["encoders", "get", str(folder), "--name", "mine", "--licence", "CC0", "--data_dir", str(tmp_path)]
    assert main(arguments) == 0
    return tmp_path


def test_an_encoder_that_was_taken_is_listed_beside_the_known_ones(data, capsys):
    assert main(["encoders", "--data_dir", str(data)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "wavlm-large wavlm 24 1024 315.5 M CC BY-SA 3.0" in lines
    assert any(line.startswith("mine whisper 3 32") and line.endswith("yes CC0") for line in lines)


def test_states_are_prepared_and_said(data, capsys):
    corpus = load_corpus("synthetic", data, num_speakers=2, utterances_per_speaker=2)
    folder = next(path for path in (data / "packed" / "synthetic").iterdir() if not path.name.startswith("."))
    folder.rename(data / "packed" / "few")
    arguments = ["prepare", "encoder", "few", "--encoder", "mine", "--pooled", "--layers", "1,final", "--data_dir"]
    assert main([*arguments, str(data), "--window_seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "states        layer 1, final" in out and "encoder       mine (CC0), sha256" in out
    assert f"next          `study configs/encoder.py:few,mine --dry_run --data_dir {data}`\n" in out
    packed = load_features(load_corpus("few", data), "mine.pooled", data)
    assert packed.values.shape == (len(corpus.utterances), 2 * 2 * 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoders", "take", "x"], "expected `encoders` or `encoders get NAME|FOLDER|FILE`"),
        (["encoders", "get", "wavlm-larg"], "did you mean wavlm-large?"),
        (["prepare", "encoder", "synthetic"], "expected a corpus and --encoder NAME"),
        (["prepare", "emodb", "--encoder", "x"], "prepare emodb: --encoder has no meaning here"),
        (["prepare", "features", "synthetic"], "prepare features: synthetic has no meaning here"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--data_dir", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_encoder_has_to_be_taken_first_and_that_is_said_before_a_corpus_is_made(data, capsys):
    for encoder, message in (
        (str(data / "checkpoint"), "found a folder, expected a name; take it first: python launch.py encoders get"),
        ("wavlm-large", "run `python launch.py encoders get wavlm-l"),
    ):
        assert main(["prepare", "encoder", "synthetic", "--encoder", encoder, "--data_dir", str(data)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
        assert not (data / "packed").exists()
