"""Sends a study to a Slurm cluster by submitit, one job for each share of its variants."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ser_jax import extras
from ser_jax.errors import UserError


def submit(function: Callable, arguments: Sequence[Any], options: str, workdir: str) -> list[str]:
    """Calls `function(*arguments, shard)` in `jobs` jobs and returns their numbers; does not wait for them.

    `options` are KEY=VALUE,...: `jobs` (1 where not given), `cluster` ("slurm", "local" or "debug"; by default whatever
    there is), and submitit's parameters. Raises `UserError` where submitit is missing or does not know a parameter.
    """
    submitit, parameters = _submitit(), _parse(options)
    jobs, cluster = parameters.pop("jobs", 1), parameters.pop("cluster", None)
    if not isinstance(jobs, int) or jobs < 1:
        raise UserError(f"--slurm jobs={jobs}: expected a whole number of jobs")
    executor = submitit.AutoExecutor(folder=Path(workdir) / "slurm", cluster=cluster)
    try:
        executor.update_parameters(name="ser_jax", **_of_slurm(parameters))
    except (NameError, TypeError, ValueError) as error:
        raise UserError(f"--slurm {options}: {str(error).splitlines()[0]}") from error
    with executor.batch():
        sent = [executor.submit(function, *arguments, (index, jobs)) for index in range(jobs)]
    return [job.job_id for job in sent]


def _submitit() -> Any:
    # Its import would otherwise set up the logging of this process anew; in the jobs, which are its own, it may.
    own = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        submitit = extras.load("slurm", "--slurm", "submitit")
    finally:
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if own is not None:
            os.environ["SUBMITIT_LOG_LEVEL"] = own
    return submitit


def _parse(options: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for option in options.split(","):
        name, equals, value = option.partition("=")
        if not name or not equals or not value:
            raise UserError(f"--slurm {options}: found {option!r}, expected KEY=VALUE")
        parameters[name] = int(value) if value.isdecimal() else value
    return parameters


def _of_slurm(parameters: dict[str, Any]) -> dict[str, Any]:
    """Slurm's own parameters get the prefix by which submitit knows them."""
    common = {"nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min", "stderr_to_stdout"}
    return {name if name in common or "_" in name else f"slurm_{name}": value for name, value in parameters.items()}
