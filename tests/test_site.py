"""The site of the documents names every page, its links lead to pages, and the notebook runs."""

import ast
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from docs import architecture_figure, protocol_figures, site_links

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without importing what its tags name."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def pages(nav):
    """The pages of a navigation, in order."""
    for entry in nav:
        for page in entry.values():
            yield from pages(page) if isinstance(page, list) else [page]


def test_the_navigation_has_every_page_once_from_the_home_page_to_the_diary():
    found = list(pages(SITE["nav"]))
    outside = set(site_links.OUTSIDE.values())
    assert sorted(found) == sorted({path.name for path in DOCS.glob("*.md")} | outside)
    assert found[0] == "index.md" and found[-1] == "recipes.md"
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "cards/emodb.md"} <= outside


def test_links_of_the_site_lead_to_pages_or_name_files_of_the_repository():
    sources = {f"docs/{path.name}": path.name for path in DOCS.glob("*.md")} | site_links.OUTSIDE
    known = set(sources.values()) | {path.name for path in DOCS.iterdir() if path.is_file()}
    checked = 0
    for source, page in sources.items():
        text = site_links.site_links((ROOT / source).read_text(), source, page)
        for target in re.findall(r"\]\(([^)\s#]+)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
            if not re.match(r"[a-z]+:", target):
                assert os.path.normpath(Path(page).parent / target) in known, (source, target)
                checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("source", "page", "text", "expected"),
    [
        ("docs/answer.md", "answer.md", "[x](../CHANGELOG.md#gone)", "[x](CHANGELOG.md#gone)"),
        ("docs/answer.md", "answer.md", "[x](results/a)", "x (`docs/results/a`)"),
        ("docs/answer.md", "answer.md", "[docs/results](results)", "docs/results"),
        ("docs/index.md", "index.md", "[x](../README.md)", "[x](index.md)"),
        ("CONTRIBUTING.md", "CONTRIBUTING.md", "[x](docs/extending.md)", "[x](extending.md)"),
        ("pretrained/emodb/README.md", "cards/emodb.md", "[x](../../docs/pretrained.md)", "[x](../pretrained.md)"),
        (
            "docs/a.md",
            "a.md",
            "```\n[x](results)\n```\n[x](https://x.org)",
            "```\n[x](results)\n```\n[x](https://x.org)",
        ),
    ],
)
def test_a_link_is_written_for_the_site(source, page, text, expected):
    assert site_links.site_links(text, source, page) == expected


def test_the_reference_names_what_is_there_and_described():
    names = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), flags=re.M)
    assert len(names) > 20 and len(set(names)) == len(names)
    for name in names:
        module, _, attribute = name.rpartition(".")
        path = ROOT / module.replace(".", "/")
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        (found,) = [one for one in ast.parse(source).body if getattr(one, "name", "") == attribute]
        assert ast.get_docstring(found), name


def test_the_picture_of_the_architecture_shows_the_imports_of_the_sources():
    drawn = ElementTree.parse(architecture_figure.PICTURE).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    arrows = {line.get("id") for line in drawn.iter(f"{svg}line")}
    rows = architecture_figure.layers()
    imported = architecture_figure.imports(rows)
    assert ("export", "training") in imported and ("frontend", "corpora") in imported
    assert arrows == {f"{upper}-to-{lower}" for upper, lower in imported}, "run python -m docs.architecture_figure"
    assert [text.text for text in drawn.iter(f"{svg}text")] == [name for row in rows for name in row]
    described = re.findall(r"^\| (`.*?) \|", (DOCS / "architecture.md").read_text(), flags=re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(described))) == sorted(name for row in rows for name in row)


def test_the_pictures_of_protocols_and_verdicts_are_what_the_code_does():
    hint = "run python -m docs.protocol_figures"
    assert (DOCS / protocol_figures.FOLDS).read_text() == protocol_figures.draw_folds(), hint
    assert (DOCS / protocol_figures.VERDICTS).read_text() == protocol_figures.draw_verdicts(), hint
    folds = protocol_figures.parts_of(protocol_figures.voices(), "leave_one_speaker_out")
    assert [[i for i, part in enumerate(row) if part == "test"] for row in folds] == [
        list(range(first, first + 6)) for first in (0, 6, 12, 18)
    ]
    assert [verdict for *_, verdict in protocol_figures.verdicts()] == [
        "difference",
        "equivalent",
        "undecided",
        "undecided",
    ]


def test_the_notebook_runs_as_it_stands():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(DOCS / "first_steps.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # no stored output to grow old
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any(re.search(r"threshold 0\.\d\d: \d of 4", output.get("text", "")) for output in shown)
