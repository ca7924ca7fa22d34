"""How a population is distributed over devices: its runs, or every batch. Nothing else knows of that.

Runs are spread by `pmap` over devices of `vmap` over runs; nothing passes between devices. Where devices share the
batches, `pmap` gives each its part under the axis name `BATCH`, and the training step sums over it.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ser_jax import machine
from ser_jax.errors import UserError, is_out_of_memory, out_of_memory
from ser_jax.training.background import Once

BATCH = "batch"  # the axis of devices that share a batch
DETERMINISTIC = "xla_gpu_deterministic_ops"  # no operation that differs from run to run, no timing of algorithms
_SHARE = 0.9  # of a device's memory that one program may take
_IDLE_SHARE = 1 / 16  # of it: a single run that takes no more, twice over, leaves a GPU idle


def keep_programs() -> None:
    """Keeps compiled programs on disk, where neither the environment nor the process has said where they go.

    A process that asks for the same program later reads it, and does not compile it anew.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ser_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# How an argument or result lies: [groups, runs per group, ...], which devices that share batches all have alike;
# [devices, runs, ...], of which each device has its own; or one for all.
Kind = Literal["run", "part", "shared"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a population lies on the devices.

    Attributes:
      devices: those of every process, one process after another.
      shares_batch: each device has all runs and a part of every batch; else some of the runs, and whole batches.
    """

    devices: tuple[jax.Device, ...]
    shares_batch: bool = False

    @property
    def local(self) -> "Layout":
        """The same on the devices of this process alone."""
        return Layout(tuple(d for d in self.devices if d.process_index == jax.process_index()), self.shares_batch)

    @property
    def groups(self) -> int:
        """The size of a state's leading axis: the runs of one population in so many groups, each trained together."""
        return 1 if self.shares_batch else len(self.devices)

    @property
    def parts(self) -> int:
        """The number of parts that every batch is cut into."""
        return len(self.devices) if self.shares_batch else 1

    @property
    def own_parts(self) -> range:
        """Those parts of every batch that are this process's."""
        own = [part for part, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        return range(own[0], own[-1] + 1) if self.shares_batch else range(1)


def make_layout(num_runs: int, split: str, batch_size: int) -> Layout:
    """Returns how `num_runs` runs lie on all devices there are; `split` is a configuration's `training.split`.

    Raises `UserError` for a batch that cannot be cut into as many equal parts as there are devices.
    """
    # A process's own parts of a batch follow one another, however the machine numbers its devices.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if jax.process_count() > 1:
        if split == "runs":
            raise UserError(
                "config.training.split=runs: the processes of one training share every batch; to share the runs of a "
                "study out, start each process on its own with --shard I/N"
            )
        split = "batch"
    if split == "batch" and batch_size % len(devices):
        raise UserError(
            f"config.training.batch_size: {batch_size} does not divide by the {len(devices)} devices that share a batch"
        )
    if split == "auto":
        alone = num_runs == 1 and len(devices) > 1 and batch_size % len(devices) == 0
        split = "batch" if alone else "runs"
    if split == "batch":
        return Layout(tuple(devices), shares_batch=True)
    return Layout(tuple(devices[:num_runs]))


@dataclasses.dataclass(frozen=True)
class Program:
    """A function over runs and devices, compiled once for arguments of the same shapes; made by `on_devices`.

    Memory decides how many runs it computes at once: where all of them take more than a device has, it is compiled for
    as many as should fit, and called several times. A run's results do not depend on which others are beside it.
    Several processes always compute all at once.

    Attributes:
      function: of arguments as they lie.
      twice: the same, but it computes a single run twice over and drops the other; see `_copies`.
      advice: what makes it need less memory, as a message ends after "expected ".
    """

    function: Callable
    twice: Callable
    kinds: tuple[Kind, ...]
    devices: tuple[jax.Device, ...]
    memory: int | None
    deterministic: bool
    advice: str
    compiled: dict[Any, tuple[Callable, int]]
    made: Once

    def begin(self, *shapes: Any) -> None:
        """Compiles the program for arguments of these shapes, trees of `jax.ShapeDtypeStruct`, all runs at once.

        For a thread beside the one that will call it, which waits for what is begun.
        """
        runs = self._runs(shapes)
        self._made(shapes, runs, _copies(runs))

    def compile(self, *arguments: Any) -> tuple[Callable, int]:
        """Returns the executable for such arguments, and how many of a device's runs it takes at once."""
        if jax.process_count() > 1:  # what is compiled ahead would want arrays of all processes: `pmap` makes them
            return self.function, self._runs(arguments)
        shapes = shapes_of(arguments)
        if shapes not in self.compiled:
            at_once = self._runs(arguments)
            copies = _copies(at_once)
            memory = free_memory(self.devices, arguments) if self.memory is None else self.memory
            while True:
                program = self._made(arguments, at_once, copies)
                needed = _bytes_needed(program)
                if needed <= memory * (1 if copies == 1 else _IDLE_SHARE):
                    break
                if at_once == copies == 1:
                    self._refuse_what_cannot_fit(needed, memory)
                    break
                self.made.forget((shapes, at_once, copies))
                if copies == 1:
                    at_once = max(min(at_once - 1, int(at_once * memory / needed)), 1)
                copies = 1
            self.compiled[shapes] = program, at_once
        return self.compiled[shapes]

    def _made(self, arguments: Sequence[Any], at_once: int, copies: int) -> Callable:
        def make() -> Callable:
            function = self.function if copies == 1 else self.twice
            lowered = function.lower(*self._piece(arguments, 0, at_once))
            return lowered.compile(compiler_options=compiler_options(at_once * copies, self.deterministic))

        return self.made((shapes_of(arguments), at_once, copies), make)

    @contextlib.contextmanager
    def advising(self) -> Iterator[None]:
        """Turns a device's refusal of memory inside the block into a `UserError` that says what would help.

        For calls of the program and for what waits for their results, where a refusal may come too. `compile` has seen
        to it that there is enough, but not what other processes have of the device.
        """
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            advice = f"fewer runs (config.seeds, folds), {self.advice}"
            raise UserError(out_of_memory(error, self.devices[0].device_kind, advice=advice)) from error

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
            with jax.transfer_guard("allow"):  # where the runs are cut is sent to the devices
                piece = self._piece(arguments, begin, at_once)
            output = program(*piece)
            with jax.transfer_guard("allow"):
                pieces.append(jax.tree.map(lambda leaf, skip=first - begin: leaf[:, skip:], output))
        with jax.transfer_guard("allow"):
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *pieces)

    def _refuse_what_cannot_fit(self, needed: int, memory: int) -> None:
        """Refuses one run that takes more than all that a device has; less than that it may yet get."""
        if needed * _SHARE > memory:
            raise UserError(
                f"not enough memory on {self.devices[0].device_kind}: one run takes {needed / 2**30:.2g} GiB, "
                f"{memory / 2**30:.2g} GiB are free for it; expected {self.advice}"
            )

    def _runs(self, arguments: Sequence[Any]) -> int:
        return jax.tree.leaves(arguments[self.kinds.index("run")])[0].shape[1]

    def _piece(self, arguments: Sequence[Any], begin: int, size: int) -> tuple:
        if size == self._runs(arguments):
            return tuple(arguments)
        return tuple(
            argument if kind == "shared" else jax.tree.map(lambda leaf: leaf[:, begin : begin + size], argument)
            for kind, argument in zip(self.kinds, arguments, strict=True)
        )


def on_devices(
    function: Callable,
    layout: Layout,
    kinds: Sequence[Kind],
    result: Literal["run", "part"],
    *,
    donate: int = 0,
    memory: int | None = None,
    deterministic: bool = False,
    advice: str = "fewer at once",
) -> Program:
    """Spreads `function`, whose arguments and result lie as `kinds` and `result` say, over devices and their runs.

    `function(over_runs, *arguments)` has the arguments of all runs that are computed together, or of one. `over_runs`
    makes of a function of one run's arguments, of the same kinds, one of those: so a loop may stand outside of it,
    whose body is then traced once.

    On an accelerator the runs of a device are one batched computation, since one small network leaves it idle; on a CPU
    they follow one another inside the program, which measured no slower and needs less memory. The first `donate`
    arguments give their memory to the results. `memory` is what the program may take of each device, in bytes; None:
    nearly all that the device has free. `deterministic` is for `compiler_options`; `advice` ends the message where the
    memory does not suffice. A result of kind "run" must be the same on all devices that share a batch.
    """
    kinds = tuple(kinds)
    shared = [i for i, kind in enumerate(kinds) if kind == "shared"]
    everywhere = [i for i, kind in enumerate(kinds) if kind == "shared" or (kind == "run" and layout.shares_batch)]

    def on_one_device(twice: bool, *arguments: Any) -> Any:
        arguments = list(arguments)
        if layout.shares_batch:  # what all devices have alike keeps its first axis, of one group
            for i in set(everywhere) - set(shared):
                arguments[i] = jax.tree.map(lambda leaf: leaf[0], arguments[i])
        own = [argument for i, argument in enumerate(arguments) if i not in shared]

        def call(mapping: Callable, own: Sequence[Any]) -> Any:
            left = iter(own)
            return function(mapping, *(arguments[i] if i in shared else next(left) for i in range(len(kinds))))

        if twice:  # behind a barrier, so that the compiler does not see that they are alike
            own = jax.lax.optimization_barrier(jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), own))
        output = call(over_runs(kinds), own) if batches_runs() else jax.lax.map(functools.partial(call, alone), own)
        output = jax.tree.map(lambda leaf: leaf[:1], output) if twice else output
        alike = layout.shares_batch and result == "run"
        return jax.tree.map(lambda leaf: leaf[None], output) if alike else output

    once, twice = (
        jax.pmap(
            functools.partial(on_one_device, twice),
            axis_name=BATCH,
            in_axes=tuple(None if i in everywhere else 0 for i in range(len(kinds))),
            out_axes=None if layout.shares_batch and result == "run" else 0,
            devices=layout.devices,
            donate_argnums=tuple(range(donate)),
        )
        for twice in (False, True)
    )
    return Program(once, twice, kinds, layout.local.devices, memory, deterministic, advice, {}, Once())


