"""What summary.json holds: the figures of a study as a tree of dataclasses, read and written here alone.

Shares are from 0 to 1, differences are of shares, None stands for what cannot be estimated.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import checksums
from ser_jax.errors import UserError, brief, reason_of
from ser_jax.files import atomic_file, read_json
from ser_jax.statistics.paired import Comparison
from ser_jax.statistics.scores import ScoreDifference

FORM = 2  # of the tree; a reader refuses any other
INDUCTIVE, TRANSDUCTIVE = "inductive", "transductive"

Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure with its 95 % interval over speakers."""

    value: float | None
    ci95: Ends | None = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over folds; each fold's figure is over the classes in its own test data."""

    mean: float | None
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """All seeds as one model, which gives the mean of their probabilities."""

    seeds: int
    metrics: dict[str, Measure]


@dataclasses.dataclass(frozen=True)
class Part:
    """Figures on one of the corpora that were merged."""

    metrics: dict[str, Measure]
    recall: dict[str, Measure]
    speakers: int
    utterances: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bin of a reliability curve."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Temperatures fitted to the validation speakers of each run."""

    median: float
    lowest: float
    highest: float
    runs: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """See `ser_jax.statistics.calibration`."""

    ece: float | None
    ece_ci95: Ends | None
    ece_by_chance: float | None
    brier: float | None
    brier_ci95: Ends | None
    reliability: tuple[Bin, ...]
    temperature: Temperature | None
    ece_scaled: float | None
    brier_scaled: float | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gender:
    """UA of one gender's speakers."""

    ua: float | None
    ua_ci95: Ends | None
    speakers: int
    utterances: int


@dataclasses.dataclass(frozen=True)
class Gap:
    """UA of female less that of male speakers, over the emotions that both have."""

    ua_difference: float
    ci95: Ends | None
    p: float | None
    emotions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Speaker:
    """UA of one speaker; its interval is over that speaker's utterances."""

    ua: float | None
    ua_ci95: Ends | None
    utterances: int
    gender: str
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fairness:
    """See `ser_jax.statistics.fairness`."""

    genders: dict[str, Gender] | None
    gender_gap: Gap | None
    speakers: dict[str, Speaker]
    worst: str | None
    best: str | None
    spread: float | None
    spread_by_chance: float | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the forward pass for a recording of `seconds` takes; `latency` is relative to the first variant's."""

    multiply_adds: int
    seconds: float
    latency: float | None = None


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where seeds of a variant were trained: versions and hardware of that process, and the code's commit or hash."""

    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    code: str = ""
    seeds: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Diverged:
    """A run whose loss was not finite: it was stopped and has no predictions."""

    fold: str
    seed: int
    step: int


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What is known of a variant beside its predictions.

    Attributes:
      uses_speaker: what is computed from the tested speaker's other unlabelled recordings; empty if inductive.
      features: name and `info` of the pre-extracted features that it takes; empty: it takes none, or it is not known.
      notes: what a reader must know.
      training_accuracy: of augmented crops, at the end of the training; the mean over runs.
    """

    parameters: int | None = None
    cost: Cost | None = None
    uses_speaker: tuple[str, ...] = ()
    trained: tuple[Provenance, ...] = ()
    diverged: tuple[Diverged, ...] = ()
    tracks: dict[str, Measure] = dataclasses.field(default_factory=dict)  # concordance over all frames
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    training_accuracy: float | None = None

    @property
    def setting(self) -> str:
        """Whether a recording is recognised by itself, or by help of the speaker's others."""
        return TRANSDUCTIVE if self.uses_speaker else INDUCTIVE


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant's figures, pooled over folds and averaged over seeds.

    Attributes:
      metrics: by the name of the `ser_jax.statistics.metrics.Metric`.
      recall: by emotion.
      confusion: rows are the reference; all folds and seeds are added up.
      ua_per_seed: seed -> UA.
      scores: by the name of the `ser_jax.statistics.scores.Score`; they are no shares, unlike metrics.
    """

    metrics: dict[str, Measure]
    recall: dict[str, Measure]
    per_fold: dict[str, Spread]
    confusion: tuple[tuple[int, ...], ...]
    ua_per_seed: dict[str, float]
    ua_seed_sd: float | None
    ensemble: Ensemble | None
    by_source: dict[str, Part] | None
    calibration: Calibration | None
    fairness: Fairness | None
    validation_ua: float | None
    runs: int
    folds: int
    seeds: int
    speakers: int
    utterances: int
    known: Knowledge
    notes: tuple[str, ...]
    scores: dict[str, Measure] = dataclasses.field(default_factory=dict)

    @property
    def ua(self) -> Measure:
        """Unweighted accuracy; without a value where there are no emotions."""
        return self.metrics.get("ua", Measure(None))


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of the study; `comparisons` are numbers of the summary's, `answer` is in words."""

    name: str
    text: str
    factors: dict[str, tuple[str, ...]]
    levels: dict[str, dict[str, str]]
    comparisons: tuple[int, ...]
    effects: tuple[Comparison, ...]
    notes: tuple[str, ...]
    answer: str


