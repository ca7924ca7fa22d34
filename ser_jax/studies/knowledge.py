"""What is known of a variant in addition to its predictions: where it was trained, what it uses, what went wrong."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ser_jax.baselines import is_baseline
from ser_jax.report.summary import Cost, Diverged, Knowledge, Measure, Provenance
from ser_jax.studies import provenance

OWN_HEADS = (
    "a classifier for each source corpus: each utterance is recognised by its own corpus's classifier, which has that "
    "corpus's emotions alone and an easier task than one classifier for all; of any other corpus, by the mean of all"
)

_STILL_RISING, _LEARNT = 0.02, 0.9  # gain of training accuracy, and accuracy, from which a training is not done
OWN_RECORDINGS = (
    "it was tested on the recordings that it had learnt (protocol.name=everything): its figures say nothing of others"
)
NO_EMOTION = "the emotion was not learnt (objective.emotion=0): its figures are of outputs that were never trained"


def uses_speaker(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what a configuration computes from the tested speaker's other unlabelled recordings.

    Where there is something, its figures are transductive; else they are inductive.
    """
    if is_baseline(config["model"]):
        return ("functionals standardised by speaker",) if config["model"].get("scaling") == "speaker" else ()
    found = []
    if config["frontend"]["normalization"] == "speaker":
        found.append("features normalised by speaker")
    if config["evaluation"]["batch_statistics"] == "speaker":
        found.append("batch normalisation by speaker")
    return tuple(found)


def knowledge_of(
    metadata: Mapping[str, Any],
    parameters: int | None = None,
    *,
    result: Mapping[str, Any] | None = None,
    cost: Cost | None = None,
) -> Knowledge:
    """Returns what is known of a variant from the metadata of its training and its result.json."""
    config, result = metadata["config"], result or {}
    notes = tuple(metadata.get("notes", ()))
    if not is_baseline(config["model"]) and config["training"]["heads"] == "source":
        notes += (OWN_HEADS,)
    if result and config["protocol"]["name"] == "everything":
        notes += (OWN_RECORDINGS,)
    has_emotions = metadata.get("corpus", {}).get("emotions") != []
    learns_emotions = has_emotions and not is_baseline(config["model"])
    if learns_emotions and not config.get("objective", {}).get("emotion", 1):
        notes += (NO_EMOTION,)
    accuracy, gained = result.get("learning") or (None, 0.0)
    if accuracy is not None and gained > _STILL_RISING and accuracy < _LEARNT:
        notes += (
            f"it had not finished learning: its training accuracy rose by {100 * gained:.0f} points in the last fifth "
            f"of the training, to {100 * accuracy:.0f} %; more training.train_epochs may help",
        )
    return Knowledge(
        training_accuracy=accuracy,
        parameters=parameters,
        cost=cost,
        uses_speaker=uses_speaker(config),
        trained=_trained(metadata, result),
        diverged=tuple(Diverged(str(run["fold"]), run["seed"], run["step"]) for run in result.get("diverged", ())),
        tracks={
            name: Measure(one["ccc"], one["ci95"] and tuple(one["ci95"]))
            for name, one in result.get("tracks", {}).items()
        },
        features=dict(metadata.get("features") or {}),
        notes=notes,
    )


def _trained(metadata: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[Provenance, ...]:
    """The processes that trained a variant's seeds, as one where nothing but the seeds differs."""
    found: list[Provenance] = []
    for entry in provenance.of_result({"trained": metadata, **result}):
        code = entry["commit"] or result.get("code", "")
        own = Provenance(dict(entry["versions"]), dict(entry["hardware"] or {}), code)
        seeds = tuple(entry["seeds"])
        alike = [i for i, other in enumerate(found) if dataclasses.replace(other, seeds=()) == own]
        if alike:
            found[alike[0]] = dataclasses.replace(own, seeds=tuple(sorted({*found[alike[0]].seeds, *seeds})))
        elif own != Provenance():
            found.append(dataclasses.replace(own, seeds=seeds))
    return tuple(found)


def with_notes(known: Knowledge, *notes: str) -> Knowledge:
    """The same with more notes."""
    return dataclasses.replace(known, notes=(*known.notes, *notes))
