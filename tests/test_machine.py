import os
from types import SimpleNamespace

import pytest

from ser_jax import machine


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Writes limits of cgroups, and the path of this process's own."""
    root = tmp_path / "cgroup"
    monkeypatch.setattr(machine, "_CGROUPS", root)
    monkeypatch.setattr(machine, "_OWN", tmp_path / "own")

    def write(own, **limits):
        (tmp_path / "own").write_text(own + "\n")
        for path, value in limits.items():
            file = root / path.replace("__", "/").replace("_max", ".max")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
        return root

    return write


def test_memory_is_the_smallest_limit_of_the_process_s_cgroups(cgroups):
    root = cgroups("0::/job/step", job__memory_max="8000000", job__step__memory_max="max")
    assert machine.memory() == 8_000_000
    (root / "job/step/memory.max").write_text("6000000\n")
    assert machine.memory() == 6_000_000


def test_memory_is_the_machine_s_where_there_is_no_limit(cgroups):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory() == physical  # no cgroups at all
    cgroups("0::/", memory_max="max")
    assert machine.memory() == physical
    cgroups("0::/", memory_max=str(2**62))
    assert machine.memory() == physical


def test_the_first_version_of_cgroups_has_a_folder_for_each_controller(cgroups):
    root = cgroups("5:memory:/job")
    (root / "memory/job").mkdir(parents=True)
    (root / "memory/job/memory.limit_in_bytes").write_text("5000000\n")
    assert machine.memory() == 5_000_000


def test_cores_are_those_that_the_process_may_run_on(cgroups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    assert machine.cores() == 6
    root = cgroups("0::/job", job__cpu_max="200000 100000")
    assert machine.cores() == 2
    (root / "job/cpu.max").write_text("20000 100000\n")
    assert machine.cores() == 1
    (root / "job/cpu.max").write_text("max 100000\n")
    assert machine.cores() == 6
    root = cgroups("4:cpu,cpuacct:/job")  # of the first version
    folder = root / "cpu,cpuacct/job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("300000", 3), ("-1", 6)):
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert machine.cores() == cores


@pytest.mark.parametrize(
    ("found", "expected"), [("7.5", 7), ("9.0", 9), ("12.0", 12), ("gfx942", 0), ("", 0), (None, 0)]
)
def test_compute_capability_is_of_nvidia_s_devices(found, expected):
    device = SimpleNamespace() if found is None else SimpleNamespace(compute_capability=found)
    assert machine.capability(device) == expected
