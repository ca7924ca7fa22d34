"""Writes a trained model to a folder to share, as a model hub takes it: README.md, model.safetensors, config.json.

`predict`, `evaluate` and config.training.initial read it as they read a workdir, and never change it. README.md is its
card, config.json says how features are made and what the outputs are.

The card's figures come from --tested, where the same configuration was trained and tested on unseen speakers:

  python launch.py train configs/recipe.py:emodb,cnn --workdir runs/emodb
  python launch.py train configs/recipe.py:emodb,cnn --config.protocol.name=everything --workdir runs/emodb_all
  python launch.py publish --workdir runs/emodb_all --tested runs/emodb --to pretrained/emodb
"""

import argparse

from ser_jax.commands.common import add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a folder that `train` made")
    parser.add_argument(
        "--tested",
        required=True,
        metavar="DIR",
        help="a folder in which `train` tested the same configuration, or a study with a variant of its name",
    )
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="folder of the model; an earlier model there is replaced"
    )
    parser.add_argument(
        "--licence", metavar="NAME", default="", help="licence of the model, for its card, as CC-BY-4.0"
    )
    parser.add_argument("--description", metavar="TEXT", default="", help="description of its speech, for its card")
    add_data_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ser_jax.studies.publish import publish
    from ser_jax.training.published import CARD

    folder = publish(args.workdir, args.tested, args.to, args.data_dir, args.licence, args.description)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB; its card is {folder / CARD}")
    return 0
