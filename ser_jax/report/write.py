"""Writes a study's report: one HTML file that needs nothing else, the same as Markdown, and its figures and tables.

What stands in it is `report_content`'s; here it is laid out.
"""

import base64
import contextlib
import os
import shutil
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ser_jax.files import atomic_file, atomic_folder
from ser_jax.report import content, methods, vector_graphics
from ser_jax.report.content import (
    Answer,
    Cell,
    Code,
    Facts,
    Figure,
    Items,
    Picture,
    Section,
    Sources,
    Table,
    Text,
)
from ser_jax.statistics.fairness import fairness

TEMPLATE = "template.html"
NONE: Mapping[str, Any] = types.MappingProxyType({})


def write_report(
    folder: str | os.PathLike,
    summary: Mapping[str, Any],
    predictions: pd.DataFrame | None = None,
    *,
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = NONE,
    pictures: Mapping[str, str | os.PathLike] = NONE,
    configs: Mapping[str, Mapping[str, Any]] = NONE,
    corpus: Mapping[str, Any] = NONE,
) -> None:
    """Writes report.html, report.md, figures/ (SVG, PDF) and tables/ (LaTeX, BibTeX) to a folder, all or nothing.

    `summary` is what summary.json holds. `predictions`, the table that it was made from, gives the figures by speaker
    where the summary has none. By variant: `curves`, the entries of its log.jsonl; `pictures`, a PNG of what its
    attention looked at; `configs`, its complete configuration. `corpus` is the corpus's `info`: description, licence,
    citation. What is not given is left out, and the report says so.
    """
    if predictions is not None and not any(variant.get("fairness") for variant in summary["variants"].values()):
        summary = {**summary, "variants": _with_speakers(summary["variants"], predictions)}
    paths = {name: Path(path) for name, path in pictures.items()}
    sources = Sources(summary, curves, paths, configs, corpus)
    sections = content.sections(sources)
    folder = Path(folder)
    # They appear in the opposite order: report.html comes last, and then all that it speaks of is there.
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(atomic_file(folder / "report.html"))
        markdown = stack.enter_context(atomic_file(folder / "report.md"))
        tables = stack.enter_context(atomic_folder(folder / "tables"))
        figures = stack.enter_context(atomic_folder(folder / "figures"))
        drawings = _draw(sections, figures)
        _write_tables(sections, sources, tables)
        markdown.write_text(_markdown(sections, summary), encoding="utf-8")
        page.write_text(_html(sections, summary, drawings), encoding="utf-8")


def _with_speakers(variants: Mapping[str, Any], predictions: pd.DataFrame) -> dict[str, Any]:
    tables = dict(list(predictions.groupby("variant")))
    return {name: {**v, "fairness": fairness(tables[name])} if name in tables else v for name, v in variants.items()}


def _draw(sections: Sequence[Section], folder: Path) -> dict[str, str]:
    """Writes every drawing and returns it as an element of a page, by its name."""
    drawn = {}
    for figure in _blocks(sections, Figure):
        pages = []
        for panel in figure.panels:
            for name, make in ((panel.name, panel.make), (f"{panel.name}_narrow", panel.narrow)):
                if make is None:
                    continue
                with vector_graphics.style():
                    drawing = make()
                svg = vector_graphics.write_svg(drawing, folder / f"{name}.svg", name)
                drawn[name] = vector_graphics.inline(svg, name, panel.description)
                if make is panel.make:
                    pages.append(drawing)
        vector_graphics.write_pdf(pages, folder / f"{figure.name}.pdf")
    for picture in _blocks(sections, Picture):
        shutil.copyfile(picture.path, folder / f"{picture.name}.png")
        drawn[picture.name] = "data:image/png;base64," + base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return drawn


def _blocks(sections: Sequence[Section], kind: type) -> list[Any]:
    return [block for section in sections for block in section.blocks if isinstance(block, kind)]


# As a page ----------------------------------------------------------------------------------------------------------


def _html(sections: Sequence[Section], summary: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(
        title=content.title(summary),
        subtitle=content.subtitle(summary),
        sections=sections,
        drawings=drawings,
        colours=vector_graphics.COLOURS,
        most=content.MOST_PANELS,
        kind=lambda block: type(block).__name__,
    )


# As Markdown --------------------------------------------------------------------------------------------------------


def _markdown(sections: Sequence[Section], summary: Mapping[str, Any]) -> str:
    parts = [f"# {content.title(summary)}", content.subtitle(summary)]
    for section in sections:
        parts += [f"## {section.title}", *(_markdown_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: content.Block) -> str:
    match block:
        case Text(text):
            return text
        case Answer(name, question, answer):
            return f"**{name}.** {question}\n\n> {answer}".replace(".**  ", ".** ")
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Facts(facts):
            return "\n".join(f"- **{name}**: {fact}" for name, fact in facts)
        case Table():
            return _markdown_table(block)
        case Figure(_, caption, panels):
            shown = "\n".join(f"![{_flat(panel.description)}](figures/{panel.name}.svg)" for panel in panels)
            return f"{shown}\n\n*{caption}*"
        case Picture(name, caption, _):
            return f"![{caption}](figures/{name}.png)\n\n*{caption}*"
        case Code(name, text):
            return f"{name}:\n\n```bibtex\n{text.strip()}\n```"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = [":--" if i < table.words else "--:" for i in range(len(table.columns))]
    lines = [line(table.columns), line(rule), *(line([_one_line(cell) for cell in row]) for row in table.rows)]
    return "\n".join(lines) + f"\n\n*{table.caption}*"


def _one_line(cell: Cell) -> str:
    if not cell.under:
        return cell.text
    return f"{cell.text} {cell.under}" if cell.under[0] in "[±" else f"{cell.text} ({cell.under})"


def _flat(text: str) -> str:
    return " ".join(text.replace("[", "(").replace("]", ")").split())


# As LaTeX -----------------------------------------------------------------------------------------------------------


def _write_tables(sections: Sequence[Section], sources: Sources, folder: Path) -> None:
    for table in _blocks(sections, Table):
        (folder / f"{table.name}.tex").write_text(_latex_table(table), encoding="utf-8")
    citation = sources.corpus.get("citation") or ""
    text = methods.paragraph(sources.summary, sources.configs, sources.corpus)
    (folder / "methods.tex").write_text(methods.latex(text) + "\n", encoding="utf-8")
    references = methods.bibtex(methods.citations(text), citation)
    (folder / "references.bib").write_text(references, encoding="utf-8")


def _latex_table(table: Table) -> str:
    """A tabular in the style of the package booktabs, with its caption as a comment."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(methods.escape(cell) for cell in cells) + r" \\"

    alignment = "l" * table.words + "r" * (len(table.columns) - table.words)
    body = [line([_one_line(cell) for cell in row]) for row in table.rows]
    lines = [f"% {table.caption}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", line(table.columns), r"\midrule"]
    return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