def over_runs(kinds: Sequence[Kind]) -> Callable:
    """Returns what makes of a function of one run's arguments, of these kinds, one of several runs'."""
    return functools.partial(jax.vmap, in_axes=tuple(None if kind == "shared" else 0 for kind in kinds))


def alone(of_one: Callable) -> Callable:
    """Returns the function itself: `over_runs` where one run is computed."""
    return of_one


@dataclasses.dataclass(frozen=True)
class HostProgram:
    """A function that the processor computes, whatever devices there are; compiled once for arguments of the same
    shapes.
    """

    function: Callable
    made: Once

    def begin(self, *arguments: Any) -> Callable:
        """Returns the executable for such arguments; trees of `jax.ShapeDtypeStruct` will do."""

        def make() -> Callable:
            with jax.default_device(host()):
                return self.function.lower(*arguments).compile()

        return self.made(shapes_of(arguments), make)

    def shapes(self, *arguments: Any) -> Any:
        """Returns the shapes of its result; what is traced for them is not traced again to compile it."""
        with jax.default_device(host()):
            return jax.eval_shape(self.function, *arguments)

    def __call__(self, *arguments: Any) -> Any:
        """Computes the function."""
        return self.begin(*arguments)(*jax.device_put(arguments, host()))


def on_host(function: Callable, options: dict[str, Any]) -> HostProgram:
    """Returns `function` as a program of the processor's, compiled with these options of XLA's."""
    return HostProgram(jax.jit(function, compiler_options=options), Once())


