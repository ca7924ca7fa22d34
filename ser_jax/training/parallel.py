"""How runs are spread: `pmap` over devices of `vmap` over runs. Nothing else knows of devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def choose_devices(num_runs: int) -> list[jax.Device]:
    """Returns the devices that a population of `num_runs` runs uses: all, but no more than there are runs."""
    return jax.local_devices()[:num_runs]


def over_runs(
    function: Callable, devices: Sequence[jax.Device], *, per_run: int, shared: int, donate: int = 0
) -> Callable:
    """Spreads `function(*per_run arguments, *shared arguments)`; a per-run argument has the axes [devices, runs, ...].

    On an accelerator the runs of a device are one batched computation, since one small network leaves it idle; on a CPU
    they follow one another inside the program, which measured no slower and needs less memory. The first `donate`
    arguments give their memory to the results. Compiled when first called, or by `.lower(*arguments).compile()`.
    """

    def on_one_device(*arguments: Any) -> Any:
        own, common = arguments[:per_run], arguments[per_run:]
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda run: function(*run, *common), own)
        return jax.vmap(lambda *run: function(*run, *common))(*own)

    axes = (0,) * per_run + (None,) * shared
    return jax.pmap(on_one_device, in_axes=axes, devices=devices, donate_argnums=tuple(range(donate)))


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
