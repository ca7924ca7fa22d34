"""Text that prints as it is: in LaTeX, in Markdown and in a terminal. HTML is escaped by its template."""

import re

from ser_jax.errors import one_line

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': r"\textquotedbl{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
_LATEX |= {"×": r"$\times$", "−": "$-$", "–": "--", "±": r"$\pm$", "<": "$<$", ">": "$>$", "|": "$|$", "·": r"$\cdot$"}
_LATEX |= {"\u202f": r"\,", "“": "``", "”": "''"}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|$#~])")


def latex(text: str) -> str:
    """LaTeX source that prints the text."""
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


def markdown(text: str) -> str:
    """Markdown source that shows the text: no emphasis, link, HTML, mathematics or column of a table begins in it."""
    text = _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))
    text = re.sub(r"\\\[([-+\d., ]+)\\\](?!\()", r"[\1]", text)  # an interval is no link
    return re.sub(r"^(\s*)([-+]|\d+[.)])(\s)", r"\1\\\2\3", text)