def batches_runs() -> bool:
    """Whether the runs of a device are one batched computation; on a CPU they follow one another."""
    return jax.default_backend() != "cpu"


def compiles_ahead() -> bool:
    """Whether threads may compile programs before they are called: not those of several processes."""
    return jax.process_count() == 1


def compiles_beside() -> bool:
    """Whether threads compile programs while others run.

    Where the processor itself computes, it has nothing to spare for that.
    """
    return jax.default_backend() != "cpu" and compiles_ahead()


def shapes_of(tree: Any) -> str:
    """Returns what tells the arguments of one executable from those of another: their structure, shapes and dtypes."""
    return str(jax.tree.map(lambda leaf: (*leaf.shape, str(leaf.dtype)), tree))


def compiler_options(at_once: int = 2, deterministic: bool = False) -> dict[str, bool] | None:
    """How programs that compute `at_once` runs are compiled on these devices, where it is not as usual.

    Matrix products on a GPU by cuBLAS: XLA would write kernels of its own, each in dozens of ways, compile and time
    them all, and keep the fastest. A minute of that, for each variant, is several times what its training takes.
    """
    if jax.default_backend() != "gpu":
        return None
    # cuBLAS refused a product of a step that was not batched over runs (jax 0.11.2, H200).
    options = {"xla_gpu_enable_triton_gemm": False} if at_once > 1 else {}
    return options | ({DETERMINISTIC: True} if deterministic else {}) or None


def _copies(at_once: int) -> int:
    """How often a GPU computes each of `at_once` runs.

    A single one twice: so its products are batched, as those of several runs are, and cuBLAS takes them. It would wait
    a minute and more otherwise for XLA's own kernels to be tuned. That pays where the network is small.
    """
    return 2 if at_once == 1 and jax.default_backend() == "gpu" else 1


