"""What mkdocs is told of documents outside docs/: pages of the site, and links that lead to them or to the repository.

A link to a file of the repository that is no page, such as a folder of predictions, becomes its text, with the path:
the site does not know where its repository is.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages of the site by the files outside docs/ that they are.
OUTSIDE = {
    **{f"{name}.md": f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")},
    **{str(path.relative_to(ROOT)): f"cards/{path.parent.name}.md" for path in ROOT.glob("pretrained/*/README.md")},
}
HOME = {"README.md": "index.md"}
_LINK = re.compile(r"(?<!!)\[([^]\[]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", flags=re.MULTILINE | re.DOTALL)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Returns a page's text with links that the site can follow."""
    source = next((name for name, own in OUTSIDE.items() if own == page.file.src_uri), f"docs/{page.file.src_uri}")
    return site_links(markdown, source, page.file.src_uri)


def site_links(markdown: str, source: str, page: str) -> str:
    """Returns the text of `source`, a path in the repository, with the links of `page`, its place in the site."""

    def link(match: re.Match) -> str:
        text, target = match.groups()
        file, _, heading = target.partition("#")
        if not file or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        aim = _page_of(path)
        if not aim:
            return text if path in text else f"{text} (`{path}`)"
        return f"[{text}]({posixpath.relpath(aim, posixpath.dirname(page) or '.')}{'#' if heading else ''}{heading})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _page_of(path: str) -> str:
    """The page or file of the site that a file of the repository is; "" where it is none."""
    if path in OUTSIDE or path in HOME:
        return OUTSIDE.get(path) or HOME[path]
    inside = path.startswith("docs/") and not path.startswith("docs/results")
    return path.removeprefix("docs/") if inside and (ROOT / path).is_file() else ""
