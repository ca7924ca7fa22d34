"""How runs are spread: `pmap` over devices of `vmap` over runs. Nothing else knows of devices."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_SHARE = 0.9  # of a device's memory that one program may take


def choose_devices(num_runs: int) -> list[jax.Device]:
    """Returns the devices that a population of `num_runs` runs uses: all, but no more than there are runs."""
    return jax.local_devices()[:num_runs]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function over runs and devices, compiled once for arguments of the same shapes; made by `over_runs`.

    Memory decides how many runs it computes at once: where all of them take more than a device has, it is compiled for
    half as many, and so on, and called several times. A run's results do not depend on which others are beside it.
    """

    function: Callable
    per_run: int
    memory: int
    compiled: dict[Any, tuple[Callable, int]]

    def compile(self, *arguments: Any) -> tuple[Callable, int]:
        """Returns the executable for such arguments, and how many of a device's runs it takes at once."""
        shapes = str(jax.tree.map(jnp.shape, arguments))
        if shapes not in self.compiled:
            at_once = self._runs(arguments)
            while True:
                program = self.function.lower(*self._piece(arguments, 0, at_once)).compile()
                if at_once == 1 or _bytes_needed(program) <= self.memory:
                    break
                at_once = -(-at_once // 2)
            self.compiled[shapes] = program, at_once
        return self.compiled[shapes]

    def __call__(self, *arguments: Any) -> Any:
        """Computes the function for all runs."""
        program, at_once = self.compile(*arguments)
        runs = self._runs(arguments)
        if at_once == runs:
            return program(*arguments)
        pieces = []
        for first in range(0, runs, at_once):
            # The last piece begins earlier where the number does not divide; what was computed before is dropped.
            begin = min(first, runs - at_once)
            output = program(*self._piece(arguments, begin, at_once))
            pieces.append(jax.tree.map(lambda leaf, skip=first - begin: leaf[:, skip:], output))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *pieces)

    def _runs(self, arguments: Sequence[Any]) -> int:
        return jax.tree.leaves(arguments[0])[0].shape[1]

    def _piece(self, arguments: Sequence[Any], begin: int, size: int) -> tuple:
        if size == self._runs(arguments):
            return tuple(arguments)
        own = jax.tree.map(lambda leaf: leaf[:, begin : begin + size], tuple(arguments[: self.per_run]))
        return (*own, *arguments[self.per_run :])


def over_runs(
    function: Callable,
    devices: Sequence[jax.Device],
    *,
    per_run: int,
    shared: int,
    donate: int = 0,
    memory: int | None = None,
) -> Program:
    """Spreads `function(*per_run arguments, *shared arguments)`; a per-run argument has the axes [devices, runs, ...].

    On an accelerator the runs of a device are one batched computation, since one small network leaves it idle; on a CPU
    they follow one another inside the program, which measured no slower and needs less memory. The first `donate`
    arguments give their memory to the results. `memory` is what the program may take of each device, in bytes; None:
    nearly all that the device has.
    """

    def on_one_device(*arguments: Any) -> Any:
        own, common = arguments[:per_run], arguments[per_run:]
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda run: function(*run, *common), own)
        return jax.vmap(lambda *run: function(*run, *common))(*own)

    axes = (0,) * per_run + (None,) * shared
    mapped = jax.pmap(on_one_device, in_axes=axes, devices=devices, donate_argnums=tuple(range(donate)))
    return Program(mapped, per_run, _device_memory(devices) if memory is None else memory, {})


def _device_memory(devices: Sequence[jax.Device]) -> int:
    """The bytes that a program may take of each device."""
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:  # a CPU, whose devices share the machine's memory
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    return int(_SHARE * limit)


def _bytes_needed(program: Callable) -> int:
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def stack_runs(runs: Sequence[Any], num_devices: int) -> Any:
    """Stacks one pytree per run to arrays [devices, runs per device, ...]; see `spread`."""
    return jax.tree.map(lambda *leaves: spread(np.stack(leaves), num_devices), *runs)


def spread(array: np.ndarray, num_devices: int) -> np.ndarray:
    """Reshapes [runs, ...] to [devices, runs per device, ...], the last run repeated where it does not divide."""
    per_device = -(-len(array) // num_devices)
    missing = num_devices * per_device - len(array)
    padded = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
    return padded.reshape(num_devices, per_device, *array.shape[1:])


def gather(tree: Any, num_runs: int) -> Any:
    """Undoes `spread`: brings arrays [devices, runs per device, ...] to the host as [runs, ...]."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])[:num_runs], tree
    )


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy on every device, once, so that no call has to."""
    everywhere = NamedSharding(Mesh(np.asarray(devices), ("devices",)), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)
