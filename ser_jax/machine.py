"""The machine: the cores and the memory that a process may use, often less than the host's, and the kind of a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_FIRST_VERSION = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


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


def capability(device: Any) -> int:
    """Returns the compute capability of a device of JAX: 8 of an NVIDIA A100, 9 of an H100; 0 of other makers'."""
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return int(major) if major.isdecimal() and minor.isdecimal() else 0


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
