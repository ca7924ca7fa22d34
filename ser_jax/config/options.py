"""Every option of a configuration in one table: its default, the values that it takes, and what it is for."""

import dataclasses
from typing import Any

from ser_jax.config.kinds import (
    Kind,
    dicts,
    flag,
    group,
    groups,
    list_of,
    number,
    one_of,
    pairs,
    rates,
    strengths,
    text,
    whole,
)

_STRENGTH_OFF = "off"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of the tree."""

    default: Any
    kind: Kind
    about: str


def _epochs(default: float, kind: Kind, about: str) -> Option:
    return Option(default, kind, f"{about}, in passes over the training utterances; or the same name with _steps")


def _steps(kind: Kind, about: str) -> Option:
    return Option(-1, kind, f"{about}, in steps")


_SECONDS = 3600.0  # the longest of crops and windows

OPTIONS: dict[str, Any] = {
    "corpus": {
        "name": Option(
            "synthetic", text(), "built in, or made by `prepare`, or package.module:NAME (`launch.py list corpora`)"
        ),
        "options": Option({}, group("a dict"), "of a built-in corpus: num_speakers, utterances_per_speaker, seed, ..."),
        "tracks": Option("", text(), "name of the tracks that a time-continuous head also predicts"),
        "dimensions": Option(
            (), list_of(text(), "columns of the corpus"), "columns whose values are also predicted, as arousal,valence"
        ),
        "votes": Option(
            "", text(), "columns of raters' votes whose shares are learnt: how their names begin (vote_), or a,b,c"
        ),
        "symbols": Option("", text(), "all symbols that a model may write; empty: those of the corpus's transcripts"),
    },
    "protocol": {
        "name": Option("leave_one_speaker_out", text(), "how the folds are made (`launch.py list protocols`)"),
        "validation_speakers": Option(1, whole(zero="none"), "speakers of each fold's training side for validation"),
        "num_folds": Option(
            0, whole(2, zero="the protocol's own number"), "number of folds, where the protocol leaves it open"
        ),
        "num_text_groups": Option(2, whole(2), "groups of texts of speaker_and_text_independent"),
        "seed": Option(0, whole(), "of folds that the protocol draws at random"),
        "file": Option("", text(), "the list of folds of the protocol official; empty: the corpus's column split"),
        "source": Option("", text(), "of a merged corpus: the source whose speakers are tested; empty: all"),
        "tested": Option(
            "test",
            one_of("test", "validation"),
            "validation: test on validation speakers, to choose a variant, and leave out the test speakers",
        ),
        "selection_speakers": Option(
            0,
            whole(2, zero="none"),
            "speakers set apart to choose a variant; with tested=validation only these are used",
        ),
    },
    "feed": Option(
        "auto",
        one_of("auto", "resident", "streaming"),
        "resident: the corpus is on the devices; streaming: read from files",
    ),
    "order": {
        "lanes": Option(1, whole(1), "parallel streams of the corpus, each of which gives a share of every batch"),
        "window": Option(8192, whole(1), "utterances that a lane shuffles together"),
    },
    "folds": Option(
        (), list_of(whole(), "different whole numbers of at least 0"), "numbers of the folds to train; empty: all"
    ),
    "seeds": Option(
        (0,), list_of(whole(), "different whole numbers of at least 0"), "one training of every fold for each seed"
    ),
    "frontend": {
        "kind": Option(
            "log_mel",
            one_of("log_mel", "mfcc", "histogram", "functionals", "waveform", "precomputed", outside=True),
            "the features; waveform: for an encoder in the model; precomputed: by `prepare features`, `encoder`",
        ),
        "num_mels": Option(64, whole(1, 1024), "mel bands"),
        "window_ms": Option(25.0, number(0, 10_000, above=0), "ms, window of the short-time Fourier transform"),
        "hop_ms": Option(10.0, number(0, 10_000, above=0), "ms, from one frame to the next"),
        "fft_size": Option(
            0, whole(2, 2**20, zero="the smallest power of two that holds a window"), "samples of the Fourier transform"
        ),
        "fmin": Option(20.0, number(0, 8000), "Hz, the lowest band's lower edge"),
        "fmax": Option(8000.0, number(0, 8000, above=0), "Hz, the highest band's upper edge"),
        "trim_db": Option(
            0.0,
            number(0, 200, zero="off"),
            "dB; leading and trailing frames further below the loudest one are left out",
        ),
        "mel_scale": Option("slaney", one_of("slaney", "htk"), "the formula of the mel scale"),
        "num_mfcc": Option(20, whole(1, 1024), "coefficients of kind mfcc"),
        "deltas": Option(0, whole(0, 2), "orders of time derivatives added to the features"),
        "histogram_bins": Option(
            64, whole(2, 4096), "of kind histogram: number of levels of a mel band, the softest first"
        ),
        "histogram_range_db": Option(
            80.0, number(0, 1000, above=0), "dB, range of the bins below the utterance's loudest level"
        ),
        "histogram_assignment": Option("hard", one_of("hard", "soft"), "soft: a level counts in its two nearest bins"),
        "features": Option("", text(), "of kind precomputed: the name of the features"),
        "normalization": Option(
            "utterance",
            one_of("none", "utterance", "train", "speaker"),
            "whose mean and standard deviation normalise the features",
        ),
    },
    "augmentation": {
        "speed": Option(0.0, number(0, 4, zero=_STRENGTH_OFF), "largest change of tempo and pitch, as a share"),
        "time_shift": Option(0.0, number(0, 60, zero=_STRENGTH_OFF), "largest cyclic shift, in seconds"),
        "gain": Option(0.0, number(0, 100, zero=_STRENGTH_OFF), "largest change of level, in dB"),
        "noise": Option(
            0.0, number(0, 1, zero=_STRENGTH_OFF), "probability of added noise, 5 to 30 dB below the speech"
        ),
        "vocal_tract": Option(0.0, number(0, 1, zero=_STRENGTH_OFF), "largest stretch of the mel axis, as a share"),
        "spec_augment": Option(
            0.0,
            number(0, 4, zero=_STRENGTH_OFF),
            "largest width of masks; 1: a quarter of the bands, a fifth of the frames",
        ),
        "mixup": Option(
            0.0, number(0, 1, zero=_STRENGTH_OFF), "share of another utterance that is mixed in; 1: Beta(1/2, 1/2)"
        ),
        "custom": Option({}, strengths(), "package.module:NAME: strength, of augmentations from outside the package"),
    },
    "model": Option(
        {"name": "shufflenet_v2", "width": 0.5, "attention": "eca", "activation": "hard_swish"},
        group("a dict with the name of a model"),
        "its name and options (`launch.py models`)",
    ),
    "objective": {
        "emotion": Option(1.0, number(zero="off"), "weight of the cross-entropy of the emotion"),
        "text": Option(0.3, number(zero="off"), "weight of the cross-entropy of the transcript's symbols"),
        "tracks": Option(1.0, number(zero="off"), "weight of 1 - the concordance correlation coefficient"),
        "dimensions": Option(1.0, number(zero="off"), "weight of the same coefficient of corpus.dimensions"),
        "frames": Option(0.0, number(zero="off"), "weight of the squared error of the features of masked frames"),
    },
    "masking": {
        "share": Option(
            0.4,
            number(above=0, below=1),
            "share of an utterance's frames that is masked, if objective.frames is above 0",
        ),
        "span": Option(10, whole(1), "frames of a span that is masked together"),
    },
    "optimizer": {
        "name": Option("adamw", text(), "an optimizer of optax, or package.module:NAME (docs/training.md)"),
        "arguments": Option({}, group("a dict"), "arguments of the optimizer, such as b1 and b2"),
        "learning_rate": Option(2e-3, number(above=0), "peak of the learning rate, after the warm-up"),
        "rates": Option([], rates(), "regular expression of parameters' paths: share of the rate; 0: frozen"),
        "weight_decay": Option(0.05, number(zero="off"), "decoupled weight decay of kernels and embeddings"),
        "schedule": Option("cosine_decay", text(), "schedule after the warm-up: one of optax, or package.module:NAME"),
        "schedule_arguments": Option({}, group("a dict"), "arguments of the schedule"),
        "warmup_epochs": _epochs(
            -1.0, number(zero="off", unset=True), "linear warm-up of the learning rate (a tenth of the training)"
        ),
        "warmup_steps": _steps(whole(zero="off", unset=True), "the same"),
        "gradient_clip": Option(1.0, number(zero="off"), "largest global norm of the gradient"),
        "ema_decay": Option(
            0.99,
            number(below=1, zero="off: the last parameters are used"),
            "decay of the moving average of the parameters, which are tested",
        ),
        "label_smoothing": Option(0.1, number(below=1, zero="off"), "share of the target spread over all classes"),
        "class_weights": Option(False, flag(), "weight classes by their inverse frequency in the training data"),
    },
    "training": {
        "loss": Option(
            "cross_entropy", text(), "loss of the emotion (`launch.py list losses`), or package.module:NAME"
        ),
        "batch_size": Option(32, whole(1, 2**20), "utterances in a step"),
        "precision": Option("tf32", one_of("float32", "tf32", "bfloat16"), "precision of activations and products"),
        "accumulate": Option(1, whole(1), "parts of a batch that are computed one after another, to save memory"),
        "split": Option(
            "auto",
            one_of("auto", "runs", "batch"),
            "what is divided among devices; auto: the batch of a single run, else the runs",
        ),
        "initial": Option("", text(), "a workdir, trained on another corpus, from which parameters are initialised"),
        "heads": Option(
            "shared", one_of("shared", "source"), "one classifier, or one for each source of a merged corpus"
        ),
        "teacher": Option(
            "", text(), "a workdir, trained on the same folds, whose probabilities are targets (distillation)"
        ),
        "teacher_share": Option(0.5, number(0, 1), "share of the teacher's probabilities in the target"),
        "crop_seconds": Option(3.0, number(0.01, _SECONDS), "length of training crops"),
        "train_epochs": _epochs(
            -1.0, number(above=0, unset=True), "length of the training (follows from the number of utterances)"
        ),
        "train_steps": _steps(whole(1, unset=True), "the same"),
        "validate_epochs": _epochs(
            -1.0, number(zero="never", unset=True), "time between two validations (a fifth of the training)"
        ),
        "validate_steps": _steps(whole(zero="never", unset=True), "the same"),
        "keep": Option(
            "last", one_of("last", "best"), "test the averaged parameters of the end, or of a run's best validation UA"
        ),
        "patience": Option(0, whole(zero="off"), "validations without a better UA after which a run stops"),
        "deterministic": Option(False, flag(), "the same bits every time on a GPU, also after an interruption"),
        "checkpoint_seconds": Option(120.0, number(), "seconds between two checkpoints, at most"),
    },
    "evaluation": {
        "window_seconds": Option(
            0.0,
            number(0.01, _SECONDS, zero="as training crops"),
            "length of windows, whose probabilities are averaged over an utterance",
        ),
        "batch_size": Option(32, whole(1, 2**20), "windows that are evaluated at once"),
        "batch_statistics": Option(
            "running",
            one_of("running", "speaker"),
            "statistics of batch normalisation: running averages, or the tested speaker's own",
        ),
        "latency": Option(True, flag(), "measure the time that a recording of 3 s takes"),
        "robustness": Option(
            (),
            list_of(text(), "conditions"),
            "conditions under which every run is tested too (`launch.py list conditions`)",
        ),
    },
    "study": {
        "title": Option("", text(), "title of the report"),
        "margin": Option(2.0, number(above=0, below=100), "points of UA within which variants are equivalent"),
        "candidates": Option(
            (),
            list_of(text(), "names"),
            "variants among which one was chosen by speakers set apart; set by --select",
        ),
        "variants": Option({}, groups(), "name: the part of this tree in which the variant differs"),
        "comparisons": Option((), pairs(), "pairs to compare: (variant, its baseline)"),
        "metrics": Option(
            (), list_of(text(), "names"), "in addition to UA, WA and macro F1: package.module:NAME of a Metric"
        ),
        "questions": Option((), dicts(), "questions with their own factors or variants (docs/studies.md)"),
    },
}
