"""Text that prints as it is: in LaTeX, in Markdown and in a terminal. HTML is escaped by its template."""

import re

from ser_jax.errors import one_line

LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    '"': r"\textquotedbl{}",
}
LATEX_SIGNS |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
LATEX_SIGNS |= {
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "·": r"$\cdot$",
}
LATEX_SIGNS |= {"\u202f": r"\,", "“": "``", "”": "''"}
MARKDOWN_SIGNS = "\\`*_[]<>|$#~"
_MARKDOWN = re.compile(f"([{re.escape(MARKDOWN_SIGNS)}])")


def latex(text: str) -> str:
    """LaTeX source that prints the text."""
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in one_line(text))


def markdown(text: str) -> str:
    """Markdown source that shows the text: no emphasis, link, HTML, mathematics or column of a table begins in it."""
    text = _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))
    text = re.sub(r"\\\[([-+\d., ]+)\\\](?!\()", r"[\1]", text)  # an interval is no link
    return re.sub(r"^(\s*)([-+]|\d+[.)])(\s)", r"\1\\\2\3", text)
