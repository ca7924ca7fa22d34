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

    return list(PROTOCOLS.items())


def _conditions(data_dir: str | None) -> Rows:
    from ser_jax.corpora.perturbations import CONDITIONS, describe

    return [(name, describe(name)) for name in CONDITIONS]


def _losses(data_dir: str | None) -> Rows:
    from ser_jax.training.objectives import LOSSES

    return [(name, _first_line(loss)) for name, loss in LOSSES.items()]


def _optimizers(data_dir: str | None) -> Rows:
    """Those of optax that a configuration can name: a learning rate is all that they need.

    L-BFGS is not among them: it computes the loss itself, along a line.
    """
    import inspect

    import optax

    def is_optimizer(function: Callable) -> bool:
        arguments = inspect.signature(function).parameters
        needed = [name for name, one in arguments.items() if one.default is one.empty and one.kind < one.VAR_POSITIONAL]
        return "learning_rate" in arguments and set(needed) <= {"learning_rate"}

    found = {name: function for name, function in vars(optax).items() if inspect.isfunction(function)}
    found = {name: function for name, function in found.items() if name != "lbfgs" and not name.startswith("scale_by")}
    return [(name, _first_line(found[name])) for name in sorted(found) if is_optimizer(found[name])]


def _schedules(data_dir: str | None) -> Rows:
    import inspect

    import optax

    found = {name: function for name, function in vars(optax.schedules).items() if inspect.isfunction(function)}
    names = sorted(name for name in found if name.endswith(("_schedule", "_decay")))
    return [(name.removesuffix("_schedule"), _first_line(found[name])) for name in names]


def _first_line(function: Callable) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


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

    return [
        (name, f"{known.family}, {known.millions:g} M parameters, {known.licence}") for name, known in KNOWN.items()
    ]


def _configurations(data_dir: str | None) -> Rows:
    """The files of configs/ in the present folder and of those that come with ser_jax, and their first lines."""
    import ast
    from pathlib import Path

    from ser_jax.shipped import ROOT

    roots = [root for root in (ROOT, Path.cwd()) if (root / "configs").is_dir()]
    files = {str(path.relative_to(root)): path for root in roots for path in (root / "configs").rglob("*.py")}
    return [
        (name, (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0])
        for name, path in sorted(files.items())
    ]


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
    "losses": _losses,
    "objectives": _options("objective"),
    "optimizers": _optimizers,
    "schedules": _schedules,
    "configurations": _configurations,
    "options": _all_options,
}
