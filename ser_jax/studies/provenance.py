"""Where figures come from: which process trained which seeds, with what software, on what machine."""

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import ser_jax
from ser_jax.studies.source_code import package_versions


def provenance(config: dict) -> dict[str, Any]:
    """Returns what this process is, for the seeds of a configuration that it trains.

    `seeds`; `versions` of the packages that compute, of Python and of ser_jax; `commit` of ser_jax where it lies in a
    git repository, with "+" where its files were changed since; `hardware`; `host`.
    """
    versions = {**package_versions(config), "python": platform.python_version()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["ser_jax"] = importlib.metadata.version("ser_jax")
    return {
        "seeds": list(config["seeds"]),
        "versions": versions,
        "commit": commit(Path(ser_jax.__file__).parent),
        "hardware": hardware(),
        "host": platform.node(),
    }


def hardware() -> dict[str, Any]:
    """Returns what this process computes on: `platform`, `device` by name, and how many `devices`."""
    devices = jax.devices()
    name = devices[0].device_kind
    if devices[0].platform == "cpu":
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"platform": devices[0].platform, "device": name, "devices": len(devices)}


@functools.cache
def commit(folder: Path) -> str | None:
    """Returns the commit that the code in a folder is of, with "+" where it was changed; None outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # ser_jax may be installed inside of another's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def of_result(result: dict) -> list[dict[str, Any]]:
    """Returns who trained the seeds of a result, one entry for each process; an older result knows less of it."""
    if "provenance" in result:
        return result["provenance"]
    versions = result.get("trained", {}).get("versions", {})
    known = {"versions": versions, "commit": None, "hardware": result.get("hardware"), "host": None}
    return [{"seeds": list(result.get("seeds", [])), **known}]


def of_seeds(entries: Sequence[dict], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the entries of some seeds, each with those of them that it has."""
    found = [{**entry, "seeds": [seed for seed in entry["seeds"] if seed in seeds]} for entry in entries]
    return [entry for entry in found if entry["seeds"]]


def differences(entries: Sequence[dict]) -> str:
    """Says which seeds were trained with which software and hardware, where they differ; else nothing."""
    known = [(_differing(entry, entries), entry["seeds"]) for entry in entries]
    if len({text for text, _ in known}) < 2:
        return ""
    return "; ".join(f"seeds {', '.join(map(str, seeds))}: {text}" for text, seeds in known)


def _differing(entry: dict, entries: Sequence[dict]) -> str:
    """What an entry says that not all say."""
    parts = []
    for name, version in sorted(entry["versions"].items()):
        if {other["versions"].get(name) for other in entries} != {version}:
            parts.append(f"{name} {version}")
    if any(other["commit"] != entry["commit"] for other in entries):
        parts.append(f"commit {(entry['commit'] or 'unknown')[:12]}")
    if any(other["hardware"] != entry["hardware"] for other in entries):
        machine = entry["hardware"] or {}
        parts.append(f"{machine.get('devices', '?')} x {machine.get('device', 'unknown')}")
    return ", ".join(parts)
