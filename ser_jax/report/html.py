"""A report as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ser_jax.report import escape, vector_graphics
from ser_jax.report.blocks import Section

TEMPLATE = "template.html"
MOST_PANELS = 8  # of a figure that are shown; the others are there to be unfolded


def render(
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    drawings: Mapping[str, str],
    variants: Sequence[str] = (),
) -> str:
    """Returns the page. `drawings` are elements by name: SVG of panels, data URLs of pictures.

    A reader can hide each of the `variants`: rows of tables that name it, and panels of it alone.
    """
    import jinja2  # here, since of all commands only the report's need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        drawings=drawings,
        variants=variants,
        latex_signs=escape.LATEX_SIGNS,
        markdown_signs=escape.MARKDOWN_SIGNS,
        colours=vector_graphics.COLOURS,
        most=MOST_PANELS,
        kind=lambda block: type(block).__name__,
    )