def forget_programs() -> None:
    """Lets go of what JAX keeps of every program that it compiled: some 20 MB of memory for each population."""
    jax.clear_caches()


def check_deterministic() -> None:
    """Raises `UserError` where `training.deterministic` cannot be kept to."""
    if (
        jax.process_count() > 1
        and jax.default_backend() == "gpu"
        and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "")
    ):
        raise UserError(
            "config.training.deterministic: several processes compile with the options of their environment alone; "
            f"expected XLA_FLAGS=--{DETERMINISTIC}=true in that of each"
        )


def host() -> jax.Device:
    """The CPU of this process, or its first device where JAX was told to leave the CPU alone."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def device_memory(devices: Sequence[jax.Device]) -> int:
    """Returns the bytes that programs may take of each of these devices of this process."""
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:  # a CPU, whose devices share the machine's memory
        limit = machine.memory() // len(devices)
    return int(_SHARE * limit)


def free_memory(devices: Sequence[jax.Device], arguments: Any = ()) -> int:
    """Returns the bytes of `device_memory` that nothing else holds: what is there is subtracted, but for `arguments`.

    A program's own arguments are counted with what it needs. CPUs do not tell what is in use.
    """
    device = devices[0]
    in_use = (device.memory_stats() or {}).get("bytes_in_use", 0)
    own = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(arguments)
        if isinstance(leaf, jax.Array) and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    return device_memory(devices) - max(in_use - own, 0)


def _bytes_needed(program: Callable) -> int:
    found = program.memory_analysis()
    results = found.output_size_in_bytes - found.alias_size_in_bytes  # others take the place of arguments
    return found.argument_size_in_bytes + results + found.temp_size_in_bytes


def stack_runs(runs: Sequence[Any], groups: int) -> Any:
    """Stacks one pytree per run to arrays [groups, runs per group, ...]; see `spread`."""
    return jax.tree.map(lambda *leaves: spread(np.stack(leaves), groups), *runs)


def spread(array: np.ndarray, groups: int) -> np.ndarray:
    """Reshapes [runs, ...] to [groups, runs per group, ...], the last run repeated where it does not divide."""
    per_group = -(-len(array) // groups)
    missing = groups * per_group - len(array)
    padded = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
    return padded.reshape(groups, per_group, *array.shape[1:])


def spread_parts(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Lays [parts, runs, ...], those parts of the batches that are this process's, as an argument of kind "part"."""
    return array if layout.shares_batch else spread(array[0], layout.groups)


def place_parts(array: np.ndarray, layout: Layout) -> np.ndarray | jax.Array:
    """What `spread_parts` gives, sent to the devices; only laid where they are several processes'."""
    laid = spread_parts(array, layout)
    if jax.process_count() > 1:  # an array of all processes' devices is made by `pmap` alone
        return laid
    return jax.device_put(laid, NamedSharding(Mesh(np.asarray(layout.devices), ("devices",)), PartitionSpec("devices")))


def place_runs(tree: Any, layout: Layout) -> Any:
    """Sends arrays [groups, runs per group, ...] to the devices, once, so that no call has to.

    Where the devices are several processes' it returns them as they are.
    """
    if jax.process_count() > 1:  # as above
        return tree
    spec = PartitionSpec() if layout.shares_batch else PartitionSpec("devices")
    where = NamedSharding(Mesh(np.asarray(layout.devices), ("devices",)), spec)
    return jax.tree.map(lambda leaf: jax.device_put(leaf, where), tree)


def gather(tree: Any, num_runs: int) -> Any:
    """Undoes `spread`: brings arrays [groups, runs per group, ...] to the host as [runs, ...]."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:])[:num_runs], tree
    )


def joined(trees: Sequence[Any], counts: Sequence[int], groups: int) -> Any:
    """Joins trees of `counts` runs each, [groups, runs per group, ...], along the run axis, on the host."""
    if len(trees) == 1:
        return trees[0]
    gathered = [gather(tree, count) for tree, count in zip(trees, counts, strict=True)]
    return jax.tree.map(lambda *leaves: spread(np.concatenate(leaves), groups), *gathered)


def part_of(tree: Any, runs: slice, num_runs: int, groups: int) -> Any:
    """Returns some of the runs of a tree [groups, runs per group, ...]: on the host, or as they lie if they are all."""
    if runs == slice(0, num_runs):
        return tree
    return jax.tree.map(lambda leaf: spread(leaf[runs], groups), gather(tree, num_runs))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy on every one of these devices of this process, once, so that no call has to."""
    everywhere = NamedSharding(Mesh(np.asarray(devices), ("devices",)), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)
