"""One corpus out of several: for models that learn from all of them."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int16

from ser_jax.corpora import labels, load_corpus, packed_folder
from ser_jax.corpora.corpus import Corpus, pack, waveform
from ser_jax.corpora.labels import Changes
from ser_jax.corpora.protocols import speakers_known
from ser_jax.corpora.targets import DIMENSIONS, range_of
from ser_jax.errors import UserError

_NAMED = ("id", "speaker", "text", "recording")  # columns whose values two corpora may share and mean another by it
_COMPUTED = ("corpus", "start", "num_samples", "label")  # when a corpus is packed


def merge_corpora(
    name: str, corpora: Sequence[str], data_dir: str | os.PathLike | None = None, changes: Changes | None = None
) -> Corpus:
    """Packs all utterances of several corpora as the corpus `name`, one corpus after another.

    Its emotions are those of the first, then what each other one adds: an emotion of the same name is the same class.
    `changes` gives emotions other names first, in whichever corpora have them.
    Ids, speakers and texts get their corpus's name in front ("emodb-03"); the column `source` says which that is.
    Raises UserError for fewer than two corpora, one named twice or like the new one, and one that is not prepared.
    """
    if name in corpora:
        raise UserError(f"--name {name}: one of --corpora {','.join(corpora)}, expected a new name")
    if len(corpora) < 2 or len(set(corpora)) < len(corpora):
        raise UserError(f"--corpora {','.join(corpora)}: expected at least two corpora, each once")
    parts = [load_corpus(one, data_dir) for one in corpora]
    if changes:
        parts = [labels.relabelled(part, one)[0] for part, one in zip(parts, _of_each(parts, changes), strict=True)]
    emotions = list(dict.fromkeys(emotion for part in parts for emotion in part.emotions))
    return pack(packed_folder(name, data_dir), name, _examples(parts), emotions, _info(parts))


def _of_each(parts: Sequence[Corpus], changes: Changes) -> list[Changes]:
    """What is to be changed in each corpus: that of which it has something."""
    labels.rename([emotion for part in parts for emotion in part.emotions], changes)  # refuses what none of them has
    made = []
    for part in parts:
        there = {emotion.casefold() for emotion in part.emotions}
        renamed = {old: new for old, new in changes.renamed.items() if old.casefold() in there}
        kept = dataclasses.replace(changes, renamed=renamed, dropped=())
        names, _ = labels.rename(part.emotions, kept)
        made.append(dataclasses.replace(kept, dropped=[name for name in changes.dropped if name in names]))
    return made


def parts_of(corpus: Corpus) -> dict[str, str]:
    """Returns the fingerprints of all corpora that a merged one holds, by name; nothing for any other corpus.

    One that was merged before is followed by its own parts: "both", "both/emodb", "both/ravdess".
    """
    check = corpus.info.get("source_check")
    content = check.get("content") if isinstance(check, dict) else None
    return content if isinstance(content, dict) else {}


def _examples(parts: Sequence[Corpus]) -> Iterator[tuple[dict[str, Any], Int16[np.ndarray, " _"]]]:
    table = pd.concat([_named(part) for part in parts], ignore_index=True)
    texts = table.select_dtypes(exclude="number").columns
    # What one corpus says of its utterances and another does not, or one in numbers and another in words.
    table[texts] = table[texts].map(lambda value: "" if pd.isna(value) else str(value))
    waveforms = (np.asarray(waveform(part, i)) for part in parts for i in range(len(part.utterances)))
    return zip(table.to_dict("records"), waveforms, strict=True)


def _named(part: Corpus) -> pd.DataFrame:
    table = part.utterances.drop(columns=list(_COMPUTED)).assign(source=part.name)
    for column in [name for name in _NAMED if name in table]:
        table[column] = [f"{part.name}-{value}" if value else "" for value in table[column]]
    return table


def _info(parts: Sequence[Corpus]) -> dict[str, Any]:
    def joined(key: str, between: str) -> str:
        return between.join(dict.fromkeys(str(part.info[key]) for part in parts if part.info.get(key)))

    return {
        "description": joined("description", " "),
        "citation": joined("citation", "\n\n"),
        "licence": joined("licence", " and "),
        "language": joined("language", ", "),
        "labels": [f"{part.name}: {said}" for part in parts for said in part.info.get("labels", [])]
        + [f"{part.name}: without its own column source" for part in parts if _has_own_source(part)]
        + _scales(parts),
        "left_out": [left for part in parts for left in part.info.get("left_out", [])],
        "notes": {
            kind: [f"{part.name}-{name}" for part in parts for name in part.info.get("notes", {}).get(kind, [])]
            for kind in dict.fromkeys(kind for part in parts for kind in part.info.get("notes", {}))
        },
        "speakers_known": all(speakers_known(part) for part in parts),
        "source_check": {
            "files": sum(_num_files(part.utterances) for part in parts),
            "verified_against": f"nothing anew: packed before as {' and '.join(part.name for part in parts)}",
            "content": {name: content for part in parts for name, content in _content(part).items()},
        },
    }


def _has_own_source(part: Corpus) -> bool:
    return "source" in part.utterances and not parts_of(part)


def _scales(parts: Sequence[Corpus]) -> list[str]:
    """What is to be said of dimensions whose values the corpora have on scales of other sizes: they are not changed."""
    said = []
    for name in DIMENSIONS:
        of = {part.name: range_of(part.utterances, name) for part in parts if name in part.utterances}
        of = {corpus: (least, most) for corpus, (least, most, known) in of.items() if known}
        widths = [most - least for least, most in of.values()]
        if len(of) > 1 and max(widths) > 1.5 * min(widths):
            ranges = ", ".join(f"{least:g} to {most:g} in {corpus}" for corpus, (least, most) in of.items())
            said.append(f"{name} may be on several scales, taken as they are: {ranges}")
    return said


def _content(part: Corpus) -> dict[str, str]:
    own = {f"{part.name}/{name}": content for name, content in parts_of(part).items()}
    return {part.name: part.fingerprint, **own}


def _num_files(utterances: pd.DataFrame) -> int:
    """How many files utterances are of: a row without a recording, beside segments, is a file of its own."""
    if "recording" not in utterances:
        return len(utterances)
    return utterances["recording"].where(utterances["recording"] != "", utterances["id"]).nunique()
