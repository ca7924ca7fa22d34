"""Prints what can be named in configurations and commands, with a few words about each."""

import argparse
from collections.abc import Callable

Rows = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from ser_jax.commands.common import add_data_argument

    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"any of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_data_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import json

    from ser_jax.errors import UserError, did_you_mean

    for name in args.what:
        if name not in KINDS:
            raise UserError(f"list: no {name!r}{did_you_mean(name, KINDS)}")
    found = {name: KINDS[name](args.data_dir) for name in args.what or KINDS}
    if args.json:
        print(json.dumps({name: dict(rows) for name, rows in found.items()}, indent=1))
        return 0
    for kind, rows in found.items():
        width = max((len(name) for name, _ in rows), default=0)
        print(f"{kind}:", *(f"  {name:{width}}  {about}".rstrip() for name, about in rows), "", sep="\n")
    return 0


def _corpora(data_dir: str | None) -> Rows:
    from ser_jax.corpora import BUILDERS, available_corpora, packed_folder

    here = available_corpora(data_dir)
    packed = {name: (packed_folder(name, data_dir) / "corpus.json").is_file() for name in here}
    rows = [(name, "prepared" if is_packed else "built in") for name, is_packed in packed.items()]
    return rows + [(name, f"to prepare: launch.py prepare {name}") for name in BUILDERS if name not in here]


def _models(data_dir: str | None) -> Rows:
    from ser_jax.baselines import NAMES
    from ser_jax.models import FAMILIES

    baselines = [(name, "baseline on functionals (docs/baselines.md)") for name in NAMES]
    return [(name, family.summary) for name, family in FAMILIES.items()] + baselines


def _protocols(data_dir: str | None) -> Rows:
    from ser_jax.corpora.protocols import PROTOCOLS

    return [(name, "") for name in PROTOCOLS]


def _conditions(data_dir: str | None) -> Rows:
    from ser_jax.corpora.perturbations import CONDITIONS

    return [(name, "") for name in CONDITIONS]


def _options(group: str) -> Callable[[str | None], Rows]:
    """The options of a group of the configuration."""

    def rows(data_dir: str | None) -> Rows:
        from ser_jax.config.options import OPTIONS

        return [(name, f"{option.about}: {option.kind.expected}") for name, option in OPTIONS[group].items()]

    return rows


def _choices(group: str, option: str) -> Callable[[str | None], Rows]:
    """What one option of the configuration takes."""

    def rows(data_dir: str | None) -> Rows:
        from ser_jax.config.options import OPTIONS

        return [(name, "") for name in OPTIONS[group][option].kind.expected.removeprefix("one of ").split(", ")]

    return rows


def _encoders(data_dir: str | None) -> Rows:
    from ser_jax.encoders.catalogue import KNOWN

    return [(name, known.family) for name, known in KNOWN.items()]


def _configurations(data_dir: str | None) -> Rows:
    """The files of configs/ in the present folder, with the first line of their docstring."""
    import ast
    from pathlib import Path

    files = sorted(Path("configs").rglob("*.py"))
    return [(str(path), (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]) for path in files]


def _all_options(data_dir: str | None) -> Rows:
    """Every option of a configuration, with its default."""
    from ser_jax.config.options import OPTIONS, Option

    def rows(options: dict, path: str) -> Rows:
        found = []
        for name, option in options.items():
            if isinstance(option, Option):
                found.append((path + name, f"{option.default!r}: {option.about}; {option.kind.expected}"))
            else:
                found += rows(option, f"{path}{name}.")
        return found

    return rows(OPTIONS, "")


KINDS: dict[str, Callable[[str | None], Rows]] = {
    "corpora": _corpora,
    "models": _models,
    "encoders": _encoders,
    "protocols": _protocols,
    "conditions": _conditions,
    "frontends": _choices("frontend", "kind"),
    "augmentations": _options("augmentation"),
    "losses": _options("objective"),
    "optimizers": _options("optimizer"),
    "configurations": _configurations,
    "options": _all_options,
}
