"""Tables of a report as LaTeX, in the style of the package booktabs."""

from collections.abc import Sequence

from ser_jax.errors import one_line as in_one_line
from ser_jax.report.blocks import Table
from ser_jax.report.escape import latex as escaped
from ser_jax.report.markdown import one_line


def render(table: Table) -> str:
    """Returns a tabular, with its caption as a comment. Other scripts than Latin need XeLaTeX or LuaLaTeX."""

    def line(cells: Sequence[str]) -> str:
        text = " & ".join(escaped(cell) for cell in cells) + r" \\"
        return f"{{}}{text}" if text[0] in "[*" else text  # they would belong to the line before

    alignment = "l" * table.words + "r" * (len(table.columns) - table.words)
    body = [line([one_line(cell) for cell in row]) for row in table.rows]
    lines = [f"% {in_one_line(table.caption)}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    return "\n".join([*lines, line(table.columns), r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
