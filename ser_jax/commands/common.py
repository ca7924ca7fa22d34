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


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a training by several processes."""
    group = parser.add_argument_group("several processes that train together (docs/scaling.md)")
    group.add_argument(
        "--distributed", action="store_true", help="this is one of them, as Slurm, Open MPI or the TPU says"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where the first of them listens")
    group.add_argument("--num_processes", type=int, metavar="N", help="how many they are")
    group.add_argument("--process_id", type=int, metavar="I", help="which of them this is, from 0 on")
    group.add_argument(
        "--rendezvous_seconds", type=int, default=300, metavar="S", help="how long they wait for one another (300)"
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
    environment sets (JAX_NUM_CPU_DEVICES, JAX_COMPILATION_CACHE_DIR) stays.
    """
    import jax

    if jax.config.jax_num_cpu_devices < 1:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ser_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
