"""Text that prints as it is: in LaTeX, in Markdown and in a terminal. HTML is escaped by its template."""

import re
import unicodedata

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': r"\textquotedbl{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
_LATEX |= {"×": r"$\times$", "−": "$-$", "–": "--", "±": r"$\pm$", "<": "$<$", ">": "$>$", "|": "$|$", "·": r"$\cdot$"}
_LATEX |= {"\u202f": r"\,", "“": "``", "”": "''"}
_JOINERS = "\u200c\u200d"  # which scripts and emoji need
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|$#~])")


def one_line(text: str) -> str:
    """The text in one line, control characters as visible escapes ("\\x1b"), so that no terminal obeys them."""
    shown = []
    for sign in text:
        if sign in "\n\r\t":
            shown.append(" ")
        elif sign in _JOINERS:
            shown.append(sign)
        elif unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
            shown.append(sign.encode("unicode_escape").decode("ascii"))
        else:
            shown.append(sign)
    return "".join(shown)


def latex(text: str) -> str:
    """LaTeX source that prints the text."""
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


def markdown(text: str) -> str:
    """Markdown source that shows the text: no emphasis, link, HTML, mathematics or column of a table begins in it."""
    text = _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))
    text = re.sub(r"\\\[([-+\d., ]+)\\\](?!\()", r"[\1]", text)  # an interval is no link
    return re.sub(r"^(\s*)([-+]|\d+[.)])(\s)", r"\1\\\2\3", text)
