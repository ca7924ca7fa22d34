"""The Python interface: `ser_jax.load(MODEL)`, and predictions of such a model for recordings."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from ser_jax import predictions
from ser_jax.corpora.audio import MOST_HOURS, heard
from ser_jax.corpora.corpus import SAMPLE_RATE, Corpus
from ser_jax.encoders import store
from ser_jax.errors import UserError, did_you_mean
from ser_jax.inference.windows import timeline_windows
from ser_jax.shipped import PRETRAINED
from ser_jax.statistics.abstention import Abstention, choose_threshold
from ser_jax.studies import hub, workdirs
from ser_jax.studies.recognise import Recogniser, as_columns, make_recogniser
from ser_jax.studies.store import PREDICTIONS
from ser_jax.studies.workdirs import Restored, recordings
from ser_jax.training import devices, published

DEFAULT = "emodb"
WITH_ENCODER = "emodb_encoder"  # more accurate, where its encoder is on the machine
_MOST_CHANNELS = 32  # what has no more columns, and more rows, is no [batch, samples]
BASELINE_WINDOW = 3.0  # seconds of a timeline's window, for a model that takes whole utterances

Waveform: TypeAlias = np.ndarray | jax.Array  # [samples]
Waveforms: TypeAlias = Waveform | Sequence[Waveform]  # [samples], [batch, samples] or a list of [samples]; see `Model`


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model; made by `ser_jax.load`.

    In all methods `waveform` is one recording, a mono array [samples] of NumPy or JAX, floating point in [-1, 1] or
    int16; or several (but for `timeline`): a list of such arrays of any lengths, or an array [batch, samples]. `rate`
    is their sampling rate in Hz; they are resampled to the model's. Samples above full scale are scaled down, and those
    too soft for int16 are scaled up. `warnings.warn` reports this, and silent and clipped recordings.
    A model that adapts to the speaker (`adapts` is true) treats the recordings of one call as one speaker's, and needs
    some twenty of them.

    Raises:
        ser_jax.errors.UserError: from every method, in one line that names the recording by its number: for a wrong
            dtype or number of axes, no samples, NaN or infinity, a rate outside 1 to 768 kHz, or fewer frames than
            the model's subsampling needs.

    Attributes:
        name: the name of the variant.
        folder: the folder of the model.
        emotions: the classes, in the order of all columns.
        rate: the model's sampling rate in Hz, to which recordings are resampled.
        window_seconds: the longest input. A longer recording is cut into windows of this length that overlap evenly,
            and their probabilities are averaged. 0: the model takes recordings of any length as a whole.
        adapts: whether the prediction for one recording depends on the others of the call.
        runs: the fold and seed of each run whose probabilities are averaged.
        config: the complete configuration of the training.
        recogniser: computes the predictions; see `ser_jax.studies.recognise`.
    """

    name: str
    folder: Path
    emotions: tuple[str, ...]
    rate: int
    window_seconds: float
    adapts: bool
    runs: tuple[dict, ...]
    config: dict = dataclasses.field(repr=False)
    recogniser: Recogniser = dataclasses.field(repr=False)

    def predict(self, waveform: Waveforms, rate: int) -> pd.Series | pd.DataFrame:
        """Returns the probabilities of the emotions, which sum to one; the mean over the model's runs.

        For one waveform it is a Series whose index is `emotions`, for several a DataFrame with a row for each waveform
        and a column for each emotion.
        """
        if not self.emotions:
            raise UserError(f"model {self.name}: predicts no emotions, its corpus had none; expected `dimensions`")
        found = self.recogniser.predict(self._corpus(waveform, rate), False)
        table = pd.DataFrame(found.probabilities, columns=list(self.emotions))
        return table if _is_several(waveform) else table.iloc[0].rename("probability")

    def dimensions(self, waveform: Waveforms, rate: int) -> pd.Series | pd.DataFrame:
        """Returns the values of dimensions such as arousal, on the scale of the training's corpus.

        For one waveform it is a Series with a value for each dimension, for several a DataFrame with a row for each.
        Raises UserError for a model that predicts only emotions.
        """
        names = list(self.recogniser.dimension_names)
        if not names:
            raise UserError(f"model {self.name}: predicts no dimensions; it was trained without corpus.dimensions")
        table = pd.DataFrame(self.recogniser.predict(self._corpus(waveform, rate), False).dimensions, columns=names)
        return table if _is_several(waveform) else table.iloc[0].rename("value")

    def embed(self, waveform: Waveforms, rate: int) -> Float[np.ndarray, " dims"] | Float[np.ndarray, "batch dims"]:
        """Returns the input vector of the classifier, float32: [dims] for one waveform, [batch, dims] for several.

        It is the vector of the model's first run (`runs[0]`; vectors of different runs cannot be compared), averaged
        over windows. For a linear model it is the standardised functionals or hidden states that the model uses.
        """
        vectors = self.recogniser.embed(self._corpus(waveform, rate)).astype(np.float32)
        return vectors if _is_several(waveform) else vectors[0]

    def timeline(
        self, waveform: Waveform, rate: int, hop: float | None = None, window: float | None = None
    ) -> pd.DataFrame:
        """Returns the emotions over time of one recording, a row for each window.

        The columns are `start` and `end` (seconds), `emotion` (the most probable), `level_db` (RMS in dB below full
        scale, -inf if all samples are zero), a probability for each emotion (named `p_start` and so on if an emotion
        has the name of another column), and, for a model of dimensions, `predicted_arousal` and so on, on the scale of
        the training's corpus. Windows begin every `hop` seconds; the last one ends with the recording. A recording
        shorter than a window is one row. Silence gets an emotion too, so look at the level.

        Args:
            waveform: one recording of any length; a few windows are computed at a time.
            rate: the sampling rate of the waveform in Hz.
            hop: seconds from one window to the next; by default half a window.
            window: seconds; by default `window_seconds`, or 3 s for a model that takes whole recordings. Longer
                windows are averages over windows of `window_seconds`.
        """
        if _is_several(waveform):
            raise UserError("timeline: several recordings, expected one, an array [samples]")
        check_timeline(self.recogniser, hop, window)
        return timeline_of(self.recogniser, self._corpus(waveform, rate, trimmed=False), hop, window)

    def abstention(self, share: float) -> Abstention:
        """Returns the confidence below which to give no emotion, and UA with and without it; see `Abstention`.

        The given share (between 0 and 1) of the model's predictions for unseen speakers is below this threshold. These
        predictions are stored with the model: a training's own, if its folds share no speaker, or the tests of a
        published model. A prediction's confidence is `abstention.confidences(probabilities)`. Raises `UserError` if the
        model has no such predictions, or predicts no emotions.
        """
        if not self.emotions:
            raise UserError(f"model {self.name}: predicts no emotions, and so none to abstain from")
        return choose_threshold(cross_validated(self.folder, self.recogniser.restored), share)

    def _corpus(self, waveform: Waveforms, rate: int, *, trimmed: bool = True) -> Corpus:
        """The recordings of a call, checked, at the model's rate; with `trimmed` silence at the ends does not count."""
        waveforms = list(waveform) if _is_several(waveform) else [waveform]
        if not waveforms:
            raise UserError("no waveforms, expected at least one")
        shape: tuple[int, ...] = getattr(waveform, "shape", ())
        if len(shape) == 2 and 0 < shape[1] <= _MOST_CHANNELS < shape[0]:
            raise UserError(
                f"waveform: an array {list(shape)}, expected [samples] or [batch, samples]; of channels "
                "take the mean, waveform.mean(axis=1)"
            )
        made = {}
        for number, one in enumerate(waveforms):
            name = f"waveform {number}" if _is_several(waveform) else "waveform"
            recording = heard(name, np.asarray(one), rate)
            for note in recording.notes.values():
                warnings.warn(f"{name}: {note}", stacklevel=3)
            made[name] = recording.samples
            if reason := self.recogniser.refusal(made[name] if trimmed else np.ones_like(made[name])):
                raise UserError(f"{name}: {reason}")
        return recordings(made, self.emotions)


