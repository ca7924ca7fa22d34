"""Several processes that train one population together, each with its own devices: what all of them agree on.

The first process leads: it alone writes logs, predictions and reports. Alone, a process leads and agrees with itself.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ser_jax.errors import UserError

_HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as ended
# What collective operations say when a process on the other side is no more.
_ENDED = ("gloo", "nccl", "connection", "heartbeat", "unavailable", "peer")


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout: int) -> None:
    """Makes this process one of several; without arguments as the scheduler says (Slurm, Open MPI, TPU).

    `coordinator` is HOST:PORT of the first process. To be called before anything is computed. Where not all processes
    have come together after `timeout` seconds, this process ends with status 2 and says so: the runtime waits in a
    place that no exception reaches, and would end it without a word that a user understands.

    Raises `UserError` where the scheduler's environment says nothing, or arguments are missing.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise UserError(f"{', '.join(set(given) - set(missing))}: expected {', '.join(missing)} as well")
    who = "all processes" if missing else f"{num_processes} processes, this one number {process_id},"
    watch = threading.Timer(
        timeout, _end, (f"{who} did not come together at {coordinator or 'the coordinator'} within {timeout} s", 2)
    )
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout + 60,  # after our own
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if missing:
            raise UserError(
                "--distributed: found no environment of Slurm, Open MPI or a TPU; expected --coordinator "
                f"HOST:PORT, --num_processes and --process_id ({_first_line(error)})"
            ) from error
        raise UserError(f"--coordinator {coordinator}: {_first_line(error)}") from error
    finally:
        watch.cancel()


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Ends this process at once when the block fails, so that the others learn of it and no one waits for anyone.

    An error that is what remains of another process says that; any other is this process's own.
    """
    try:
        yield
    except KeyboardInterrupt:  # all have agreed on it
        raise
    except BaseException as error:
        if not several():
            raise
        if isinstance(error, UserError):
            _end(str(error), 2)
        if isinstance(error, Exception) and _tells_of_an_ended_process(error):
            _end(
                f"another process of this training has ended ({_first_line(error)}); the same command, given to all of "
                "them, goes on from the last checkpoint",
                1,
            )
        sys.excepthook(type(error), error, error.__traceback__)
        _end(f"process {jax.process_index()} of {jax.process_count()} failed, and the others with it", 1)


def _end(message: str, status: int) -> None:
    """Ends the process without the runtime's farewell, which would wait for the others."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def several() -> bool:
    """Whether this process trains with others."""
    return jax.process_count() > 1


def leads() -> bool:
    """Whether this process is the first."""
    return jax.process_index() == 0


def largest(*values: float | bool) -> tuple[float | bool, ...]:
    """Returns each value's maximum over all processes, which all must ask for."""
    if not several():
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.float32))
    return tuple(float(value) for value in gathered.max(axis=0))


def of_the_leader(value: int) -> int:
    """Returns what the first process gave; all must ask."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if several() else value


def array_of_the_leader(values: np.ndarray) -> np.ndarray:
    """Returns the array that the first process gave; all must ask, with arrays of the same shape."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values)) if several() else values


def require_same(values: Mapping[str, Any]) -> None:
    """Raises `UserError` in every process, where processes differ in any of these JSON values, naming the first."""
    if not several():
        return
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in values.items()}
    digests = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts.values()])
    gathered = multihost_utils.process_allgather(digests)
    for number, name in enumerate(texts):
        others = [p for p in range(len(gathered)) if (gathered[p, number] != gathered[0, number]).any()]
        if others:
            raise UserError(
                f"processes of one training differ in their {name}: {', '.join(map(str, others))} from the first; "
                "start all of them with the same command, on the same corpus"
            )


def _tells_of_an_ended_process(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in _ENDED)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