@dataclasses.dataclass(frozen=True)
class Condition:
    """UA under a condition, and its paired difference from UA without it."""

    ua: float
    ua_ci95: Ends | None
    difference: float
    difference_ci95: Ends | None


@dataclasses.dataclass(frozen=True)
class Robustness:
    """variant -> condition -> figures; see `ser_jax.studies.robustness`."""

    conditions: tuple[str, ...]
    variants: dict[str, dict[str, Condition]]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the corpus was split, and what the split leaks (`ser_jax.corpora.audit.Audit.as_dict`, or None)."""

    name: str
    description: str = ""
    speaker_independent: bool | None = None
    audit: dict[str, Any] | None = None

    @property
    def verdict(self) -> str | None:
        """That of its audit: "independent", "leaks" or "cannot be told"; None where there is none."""
        return (self.audit or {}).get("verdict")


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the tested variant was chosen without the tested speakers.

    Attributes:
      candidates: the variants that it was chosen among.
      by: the speakers by whose UA, in words.
      chosen: fold -> the candidate that it tests, where each fold has its own.
      features: what is known of the candidates' pre-extracted features (`Knowledge.features`), by their names.
    """

    candidates: tuple[str, ...]
    by: str
    chosen: dict[str, str] = dataclasses.field(default_factory=dict)
    features: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study says of itself: all that its figures are not.

    Attributes:
      corpus_info: description, licence and citation.
      fold_sizes: fold -> numbers of (training, test) utterances.
      failed: variant -> why it has no results.
      sources: variant -> the path that it was read from, of results that were made apart.
      speakers: speaker -> gender, and source where the corpus was merged.
      left_out: recordings or emotions that were left out, in words.
      labels: what was changed of the names of emotions and speakers, in words.
      notes: what was noted of recordings when the corpus was prepared, in words.
      selection: None where it is not known how the variants were chosen.
    """

    title: str = ""
    corpus_info: dict[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    protocols: tuple[Protocol, ...] = ()
    fold_sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    speakers: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    selection: Selection | None = None

    @property
    def speaker_independent(self) -> bool | None:
        """Whether no protocol tests speakers that it trains on; None where it is not known."""
        known = [protocol.speaker_independent for protocol in self.protocols]
        return None if not known or None in known else all(known)

    @property
    def protocol(self) -> str:
        """The names of its protocols."""
        return ", ".join(protocol.name.replace("_", " ") for protocol in self.protocols)


@dataclasses.dataclass(frozen=True)
class Summary:
    """All figures of a study on one corpus; `metrics` and `scores` are titles by name, in the order of tables.

    Of a corpus without emotions there are scores alone.
    """

    form: int
    study: Study
    corpus: str
    emotions: tuple[str, ...]
    chance_ua: float | None
    margin: float
    metrics: dict[str, str]
    variants: dict[str, Variant]
    comparisons: tuple[Comparison, ...]
    questions: tuple[Question, ...] = ()
    robustness: Robustness | None = None
    scores: dict[str, str] = dataclasses.field(default_factory=dict)
    score_differences: tuple[ScoreDifference, ...] = ()

    @property
    def title(self) -> str:
        """What the report is called."""
        return self.study.title or f"Speech emotion recognition on {self.corpus}"


def read(path: str | os.PathLike) -> Summary:
    """Reads summary.json, or that of a folder. Raises UserError that names what is missing, unknown or wrong.

    A key that this version does not know is refused, since a figure may depend on it.
    """
    path = Path(path)
    path = path / "summary.json" if path.is_dir() else path
    checksums.check(path)
    try:
        found = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); expected what `study` or `train` wrote") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({reason_of(error)})") from error
    form = found.get("form") if isinstance(found, dict) else None
    if form != FORM:
        raise UserError(f"{path}: form {brief(form)}, expected {FORM}: a summary of another version of ser_jax")
    return from_json(Summary, found, str(path))


def from_json(kind: type, value: Any, where: str) -> Any:
    """Returns plain JSON values as an instance of a dataclass of this tree; `where` begins the message of an error."""
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        return converter.structure(plain(value), kind)
    except cattrs.BaseValidationError as error:
        reasons = cattrs.transform_error(error, path=kind.__name__)
        raise UserError(f"{where}: {reasons[0]}") from error


def to_json(tree: Any) -> Any:
    """Returns a tree of dataclasses as plain JSON values."""
    return plain(dataclasses.asdict(tree))


def write(summary: Summary, path: str | os.PathLike) -> None:
    """Writes a summary as JSON; the file appears whole or not at all."""
    text = json.dumps(to_json(summary), indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """The same as plain JSON values: arrays as lists, and None for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
