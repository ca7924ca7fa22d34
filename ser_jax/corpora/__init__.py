"""Which speech exists, and how it is split.

`load_corpus` gives any corpus by its name. This module imports in milliseconds; what is heavy is imported when needed.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_jax.errors import UserError, brief, did_you_mean
from ser_jax.plugins import is_outside, resolve

if TYPE_CHECKING:
    from ser_jax.corpora.corpus import Corpus

BUILDERS = ("emodb", "ravdess")  # corpora with a TFDS builder in builders/


def default_data_dir() -> Path:
    """Returns the folder that holds prepared corpora: the environment's SER_JAX_DATA, else `data` in this folder."""
    return Path(os.environ.get("SER_JAX_DATA") or "data")


def packed_folder(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of the packed corpus `name`, whether or not it exists."""
    return Path(data_dir or default_data_dir()) / "packed" / name


def available_corpora(data_dir: str | os.PathLike | None = None) -> list[str]:
    """Returns the names that `load_corpus` takes at once: the built-in corpora, then the prepared ones."""
    from ser_jax.corpora.synthetic import BUILT_IN

    prepared = sorted(description.parent.name for description in packed_folder("", data_dir).glob("*/corpus.json"))
    return [*BUILT_IN, *(name for name in prepared if name not in BUILT_IN and not name.startswith("."))]


def load_corpus(name: str, data_dir: str | os.PathLike | None = None, **options: Any) -> Corpus:
    """Returns a corpus by name: a built-in one, generated on first use, or one that `prepare` has packed.

    `options` are those of `make_synthetic`, and only for built-in corpora. `package.module:NAME` is a function outside
    the package that is called with its own options and returns a `Corpus`.
    Raises UserError for a corpus that is unknown (naming the nearest) or not prepared (naming the command).
    """
    from ser_jax.corpora import corpus, layouts

    if is_outside(name):
        make = resolve(name, {}, "corpus")
        try:
            inspect.signature(make).bind(**options)
        except TypeError as error:
            raise UserError(f"corpus {name}: config.corpus.options: {error}") from None
        made = make(**options)
        if not isinstance(made, corpus.Corpus):
            raise UserError(f"corpus {name}: returned a {type(made).__name__}, expected a Corpus")
        return made
    folder = packed_folder(name, data_dir)
    if name and (folder / "corpus.json").is_file():
        if options:
            raise UserError(f"corpus {name}: unknown option {min(options)!r}, only built-in corpora have options")
        return corpus.load(folder)
    if name in (*BUILDERS, *layouts.names()):
        command = f"python launch.py prepare {name} --source FOLDER" + ("_OR_ZIP" if name in BUILDERS else "")
        raise UserError(f"corpus {name} is not prepared in {folder}: run `{command}`")

    from ser_jax.corpora.synthetic import BUILT_IN

    if name in BUILT_IN:
        return _load_built_in(name, data_dir, options)
    known = list(dict.fromkeys([*available_corpora(data_dir), *BUILDERS, *layouts.names()]))
    command = "python launch.py prepare folder --name NAME --source FOLDER"
    hint = did_you_mean(name, known)
    raise UserError(f"unknown corpus {brief(name)} in {folder.parent}{hint} (your own recordings: `{command}`)")


def _load_built_in(name: str, data_dir: str | os.PathLike | None, options: dict[str, Any]) -> Corpus:
    """Returns a built-in corpus, from the packed copy where the same one was generated before."""
    import contextlib
    import hashlib
    import json

    from ser_jax.config.kinds import number, whole
    from ser_jax.corpora import corpus, synthetic

    allowed = {
        "num_speakers": whole(1, 10_000),
        "utterances_per_speaker": whole(1, 10_000),
        "seed": whole(),
        "cue_db": number(-100, 100),
    }
    for option, value in options.items():
        if option not in allowed:
            raise UserError(f"corpus {name}: unknown option {brief(option)}{did_you_mean(option, allowed)}")
        if option == "cue_db" and value is None:  # its default
            continue
        kind = allowed[option]
        try:
            options = options | {option: kind.checked(value)}
        except ValueError as error:
            where = f"corpus {name}: config.corpus.options.{option}"
            raise UserError(f"{where}: found {brief(value)}, expected {kind.expected}{error}") from None
    key = json.dumps([synthetic.VERSION, sorted(options.items())], default=str)
    folder = packed_folder(name, data_dir) / hashlib.sha256(key.encode()).hexdigest()[:12]
    if folder.exists():
        with contextlib.suppress(UserError):  # a damaged copy is made again
            return corpus.load(folder)
    corpus.save(synthetic.make_synthetic(name, **options), folder)
    return corpus.load(folder)
