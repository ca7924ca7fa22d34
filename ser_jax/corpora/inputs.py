"""The recordings that a command line names: files, folders, globs, standard input."""

import glob
import os
from collections.abc import Sequence

from ser_jax.corpora.audio import find_audio
from ser_jax.errors import UserError


def expand(arguments: Sequence[str]) -> list[str]:
    """Returns the files that the arguments name, each once, in their order.

    A folder stands for all audio files below it, sorted; a pattern with *, ? or [] (** for any folders) for the files
    that match it, where there is no file of that very name; `-` for standard input.
    Raises UserError for a folder without audio files, and a pattern that nothing matches. A name without a file is
    returned as it is: whoever reads it says what is wrong.
    """
    files: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            found = [str(path) for path in find_audio(argument)]
            if not found:
                raise UserError(f"{argument}: no audio files in this folder, expected at least one")
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = [path for path in sorted(glob.glob(argument, recursive=True)) if not os.path.isdir(path)]
            if not found:
                raise UserError(f"{argument}: no file matches, expected at least one")
        else:
            found = [argument]
        files += found
    return list(dict.fromkeys(files))
