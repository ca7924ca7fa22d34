"""What was done with a corpus when it was prepared, from its `info`, in words: for reports and model cards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser_jax.corpora.audio import NOTES
from ser_jax.numbers import count
from ser_jax.report.numbers import some


def left_out(corpus: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns which bad utterances were left out, each with its reason; the first six of them.

    They have their ids, or the name of the file alone: a report does not tell where on a machine it lay.
    """
    found = [f"{one.get('id') or Path(one['where']).name} ({one['what']})" for one in info.get("left_out", ())]
    if not found:
        return ()
    return (f"{count(len(found), 'utterance')} of {corpus} left out when it was prepared: {some(found)}",)


def labels(corpus: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what was changed of the names of emotions and speakers."""
    return tuple(f"labels of {corpus}: {said}" for said in info.get("labels", ()))


def notes(corpus: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what was noted of recordings that were kept: silent, clipped, scaled ...; the first six of each kind."""
    return tuple(
        f"{count(len(ids), 'recording')} of {corpus} {NOTES.get(kind, kind)}: {some(ids)}"
        for kind, ids in info.get("notes", {}).items()
    )
