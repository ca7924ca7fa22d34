"""The references of the methods paragraph. A citation stands in its text as {{key}}."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pybtex.errors
from pybtex.database import BibliographyData, Entry, Person, parse_string

from ser_jax.report.escape import latex as escaped

BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
_CITATION = re.compile(r"\{\{([^{}]+)\}\}")


def citations(text: str) -> list[str]:
    """The keys that a text cites, each once, in its order."""
    return list(dict.fromkeys(_CITATION.findall(text)))


def plain(text: str, extra: str = "") -> str:
    """The text with its citations as (author, year); `extra` is more BibTeX, such as the corpus's."""
    entries = bibliography(extra)
    text = re.sub(r"after \{\{([^{}]+)\}\}", lambda found: f"after {_author_year(entries, found[1], ' ({})')}", text)
    return _CITATION.sub(lambda found: f"({_author_year(entries, found[1], ', {}')})", text)


def latex(text: str) -> str:
    """The text as LaTeX source, with its citations as \\cite{key}."""
    pieces = re.split(r" ?\{\{([^{}]+)\}\}", text)
    return "".join(escaped(piece) if i % 2 == 0 else rf"~\cite{{{piece}}}" for i, piece in enumerate(pieces))


def bibtex(keys: Iterable[str], extra: str = "") -> str:
    """The BibTeX entries of these keys; `extra` is more BibTeX, such as the corpus's."""
    entries = bibliography(extra)
    return BibliographyData({key: entries[key] for key in keys if key in entries}).to_string("bibtex")


def bibliography(extra: str = "") -> dict[str, Entry]:
    """All known BibTeX entries by key."""
    return {**_own(), **parsed(extra)}


def parsed(source: str) -> dict[str, Entry]:
    """The entries of BibTeX source by key; none where it is no BibTeX."""
    try:
        with pybtex.errors.capture():  # of repeated keys and the like
            return dict(parse_string(source or "", "bibtex").entries)
    except pybtex.exceptions.PybtexError:
        return {}


@functools.cache
def _own() -> dict[str, Entry]:
    return parsed(BIBLIOGRAPHY.read_text(encoding="utf-8"))


def _author_year(entries: dict[str, Entry], key: str, year_as: str) -> str:
    """The authors' family names and the year of an entry; its key where it does not have them."""
    entry = entries.get(key)
    authors = entry.persons.get("author") if entry else None
    if not authors or "year" not in entry.fields:
        return key
    families = [_family(author) for author in authors]
    shown = f"{families[0]} et al." if len(families) > 2 else " and ".join(families)
    return shown + year_as.format(entry.fields["year"])


def _family(author: Person) -> str:
    """A person's family name, with what stands before it. LaTeX is rendered where there is any: it takes long."""
    parts = (*author.prelast_names, *author.last_names)
    if any(sign in part for part in parts for sign in "\\{~"):
        parts = (part.render_as("text") for part in (*author.rich_prelast_names, *author.rich_last_names))
    return " ".join(map(str, parts))
