"""A report as Markdown, with its figures beside it as SVG."""

from collections.abc import Sequence

from ser_jax.report.blocks import Answer, Block, Cell, Code, Facts, Figure, Items, Picture, Section, Table, Text
from ser_jax.report.escape import markdown as escaped


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns the text."""
    parts = [f"# {escaped(title)}", escaped(subtitle)]
    for section in sections:
        parts += [f"## {escaped(section.title)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escaped(text)
        case Answer(name, question, says, lead):
            asked = f" {escaped(question)}" if question else ""
            before = [escaped(lead), ""] if lead else []
            lines = [*before, *(f"- {escaped(one)}" if len(says) > 1 else escaped(one) for one in says)]
            return "\n".join([f"**{escaped(name)}.**{asked}", "", *(f"> {line}".rstrip() for line in lines)])
        case Items(items):
            return "\n".join(f"- {escaped(item)}" for item in items)
        case Facts(facts):
            return "\n".join(f"- **{escaped(name)}**: {escaped(fact)}" for name, fact in facts)
        case Table():
            return table(block.columns, [[one_line(cell) for cell in row] for row in block.rows], block.words) + (
                f"\n\n*{escaped(block.caption)}*"
            )
        case Figure(_, caption, panels):
            shown = "\n".join(f"![{escaped(panel.description)}](figures/{panel.name}.svg)" for panel in panels)
            return f"{shown}\n\n*{escaped(caption)}*"
        case Picture(name, caption, _):
            return f"![{escaped(caption)}](figures/{name}.png)\n\n*{escaped(caption)}*"
        case Code(name, text):
            fence = "`" * max(3, *(len(run) + 1 for run in text.replace("`", " ` ").split() if set(run) == {"`"}), 3)
            return f"{escaped(name)}:\n\n{fence}bibtex\n{text.strip()}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are aligned to the left, the others to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = [":--" if i < words else "--:" for i in range(len(columns))]
    return "\n".join([line([escaped(c) for c in columns]), line(rule), *(line([escaped(c) for c in r]) for r in rows)])


def one_line(cell: Cell) -> str:
    """A cell in one line: its figure, then what stands under it."""
    if not cell.under:
        return cell.text
    return f"{cell.text} {cell.under}" if cell.under[0] in "[±" else f"{cell.text} ({cell.under})"
