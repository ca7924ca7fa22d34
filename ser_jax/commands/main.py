"""The command line: `python launch.py COMMAND` or, where the package is installed, `ser-jax COMMAND`."""

import argparse
import contextlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ser_jax import __version__, interruption
from ser_jax.commands.terminal import open_streams, settle_streams, visible_output
from ser_jax.errors import UserError, did_you_mean, printed, refusal
from ser_jax.numbers import to_float, to_int
from ser_jax.training import background

COMMANDS = {
    "corpora": "list the corpora that can be named, and what is prepared here",
    "prepare": "prepare a corpus: check every file, resample, pack",
    "list": "print what can be named: corpora, models, protocols, conditions, configurations ...",
    "inspect": "describe a corpus: speakers, emotions, lengths, levels, copies",
    "audit": "check what a split of a corpus leaks between training and test data",
    "study": "train and compare all variants of a configuration, over all folds and seeds",
    "train": "train one variant of a configuration, over all folds and seeds",
    "status": "show which variants of a study are trained, running or failed",
    "evaluate": "restore a workdir's checkpoints and score them, on their own corpus or another",
    "compare": "compare results: workdirs and tables of predictions, also those of other programs",
    "track": "write the runs of a study for TensorBoard, Weights & Biases or MLflow",
    "plan": "predict from results which differences another study could detect, and its time",
    "verify": "check that data and results are unchanged: every file against its stored hash",
    "report": "write a report again from results, without a GPU",
    "predict": "print the class probabilities of recordings",
    "demo": "serve a page that recognises the emotion of a recording",
    "export": "write a trained model as a file that runs without ser_jax",
    "publish": "write a trained model and its card to a folder to share",
    "encoders": "list pretrained speech encoders, or get one",
    "models": "print parameters and multiply-adds of every model and its attention",
    "completion": "print a script that completes commands and options in a shell",
}
_OVERRIDE = "--config."
_NUMBER = re.compile(r"-?\d+(\.\d*)?,?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default the one that the shell gave, and returns the exit status.

    0 done, 1 a check failed or an error of ser_jax itself, 2 a mistake or a machine that cannot do it, 130 interrupted,
    141 who reads the output went away. Where the shell gave it, the process may end here: see `background.end`.
    """
    if arguments is not None:
        return _status(arguments)
    try:
        status = _status(sys.argv[1:])
    except Exception:  # shown here, so that the end does not wait for what is compiled beside
        sys.excepthook(*sys.exc_info())
        status = 1
    background.end(status)
    return status


def _status(arguments: Sequence[str]) -> int:
    # TensorFlow, where a command needs it, tells of its own start otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    open_streams()
    try:
        with interruption.heard(), visible_output():
            status = _run(arguments)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        interruption.say()
        return interruption.STATUS
    except Exception as error:
        if interruption.received():
            interruption.say()
            return interruption.STATUS
        return _refused(error)
    finally:
        settle_streams()


def _refused(error: Exception) -> int:
    """Says what a user or the machine did not allow, and returns the exit status; raises any other error again."""
    if isinstance(error, BrokenPipeError):  # who reads the output has enough of it, as `head` does
        return 141
    message = refusal(error)
    if message is None:
        raise error
    return _failed(message)


class _Parser(argparse.ArgumentParser):
    """One that refuses arguments in one line, as everything else is refused."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register("type", float, to_float)
        self.register("type", int, to_int)

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        raise UserError(f"{command}: {message}; see {self.prog} --help" if command else message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # a help that could not be written is an error too
        super().exit(status, message)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; it imports neither JAX nor TensorFlow."""
    installed = Path(sys.argv[0]).name == "ser-jax"
    parser = _Parser(prog="ser-jax" if installed else "launch.py", description="Speech emotion recognition in JAX.")
    parser.add_argument("--version", action="version", version=f"ser_jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"ser_jax.commands.{name}")
        command = subparsers.add_parser(name, help=summary, description=module.__doc__, allow_abbrev=False)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        if installed:
            for text in ("description", "epilog"):
                setattr(command, text, (getattr(command, text) or "").replace("python launch.py", "ser-jax"))
        command.set_defaults(run=module.run, options=tuple(command._option_string_actions))
    return parser


def _run(arguments: Sequence[str]) -> int:
    arguments, overrides = _split(arguments)
    parser = make_parser()
    if not arguments and not overrides:
        parser.print_help()
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserError(f"no command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)}")
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        raise UserError(f"no command before {overrides[0] if overrides else rest[0]}; see {parser.prog} --help")
    if overrides and "config" not in args:
        rest = [overrides[0], *rest]
    if rest:
        hint = did_you_mean(rest[0].partition("=")[0], args.options) if rest[0].startswith("-") else ""
        hint = hint if "did you mean" in hint else f"; see {parser.prog} {args.command} --help"
        raise UserError(f"{args.command}: {rest[0]} is not an option of this command{hint}")
    args.overrides = overrides
    return args.run(args)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments without what changes the configuration, and that: `--config.x y` as `--config.x=y`.

    A shell divides lists at their spaces: `0 1 2` becomes `0,1,2`, and `[0, 1]` stays as it is.
    """
    others, overrides = [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith(_OVERRIDE):
            others.append(argument)
            continue
        if "=" not in argument:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"{argument}: found no value, expected {argument}=VALUE")
            argument = f"{argument}={waiting.pop(0)}"
        while waiting and not waiting[0].startswith("--"):
            value = argument.partition("=")[2]
            open_list = value.startswith("[") and value.count("[") > value.count("]")
            numbers = all(_NUMBER.fullmatch(one) for one in [*value.removesuffix(",").split(","), waiting[0]])
            if not (open_list and not waiting[0].startswith("-")) and not numbers:
                break
            argument = f"{argument.rstrip(',')},{waiting.pop(0)}"
        overrides.append(argument)
    return others, overrides


def _failed(message: str) -> int:
    with contextlib.suppress(OSError):  # the status says it all the same
        print(f"error: {printed(message)}", file=sys.stderr)
    return 2
