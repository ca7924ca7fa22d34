#!/usr/bin/env python3
"""The entry point of ser_jax: `python launch.py COMMAND [flags]`. See `python launch.py --help`."""

import argparse
import importlib
import os
import sys

from ser_jax.errors import UserError

COMMANDS = {
    "prepare": "make a corpus ready: check every file, resample, pack",
    "audit": "say what a split of a corpus leaks between training and test",
    "study": "train and compare all variants of a configuration, over all folds and seeds",
    "train": "train one variant of a configuration, over all folds and seeds",
    "evaluate": "restore a workdir's checkpoints and score them, on their own corpus or another",
    "compare": "compare results: workdirs, tables of predictions, and what other programs predicted",
    "plan": "say which differences a study could detect, from the results of another",
    "report": "make a report again from results, without a device",
    "predict": "print the class probabilities of recordings",
    "publish": "write a trained model and a card about it to a folder to share",
    "encoders": "list pretrained speech encoders, or take one to this machine",
    "models": "print what every model and its attention cost",
}


def main(arguments: list[str]) -> int:
    """Runs one command and returns the exit status.

    0 done, 1 a check failed, 2 a user's mistake, 130 interrupted, 141 who reads the output went away.
    """
    parser = argparse.ArgumentParser(prog="launch.py", description="Speech emotion recognition in JAX.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"ser_jax.commands.{name}")
        command = subparsers.add_parser(name, help=summary, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args, rest = parser.parse_known_args(arguments)
    overrides = [text for text in rest if text.startswith("--config.") and "=" in text]
    if len(overrides) < len(rest) or (overrides and "config" not in args):
        unknown = next((text for text in rest if text not in overrides), rest[0])
        parser.error(f"{args.command}: {unknown} is not an option of this command; see launch.py {args.command} --help")
    args.overrides = overrides
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the output has enough of it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
