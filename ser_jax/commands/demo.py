"""Serves a page that recognises the emotion of a recording: drop a file, or record one.

  python launch.py demo emodb
  python launch.py demo runs/calls --port 7861

The page is for this machine alone (127.0.0.1), and needs no network. It shows probabilities, emotions over time, the
attention weights of a model with attention and, if the model's corpus is in --data_dir, the most similar of its
recordings by the input vectors of the classifier. Ctrl-C ends it.
"""

import argparse

from ser_jax.commands.common import start_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "model",
        nargs="?",
        default="emodb",
        metavar="MODEL",
        help="a folder that `train`, `study` or `publish` made (emodb)",
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port of the page (default: 7860)")
    parser.add_argument("--variant", metavar="NAME", help="the variant to use, where the workdir has several")
    parser.add_argument(
        "--data_dir", metavar="DIR", help="where its encoder and corpus are (default: SER_JAX_DATA, else ./data)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command until it is interrupted; returns its exit status."""
    from ser_jax import extras
    from ser_jax.errors import UserError

    extras.require("demo", "demo", "gradio")
    if not 1024 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: expected 1024 to 65535")

    from ser_jax import api, demo
    from ser_jax.studies.neighbours import hear_corpus

    demo.refuse_port(args.port)
    start_jax()
    model = api.load(args.model, variant=args.variant, data_dir=args.data_dir)
    demo.refuse_model(model)
    neighbours = hear_corpus(model.recogniser, args.data_dir)
    demo.serve(model, args.port, neighbours=neighbours)
    return 0
