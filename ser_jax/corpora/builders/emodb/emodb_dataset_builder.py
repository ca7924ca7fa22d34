"""EMO-DB: 535 German utterances of 10 sentences by 10 actors in 7 emotions (Burkhardt et al. 2005)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from ser_jax.corpora.builders import emodb
from ser_jax.corpora.builders.source import Source
from ser_jax.corpora.builders.speech_builder import SpeechBuilder
from ser_jax.errors import UserError

# The letters are those of the German words: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
MALE_SPEAKERS = ("03", "10", "11", "12", "15")
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


class Builder(SpeechBuilder):
    """EMO-DB; `recognition` and `naturalness` are shares (0 to 1) of 20 listeners, NaN without erkennung.txt."""

    RELEASE = emodb.RELEASE
    VERSION = tfds.core.Version(emodb.RELEASE.version)
    EMOTIONS = tuple(EMOTIONS.values())
    LANGUAGE = emodb.LANGUAGE
    LICENCE = emodb.LICENCE
    HOMEPAGE = "http://emodb.bilderbar.info"
    NUMBERS = ("recognition", "naturalness")

    def describe(self, source: Source) -> Mapping[str, Mapping[str, Any]]:
        """Returns what the names tell (`03a01Fa`: speaker 03, text a01, emotion F, version a), and the ratings."""
        ratings = _read_ratings(source.folder)
        return {name: _describe(name) | ratings.get(name, _UNRATED) for name in source.recordings}


_UNRATED = {"recognition": math.nan, "naturalness": math.nan}


def _describe(name: str) -> dict[str, str]:
    speaker, text, emotion = name[:2], name[2:5], name[5]
    return {
        "speaker": speaker,
        "gender": "male" if speaker in MALE_SPEAKERS else "female",
        "emotion": EMOTIONS[emotion],
        "text": text,
        "transcript": SENTENCES[text],
        "intensity": "",
    }


def _read_ratings(folder: Path) -> dict[str, dict[str, float]]:
    """Returns the listeners' ratings by name, from erkennung.txt if it is anywhere below `folder`."""
    paths = sorted(folder.rglob("erkennung.txt"))
    if not paths:
        return {}
    ratings = {}
    for number, line in enumerate(paths[0].read_text(encoding="latin-1").splitlines()[1:], start=2):
        if not line.strip():
            continue
        try:  # strip() also takes the non-breaking spaces that pad the cells
            _, name, recognition, naturalness = (cell.strip() for cell in line.split("\t"))
            ratings[Path(name).stem] = {"recognition": _share(recognition), "naturalness": _share(naturalness)}
        except ValueError as error:
            expected = "number, file, and two percentages"
            raise UserError(f"{paths[0]}: line {number} is {line[:60]!r}, expected {expected}") from error
    return ratings


def _share(percent: str) -> float:
    return float(percent.replace(",", ".")) / 100
