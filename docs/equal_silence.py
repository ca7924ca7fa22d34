"""Writes the recordings of a prepared corpus with the same silence before and after each, and a table of them.

python -m docs.equal_silence ravdess runs/ravdess_equal

Silence is what is 40 dB below the loudest part of a recording, as for `prepare encoder --trim_db 40`. Digital silence
of 0.8 s takes its place. Printed is also how well lengths alone tell the emotions, by a linear model and by an SVM, in
six folds of speakers: the lengths of the silence, of the speech, and of both. UA is the mean over speakers, in percent,
with its 95 % interval.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser_jax import corpora
from ser_jax.corpora.audio import SAMPLE_RATE
from ser_jax.corpora.corpus import Corpus, waveform
from ser_jax.corpora.protocols import make_protocol
from ser_jax.corpora.silence import speech_bounds

TRIM_DB, SECONDS, FOLDS = 40.0, 0.8, 6
MODELS = {
    "linear": LogisticRegression(class_weight="balanced", max_iter=2000),
    "SVM": SVC(class_weight="balanced"),
}


def main() -> None:
    """Writes the folder, and prints a row for each set of lengths."""
    parser = argparse.ArgumentParser(prog="python -m docs.equal_silence", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="a prepared corpus")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--data_dir", help="where corpora are kept (default: as for launch.py)")
    args = parser.parse_args()
    corpus = corpora.load_corpus(args.corpus, args.data_dir)
    bounds = np.array([speech_bounds(waveform(corpus, i), TRIM_DB) for i in range(len(corpus.utterances))])
    write(corpus, bounds, args.out)
    whole = corpus.utterances["num_samples"].to_numpy()
    before, after, speech = bounds[:, 0], whole - bounds[:, 1], bounds[:, 1] - bounds[:, 0]
    seconds = np.log(np.stack([before, after, speech], axis=1) / SAMPLE_RATE + 0.02)
    for name, columns in {"silence": [0, 1], "speech": [2], "silence and speech": [0, 1, 2]}.items():
        for kind in MODELS:
            mean, half = recognised(corpus, seconds[:, columns], kind)
            print(f"{name:20s} {kind:8s} UA {mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]")


def write(corpus: Corpus, bounds: np.ndarray, out: Path) -> None:
    """Writes `out`/wav/NUMBER.wav of every utterance's samples from bounds[i, 0] to bounds[i, 1], and table.csv."""
    (out / "wav").mkdir(parents=True, exist_ok=True)
    silence = np.zeros(round(SECONDS * SAMPLE_RATE), np.int16)
    table = corpus.utterances[["emotion", "speaker", "gender", "text"]].copy()
    table.insert(0, "path", [f"wav/{number:04d}.wav" for number in range(len(table))])
    for i, (first, last) in enumerate(bounds):
        samples = np.concatenate([silence, waveform(corpus, i)[first:last], silence])
        soundfile.write(out / table["path"].iloc[i], samples, SAMPLE_RATE, subtype="PCM_16")
    table.to_csv(out / "table.csv", index=False)


def recognised(corpus: Corpus, features: np.ndarray, kind: str) -> tuple[float, float]:
    """Returns the UA in percent, each speaker tested by a model of other speakers, and half its 95 % interval."""
    labels, speakers = (corpus.utterances[name].to_numpy() for name in ("label", "speaker"))
    hits = np.zeros(len(labels))
    for fold in make_protocol(corpus, "grouped_k_fold", num_folds=FOLDS, validation_speakers=0).folds:
        model = make_pipeline(StandardScaler(), MODELS[kind]).fit(features[fold.train], labels[fold.train])
        hits[fold.test] = model.predict(features[fold.test]) == labels[fold.test]
    recalls = (
        pd.DataFrame({"speaker": speakers, "label": labels, "hit": hits}).groupby(["speaker", "label"])["hit"].mean()
    )
    scores = 100 * recalls.groupby("speaker").mean()
    return scores.mean(), stats.t.ppf(0.975, len(scores) - 1) * scores.sem()


if __name__ == "__main__":
    main()
