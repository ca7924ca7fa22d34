"""The programs of a population, each compiled once for all its runs: first parameters, training, evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ser_jax.feeds.resident import Resident
from ser_jax.training import devices
from ser_jax.training.precision import products_in
from ser_jax.training.state import Learner, Run, State, initialise
from ser_jax.training.step import embed_batch, evaluate_batch, metric_names, train_step


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a population calls; see `make_programs`.

    Attributes:
      learner: what is static in them.
      initialise: (keys, feature statistics) -> state, [groups, runs per group, ...].
      train: (state, run values, rows, number of steps, corpus, encoder's weights or None) -> (state, metrics).
      evaluate: (state, starts, lengths, utterances, number of batches, corpus, encoder's weights or None) -> what
        `evaluate_batch` returns.
      embed: takes what `evaluate` does -> what `embed_batch` returns.
    """

    learner: Learner
    initialise: devices.HostProgram
    train: devices.Program
    evaluate: devices.Program
    embed: devices.Program


def make_programs(
    learner: Learner,
    layout: devices.Layout,
    feed: str,
    window_samples: int,
    batch_statistics: str,
    *,
    deterministic: bool = False,
) -> Programs:
    """Returns the programs of all populations with this learner; each is compiled when it is first called."""
    draw = jax.vmap(jax.vmap(functools.partial(initialise, learner)))
    # With little optimisation: it runs once, and some hundred small random draws take long to optimise.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    train = functools.partial(_train_steps, learner)
    corpus_lies = "shared" if feed == "resident" else "part"

    def of_windows(of_batch: Callable) -> devices.Program:
        return devices.on_devices(
            functools.partial(_evaluate_windows, of_batch, learner, window_samples, batch_statistics),
            layout.local,
            ("run", "part", "part", "part", "shared", corpus_lies, "shared"),
            "part",
            deterministic=deterministic,
            advice="expected a smaller config.evaluation.batch_size or window_seconds",
        )

    return Programs(
        learner,
        devices.on_host(draw, options),
        devices.on_devices(
            train,
            layout,
            ("run", "run", "part", "shared", corpus_lies, "shared"),
            "run",
            donate=1,
            deterministic=deterministic,
            advice="expected a smaller config.training.batch_size or crop_seconds, a larger accumulate, or "
            "precision=bfloat16",
        ),
        of_windows(evaluate_batch),
        of_windows(embed_batch),
    )


def _train_steps(
    learner: Learner, state: State, run: Run, rows: Array, count: Array, resident: Resident, encoder: Any
) -> tuple[State, dict[str, Array]]:
    """Makes `count` training steps on the batches `rows[:count]`; the metrics are sums over them."""

    def one(i: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
        state, sums = carry
        state, metrics = train_step(learner, state, run, rows[i], resident, encoder)
        return state, jax.tree.map(jnp.add, sums, metrics)

    zeros = {name: jnp.zeros(()) for name in metric_names(learner, resident)}
    with products_in(learner.precision):
        return jax.lax.fori_loop(0, count, one, (state, zeros))


def _evaluate_windows(
    of_batch: Callable,
    learner: Learner,
    window_samples: int,
    batch_statistics: str,
    state: State,
    starts: Int[Array, "batches batch"],
    lengths: Int[Array, "batches batch"],
    utterances: Int[Array, "batches batch"],
    count: Array,
    resident: Resident,
    encoder: Any,
) -> tuple[Array, Array | None, Array | None]:
    """What `of_batch`, `evaluate_batch` or `embed_batch`, returns of the first `count` batches."""

    def batch(i: Array) -> tuple[Array, Array | None, Array | None]:
        places = starts[i], lengths[i], utterances[i]
        return of_batch(learner, state, *places, resident, window_samples, batch_statistics, encoder)

    def one(i: Array, output: tuple) -> tuple:
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), output, batch(i))

    shapes = jax.eval_shape(batch, jnp.int32(0))
    zeros = jax.tree.map(lambda part: jnp.zeros((len(starts), *part.shape), part.dtype), shapes)
    with products_in(learner.precision):
        return jax.lax.fori_loop(0, count, one, zeros)
