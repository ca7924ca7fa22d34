"""Prints a script that completes commands and options in a shell.

python launch.py completion bash > ~/.local/share/bash-completion/completions/ser-jax
python launch.py completion zsh > ~/.zsh/completions/_ser-jax
"""

import argparse

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import shtab

    from ser_jax.commands.main import make_parser

    parser = make_parser()
    parser.prog = "ser-jax"
    print(shtab.complete(parser, args.shell))
    return 0
