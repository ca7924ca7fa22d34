"""What layouts with annotations have in common: votes as columns, and recordings by their names."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.corpora.labels import VOTE
from ser_jax.errors import UserError
from ser_jax.files import read_text


def recordings_by(source: Path, key: Callable[[Path], Any]) -> dict[Any, Path]:
    """Returns the recordings below a folder by what `key` makes of their path below it; None is no recording.

    Raises UserError for two recordings of one key.
    """
    from ser_jax.corpora.audio import find_audio  # audio libraries: a packed corpus is loaded without them

    found: dict[Any, Path] = {}
    for path in find_audio(source):
        name = key(path.relative_to(source))
        if name is None:
            continue
        if name in found:
            raise UserError(f"{source}: holds {path.stem} twice, {found[name]} and {path}; expected it once")
        found[name] = path
    return found


def one_file(source: Path, names: Sequence[str]) -> Path | None:
    """Returns the first file below a folder that has one of these names, earlier names first, or None."""
    return next((path for name in names for path in sorted(source.rglob(name)) if path.is_file()), None)


def text_of(path: Path) -> str:
    """Returns an annotation file's text. Raises UserError for a file that is not in UTF-8 or cannot be read."""
    try:
        return read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8 ({error})") from error


def vote_columns(heard: Iterable[Iterable[str]], emotions: Iterable[str]) -> dict[str, str]:
    """Returns a column `vote_EMOTION` for every emotion: how many raters chose it.

    `heard` has the emotions that each rater named: the vote of a rater who named several is shared out among them.
    """
    votes: Counter[str] = Counter()
    for names in map(list, heard):
        for name in names:
            votes[name] += 1 / len(names)
    return {VOTE + emotion: f"{votes[emotion]:.4g}" for emotion in emotions}


def in_words(where: Path | str, word: str, words: Mapping[str, str]) -> str:
    """Returns the project's name for an owner's word. Raises UserError for a word that is not among them."""
    if word not in words:
        raise UserError(f"{where}: the emotion {word!r}, expected one of {', '.join(words)}")
    return words[word]
