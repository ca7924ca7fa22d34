"""What several commands share: their common options, and JAX made ready."""

import argparse
import os
from pathlib import Path


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --workdir and --data_dir."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a file of configs/ (FILE.py or FILE.py:ARGUMENT), or the config.json of a workdir; "
        "any key is overridden by --config.KEY=VALUE, as in --config.model.width=1.0",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="where results and checkpoints go; the same command on the same folder resumes an interrupted training",
    )
    add_data_argument(parser)


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        default=None,
        help="where `prepare` put the corpora (default: SER_JAX_DATA, else ./data)",
    )


def start_jax() -> None:
    """Keeps compiled programs on disk, so that the same command is compiled once."""
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "ser_jax" / "xla"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