def load(
    model: str | os.PathLike = DEFAULT,
    *,
    variant: str | None = None,
    fold: str | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Model:
    """See `ser_jax.load`."""
    devices.keep_programs()
    folder = find_folder(model)
    found = workdirs.find(folder, variant, option="model")
    if len(found) > 1:
        names = ", ".join(restored.name for restored in found)
        raise UserError(f"{folder} has several variants; choose one of --variant {names}")
    (restored,) = found
    recogniser = make_recogniser(restored, fold=fold, seed=seed, data_dir=data_dir)
    return Model(
        name=restored.name,
        folder=folder,
        emotions=restored.emotions,
        rate=SAMPLE_RATE,
        window_seconds=recogniser.window_seconds,
        adapts=restored.by_speaker,
        runs=tuple(restored.metadata["runs"][i] for i in recogniser.runs),
        config=restored.metadata["config"],
        recogniser=recogniser,
    )


def best_here(data_dir: str | os.PathLike | None = None) -> tuple[str, str]:
    """Returns the best shipped model that can be used on this machine, and the encoder that a better one needs.

    The encoder is "" if nothing is missing.
    """
    needed = published.read_metadata(PRETRAINED / WITH_ENCODER)["features"]["info"]["encoder"]
    here = store.available(data_dir).get(needed["name"], {})
    return (WITH_ENCODER, "") if here.get("sha256") == needed["sha256"] else (DEFAULT, needed["name"])


def find_folder(model: str | os.PathLike) -> Path:
    """Returns the folder of a model that comes with the code or is on a hub, by its name, or else the folder itself.

    Raises `UserError` for a name that is none of them.
    """
    if str(model).startswith(hub.PREFIX):
        return hub.download(str(model))
    known = sorted(path.name for path in PRETRAINED.glob("*/"))
    if str(model) in known:
        return PRETRAINED / str(model)
    if not Path(model).is_dir():
        raise UserError(
            f"model {str(model)!r}: no such folder, nor a model of that name{did_you_mean(str(model), known)}"
        )
    return Path(model)


def check_timeline(recogniser: Recogniser, hop: float | None, window: float | None) -> tuple[int, int]:
    """Returns the samples from one window to the next and of a window; see `Model.timeline`.

    Raises `UserError` for what is no duration, and windows that are too short for the model.
    """
    window = (recogniser.window_seconds or BASELINE_WINDOW) if window is None else window
    samples = _samples("window", window)
    if reason := recogniser.refusal(np.ones(samples, np.int16)):
        raise UserError(f"window: found {window:g} s, too short: {reason}")
    return _samples("hop", window / 2 if hop is None else hop), samples


def _samples(name: str, seconds: float) -> int:
    if not 1 / SAMPLE_RATE <= seconds <= MOST_HOURS * 3600:
        raise UserError(f"{name}: found {seconds:g} s, expected one sample to {MOST_HOURS} hours")
    return round(seconds * SAMPLE_RATE)


def timeline_of(
    recogniser: Recogniser, recording: Corpus, hop: float | None = None, window: float | None = None
) -> pd.DataFrame:
    """Returns the table of `Model.timeline` of a corpus of one recording."""
    hop_samples, window_samples = check_timeline(recogniser, hop, window)
    cut = timeline_windows(recording, window_samples, hop_samples)
    told = as_columns(recogniser, recogniser.predict(cut, False))
    starts, lengths = (cut.utterances[name].to_numpy() for name in ("start", "num_samples"))
    levels = [level_db(cut.samples[start : start + length]) for start, length in zip(starts, lengths, strict=True)]
    told.insert(int("emotion" in told), "level_db", levels)
    told.insert(0, "start", starts / SAMPLE_RATE)
    told.insert(1, "end", (starts + lengths) / SAMPLE_RATE)
    return told


def cross_validated(folder: Path, restored: Restored) -> pd.DataFrame:
    """Returns a model's predictions for unseen speakers, which its training or `publish` stored in `folder`.

    Raises `UserError` if there are none.
    """
    if published.is_published(folder) and (folder / published.TESTED).is_file():
        return predictions.read(folder / published.TESTED)
    path = folder / PREDICTIONS
    if not path.is_file() or not restored.metadata["protocol"]["speaker_independent"]:
        found = f"those of protocol {restored.metadata['protocol']['name']}" if path.is_file() else "none"
        raise UserError(
            f"{folder}: abstention goes by predictions for unseen speakers, found {found}; expected a training whose "
            "folds share no speaker, or a model published from one"
        )
    table = predictions.read(path)
    return table[table["variant"] == restored.name]


def level_db(samples: Int16[np.ndarray, " samples"]) -> float:
    """Returns the RMS of samples in dB below full scale; -inf where all are zero."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) / 32768**2
    return 10 * float(np.log10(power)) if power else -np.inf


def _is_several(waveform: Waveforms) -> bool:
    return getattr(waveform, "ndim", 2) > 1  # a list has none
