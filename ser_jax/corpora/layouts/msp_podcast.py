"""MSP-Podcast: English podcasts in 8 classes and 3 dimensions, with official splits (Lotfian & Busso 2019)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from ser_jax.corpora.annotations import in_words, one_file, recordings_by, text_of, vote_columns
from ser_jax.corpora.layouts import Layout
from ser_jax.corpora.tables import read_table
from ser_jax.errors import UserError
from ser_jax.files import from_json

EMOTIONS = {
    "A": "anger",
    "C": "contempt",
    "D": "disgust",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
    "U": "surprise",
    "O": "other",
    "X": "no agreement",
}
_HEARD = {  # raters' words, and their first letters in some releases
    "angry": "anger",
    "contempt": "contempt",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "sad": "sadness",
    "surprise": "surprise",
    "other": "other",
} | {letter.lower(): emotion for letter, emotion in EMOTIONS.items() if letter != "X"}
SPLITS = {"train": "train", "development": "validation", "validation": "validation", "test1": "test", "test": "test"}
_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def annotated(source: Path) -> list[dict[str, Any]]:
    """Returns what labels_consensus.csv (or .json) tells: emotion, three dimensions (1 to 7), speaker, split.

    Votes come from labels_detailed.csv (or .json), where it is there. Test1 is the test set that its literature uses;
    Test2 and Test3 are in no split, and the column `partition` has the owner's word. Speakers called Unknown are "".
    """
    path = one_file(source, ["labels_consensus.csv", "labels_consensus.json"])
    if path is None:
        raise UserError(f"{source}: no labels_consensus.csv or .json anywhere below it, expected MSP-Podcast's labels")
    recordings, heard = recordings_by(source, lambda path: path.stem), _votes(source)
    emotions, rows = sorted(set(_HEARD.values())), []
    for row in _consensus(path):
        name, speaker = Path(row["FileName"]).stem, row["SpkrID"]
        rows.append(
            {
                "id": name,
                "path": recordings.get(name),
                "speaker": "" if speaker.lower() == "unknown" else speaker,
                "gender": {"male": "male", "female": "female"}.get(row["Gender"].lower(), ""),
                "emotion": in_words(path, row["EmoClass"], EMOTIONS),
                "split": SPLITS.get(row["Split_Set"].lower(), ""),
                "partition": row["Split_Set"],
                "arousal": row["EmoAct"],
                "valence": row["EmoVal"],
                "dominance": row["EmoDom"],
                **(vote_columns(heard[name], emotions) if heard else {}),
            }
        )
    return rows


def _consensus(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        records = read_table(path, wanted=_COLUMNS, columns=()).to_dict("records")
    else:
        records = [{"FileName": name, **_one(path, name, row)} for name, row in _read_json(path).items()]
    for record in records[:1]:
        for column in _COLUMNS:
            if column not in record:
                raise UserError(f"{path}: no column `{column}`, expected {', '.join(_COLUMNS)}")
    return [{column: str(record.get(column, "")) for column in _COLUMNS} for record in records]


def _votes(source: Path) -> dict[str, list[list[str]]]:
    """The emotion that each rater of an utterance named first, by the utterance; nothing without ratings."""
    path = one_file(source, ["labels_detailed.csv", "labels_detailed.json"])
    heard: dict[str, list[list[str]]] = defaultdict(list)
    if path is None:
        return heard
    if path.suffix == ".csv":
        table = read_table(path, wanted=("FileName", "EmoClass_Major"), columns=())
        if "EmoClass_Major" not in table:
            raise UserError(f"{path}: no column `EmoClass_Major`, expected FileName and EmoClass_Major")
        pairs = list(zip(table["FileName"], table["EmoClass_Major"], strict=True))
    else:
        pairs = [
            (name, rating["EmoClass_Major"]) for name, raters in _read_json(path).items() for rating in _all(raters)
        ]
    for name, word in pairs:
        word = str(word).lower()
        word = "other" if word.startswith("other") else word  # as Other-curious
        heard[Path(name).stem].append([in_words(path, word, _HEARD)])
    return heard


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = from_json(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object with an entry for every recording")
    return found


def _one(path: Path, name: str, entry: Any) -> dict[str, Any]:
    found = entry[0] if isinstance(entry, list) and entry else entry
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name} has {str(found)!r}, expected an object with {', '.join(_COLUMNS[1:])}")
    return found


def _all(raters: Any) -> list[dict[str, Any]]:
    """The ratings of an utterance: by the rater's name, or a list of them."""
    entries = raters.get("Workers", list(raters.values())) if isinstance(raters, dict) else raters
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and "EmoClass_Major" in entry]


LAYOUT = Layout(
    title="MSP-Podcast",
    language="en",
    speech="spontaneous speech, of podcasts",
    emotions=("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    utterances=None,
    speakers=None,
    protocol="official",
    licence="research only, on request",
    homepage="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    citation="Lotfian & Busso 2019, IEEE Transactions on Affective Computing 10(4):471-483",
    annotated=annotated,
    dropped=("other", "no agreement"),
)
