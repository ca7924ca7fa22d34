"""The cores and the memory that this process may use: the container's or the job's, often less than the host's."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_DEVICES = Path("/dev")
_FIRST_VERSION = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_ACCELERATORS = ("nvidiactl", "kfd", "accel0", "vfio/0")  # NVIDIA's, AMD's and Google's, in /dev
# Of glibc's malloc.h: blocks of up to 1 GiB come from the heap, whose free end stays up to 2 GiB. There is one heap:
# those of threads hold no block above 64 MiB.
_MALLOC_OPTIONS = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, (1 << 31) - 1), "M_ARENA_MAX": (-8, 1)}


def cores() -> int:
    """Returns the number of cores: those that the process may run on, and no more than its cgroup's share of time."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        count = os.cpu_count() or 1
    limits = [*_limits("cpu.max")]  # of cgroups version 2, then 1
    limits += [(*quota, *period) for quota, period in zip(*map(_limits, _FIRST_VERSION), strict=True)]
    quotas = [int(quota) / int(period) for quota, period in limits if quota not in ("max", "-1")]
    return max(min([count, *map(round, quotas)]), 1)


def memory() -> int:
    """Returns the bytes of memory: the machine's, or the smallest limit of the process's cgroups."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory.limit_in_bytes"):  # of cgroups version 2 and 1
        found += [int(limit) for (limit,) in _limits(name) if limit != "max"]
    return min(found)


def keep_freed_memory() -> None:
    """Lets this process use freed memory again, instead of giving it back to the system, where it computes on a CPU.

    XLA allocates what a step needs at every step. By default glibc takes large blocks from the system each time, which
    fills them with zeros, page by page: a quarter of a training step. Where an accelerator computes, where the user has
    set up malloc, or with another C library than glibc, nothing changes.
    """
    set_up = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or set_up:
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version") and not any((_DEVICES / name).exists() for name in _ACCELERATORS):
        for option in _MALLOC_OPTIONS.values():
            library.mallopt(*option)


def _limits(name: str) -> Iterator[list[str]]:
    """The values of a limit in the process's cgroup and in all that hold it; none where there are no cgroups."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        own = _CGROUPS / controllers.removeprefix("name=") / path.lstrip("/")
        # In a container the path may be the host's, which is not there; the limit is then in the root.
        for folder in (own, *own.parents):
            if not folder.is_relative_to(_CGROUPS):
                break
            try:
                values = (folder / name).read_text().split()
            except OSError:
                continue
            if values:
                yield values
