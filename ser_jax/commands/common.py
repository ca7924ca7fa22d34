"""What several commands share: their common options, and JAX made ready."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ser_jax.corpora.labels import Changes

from ser_jax import machine


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, --workdir and --data_dir."""
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a file of configs/ (FILE.py or FILE.py:ARGUMENTS), its name alone (quickstart), or the config.json of a "
        "workdir; any option is changed by --config.OPTION=VALUE, as in --config.model.width=1.0 --config.seeds=0,1,2",
    )
    parser.add_argument("--config", dest="config_option", help=argparse.SUPPRESS)
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="where results and checkpoints go (default: a folder of runs/ that is named after CONFIG); the same "
        "command on the same folder resumes an interrupted training",
    )
    add_data_argument(parser)


def load_config(args: argparse.Namespace) -> dict:
    """Returns the configuration that a command line names and changes; sets `args.workdir` where it is not given."""
    from ser_jax import config
    from ser_jax.errors import UserError

    given = [path for path in (args.config, args.config_option) if path is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{args.command}: found {found}, expected one configuration, as configs/quickstart.py")
    args.workdir = args.workdir or default_workdir(given[0])
    settings = config.load(given[0], args.overrides)
    refuse_published("--workdir", args.workdir)
    refuse_published("--store", vars(args).get("store"))
    return settings


def refuse_published(option: str, folder: str | None) -> None:
    """Raises `UserError` where a folder that is to be written to is a published model."""
    from ser_jax.errors import UserError

    if folder and (Path(folder) / "model.safetensors").exists():
        raise UserError(f"{option} {folder}: holds a published model, which is never changed; expected another folder")


def default_workdir(path: str) -> str:
    """Returns where a configuration's results go: runs/NAME_ARGUMENTS, or the workdir that its config.json is in."""
    if path.endswith(".json"):
        return str(Path(path).parent) if Path(path).name == "config.json" else f"runs/{Path(path).stem}"
    file, _, argument = path.partition(":")
    return "runs/" + re.sub(r"[^A-Za-z0-9.-]+", "_", f"{Path(file).stem}_{argument}").strip("_")


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        default=None,
        help="where `prepare` put the corpora (default: SER_JAX_DATA, else ./data)",
    )


def add_profile_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --profile_steps."""
    parser.add_argument(
        "--profile_steps",
        metavar="FROM:TO",
        type=_steps,
        help="trace the training steps after FROM up to TO with JAX's profiler, to the population's folder profile/, "
        "for Perfetto or TensorBoard",
    )


def _steps(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected two numbers of steps FROM:TO, FROM below TO")
    return int(first), int(last)


def add_label_arguments(group: argparse._ActionsContainer) -> None:
    """Adds --map, --synonyms and --drop."""
    group.add_argument(
        "--map", metavar="OLD=NEW,...", help="other names for emotions, as angry=anger,excited=happiness"
    )
    group.add_argument(
        "--synonyms", action="store_true", help="take angry, ang, ... for anger, and so on (docs/your_corpus.md)"
    )
    group.add_argument("--drop", metavar="A,B", help="leave out these emotions")


def label_changes(args: argparse.Namespace, *, unify: bool = False) -> Changes:
    """Returns what `add_label_arguments` were given."""
    from ser_jax.corpora.labels import Changes, parse_map

    dropped = [name.strip() for name in args.drop.split(",")] if args.drop else []
    return Changes(parse_map(args.map) if args.map else {}, dropped, args.synonyms, unify)


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a training by several processes."""
    group = parser.add_argument_group("several processes that train together (docs/scaling.md)")
    group.add_argument(
        "--distributed", action="store_true", help="this is one of them; Slurm, Open MPI or the TPU gives the rest"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where the first of them listens")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this process, from 0")
    group.add_argument(
        "--rendezvous_seconds",
        type=int,
        default=300,
        metavar="S",
        help="how long they wait for each other (default: 300)",
    )


def join_processes(args: argparse.Namespace) -> None:
    """Makes this process one of several, where the options say so."""
    given = (args.coordinator, args.num_processes, args.process_id)
    if args.distributed or any(value is not None for value in given):
        from ser_jax.training import processes

        processes.join(*given, timeout=args.rendezvous_seconds)


def start_jax() -> None:
    """Makes each core a device where there is no accelerator, and keeps compiled programs on disk.

    Two runs on two cores, each by itself, measured 1.3 times faster than one after the other on both. What the
    environment sets (JAX_NUM_CPU_DEVICES, JAX_COMPILATION_CACHE_DIR) stays. Raises `UserError` where the platform that
    JAX_PLATFORMS names is not there.
    """
    import jax

    from ser_jax.errors import UserError
    from ser_jax.training import devices

    if jax.config.jax_num_cpu_devices < 1:
        jax.config.update("jax_num_cpu_devices", machine.cores())
    devices.keep_programs()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a platform was found
        said = (str(error).strip().splitlines() or ["no such device"])[0]
        raise UserError(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {said}") from error
