"""Draws docs/architecture.svg: the packages of ser_jax in their layers, and which imports which, from the sources.

python -m docs.architecture_figure [OUTPUT.svg]

The layers are those that `make lint` checks (pyproject.toml). An arrow is drawn where some module of a package imports
one of the next layer; its id in the file is "UPPER-to-LOWER". Imports that skip layers are left out: in a
picture of all of them nothing can be seen.
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import grimp

DOCS = Path(__file__).parent
PICTURE = DOCS / "architecture.svg"
_WIDTH, _HEIGHT, _BOX, _GAP, _TOP = 1000, 64, 34, 14, 4
_INK, _PALE = "#37474f", "#eceff1"


def layers() -> list[list[str]]:
    """Returns the packages of each layer, from the uppermost down, as the contract of imports has them."""
    contracts = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["type"] == "layers"]
    return [[name.strip().removeprefix("ser_jax.") for name in line.split(":")] for line in contract["layers"]]


def imports(rows: Sequence[Sequence[str]]) -> set[tuple[str, str]]:
    """Returns the pairs of packages of neighbouring rows of which the upper imports the lower."""
    level = {name: depth for depth, row in enumerate(rows) for name in row}
    graph = grimp.build_graph("ser_jax")
    found = set()
    for one in level:
        own = {f"ser_jax.{one}"} | graph.find_descendants(f"ser_jax.{one}")
        for imported in set().union(*(graph.find_modules_directly_imported_by(module) for module in own)):
            other = imported.split(".")[1] if imported.count(".") else ""
            if level.get(other) == level[one] + 1:
                found.add((one, other))
    return found


def draw(rows: Sequence[Sequence[str]], pairs: set[tuple[str, str]]) -> str:
    """Returns the picture as SVG."""
    places, parts = {}, []
    for depth, row in enumerate(rows):
        width = (_WIDTH - _GAP * (len(row) + 1)) / len(row)
        for i, name in enumerate(row):
            places[name] = (_GAP + i * (width + _GAP), _TOP + depth * _HEIGHT, width)
    for upper, lower in sorted(pairs):
        (x0, y0, w0), (x1, y1, w1) = places[upper], places[lower]
        parts.append(
            f'<line id="{upper}-to-{lower}" x1="{x0 + w0 / 2:.0f}" y1="{y0 + _BOX}" x2="{x1 + w1 / 2:.0f}" '
            f'y2="{y1 - 3}" stroke="{_INK}" stroke-width="1.2" marker-end="url(#end)"/>'
        )
    for name, (x, y, width) in places.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_BOX}" rx="5" fill="{_PALE}" stroke="{_INK}"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + 22}" text-anchor="middle">{name}</text>'
        )
    height = _TOP + len(rows) * _HEIGHT - (_HEIGHT - _BOX) + _TOP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif" '
        f'font-size="15" fill="#102027">\n<title>Packages of ser_jax and their imports</title>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        '<defs><marker id="end" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0,0 L7,3 L0,6 z" fill="{_INK}"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main(path: Path = PICTURE) -> None:
    """Writes the picture."""
    rows = layers()
    path.write_text(draw(rows, imports(rows)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
