"""Writes a study's report: one HTML file that needs nothing else, the same as Markdown, and its figures and tables."""

import base64
import contextlib
import os
import shutil
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.files import atomic_file, atomic_folder
from ser_jax.report import html, latex, markdown, methods, references, vector_graphics
from ser_jax.report.blocks import Figure, Picture, Section, Table
from ser_jax.report.sections import make_sections, subtitle
from ser_jax.report.sources import Sources, without_control_signs
from ser_jax.report.summary import Summary

NONE: Mapping[str, Any] = types.MappingProxyType({})


def write_report(
    folder: str | os.PathLike,
    summary: Summary,
    *,
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = NONE,
    pictures: Mapping[str, str | os.PathLike] = NONE,
    configs: Mapping[str, Mapping[str, Any]] = NONE,
) -> None:
    """Writes report.html, report.md, figures/ (SVG, PDF) and tables/ (LaTeX, BibTeX) to a folder, all or nothing.

    By variant: `curves`, the entries of its log.jsonl; `pictures`, a PNG of its attention weights; `configs`, its
    complete configuration. What is not given is left out, and the report says so.
    """
    paths = {name: Path(path) for name, path in pictures.items()}
    sources = without_control_signs(Sources(summary, curves, paths, configs))
    sections = make_sections(sources)
    text = methods.paragraph(sources.summary, sources.configs)
    citation = sources.summary.study.corpus_info.get("citation", "")
    beside = {
        "methods.tex": references.latex(text) + "\n",
        "references.bib": references.bibtex(references.citations(text), citation),
    }
    write_sections(folder, (sources.summary.title, subtitle(sources.summary)), sections, list(sources.variants), beside)


def write_sections(
    folder: str | os.PathLike,
    heading: tuple[str, str],
    sections: Sequence[Section],
    variants: Sequence[str],
    beside: Mapping[str, str] = NONE,
) -> None:
    """Writes sections under a title and a subtitle as report.html, report.md, figures/ and tables/, all or nothing.

    `variants` are those that a reader of the page can hide; `beside` are further files of tables/, by name.
    """
    folder = Path(folder)
    # They appear in the opposite order: report.html comes last, and then all that it speaks of is there.
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(atomic_file(folder / "report.html"))
        text = stack.enter_context(atomic_file(folder / "report.md"))
        tables = stack.enter_context(atomic_folder(folder / "tables"))
        figures = stack.enter_context(atomic_folder(folder / "figures"))
        drawings = _draw(sections, figures)
        for table in _blocks(sections, Table):
            (tables / f"{table.name}.tex").write_text(latex.render(table), encoding="utf-8")
        for name, content in beside.items():
            (tables / name).write_text(content, encoding="utf-8")
        text.write_text(markdown.render(*heading, sections), encoding="utf-8")
        page.write_text(html.render(*heading, sections, drawings, variants), encoding="utf-8")


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
