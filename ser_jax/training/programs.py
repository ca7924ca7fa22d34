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
from ser_jax.training.packing import packed, unpacked
from ser_jax.training.precision import lacking_bfloat16, products_in
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
            advice="a smaller config.evaluation.batch_size or window_seconds",
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
            advice=_advice(learner),
        ),
        of_windows(evaluate_batch),
        of_windows(embed_batch),
    )


def _advice(learner: Learner) -> str:
    """What makes a training need less memory, as far as this one can have it."""
    found = "a smaller config.training.batch_size or crop_seconds, or a larger accumulate"
    halved = learner.precision == "bfloat16" or learner.frontend.kind == "waveform" or lacking_bfloat16() is not None
    return found if halved else f"{found}, or training.precision=bfloat16"


def steps_of_a_pass() -> int:
    """How many training steps a pass of the loop over steps has: a loop of known length within it.

    After each pass of a loop whose length is not known, a GPU waits until the host has asked whether there is another.
    """
    return 1 if jax.default_backend() == "cpu" else 4


def _train_steps(
    learner: Learner,
    over_runs: Callable,
    state: State,
    run: Run,
    rows: Array,
    count: Array,
    resident: Resident,
    encoder: Any,
) -> tuple[State, dict[str, Array]]:
    """Makes `count` training steps on the batches `rows[:count]`; the metrics are sums over them.

    The loop is one of `steps_of_a_pass` steps within one over passes; the last pass computes steps that do not count.
    """
    known = steps_of_a_pass()

    def begin(state: State, *_: Any) -> tuple[State, dict]:
        return packed(learner, state), {name: jnp.zeros(()) for name in metric_names(learner, resident)}

    def step(
        carry: tuple[State, dict], run: Run, rows: Array, place: tuple[Array, Array], resident: Resident, encoder: Any
    ) -> tuple[State, dict]:
        (state, sums), (i, count) = carry, place
        state, metrics = train_step(learner, state, run, rows[jnp.minimum(i, count - 1)], resident, encoder)
        made = state, jax.tree.map(jnp.add, sums, metrics)
        return made if known == 1 else jax.tree.map(functools.partial(jnp.where, i < count), made, carry)

    def end(carry: tuple[State, dict], *_: Any) -> tuple[State, dict]:
        state, sums = carry
        return unpacked(learner, state), sums

    def passed(first: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
        def one(i: Array, carry: tuple[State, dict]) -> tuple[State, dict]:
            return over_runs(step)(carry, run, rows, (first * known + i, count), resident, encoder)

        return jax.lax.fori_loop(0, known, one, carry)

    carry = over_runs(begin)(state, run, rows, count, resident, encoder)
    with products_in(learner.precision):
        carry = jax.lax.fori_loop(0, -(-count // known), passed, carry)
    return over_runs(end)(carry, run, rows, count, resident, encoder)


def _evaluate_windows(
    of_batch: Callable,
    learner: Learner,
    window_samples: int,
    batch_statistics: str,
    over_runs: Callable,
    state: State,
    starts: Int[Array, "*runs batches batch"],
    lengths: Int[Array, "*runs batches batch"],
    utterances: Int[Array, "*runs batches batch"],
    count: Array,
    resident: Resident,
    encoder: Any,
) -> tuple[Array, Array | None, Array | None]:
    """What `of_batch`, `evaluate_batch` or `embed_batch`, returns of the first `count` batches."""

    @jax.jit  # traced once for the shapes of what it returns and for the loop
    def batch(
        state: State, starts: Array, lengths: Array, utterances: Array, i: Array, resident: Resident, encoder: Any
    ) -> tuple[Array, Array | None, Array | None]:
        places = starts[i], lengths[i], utterances[i]
        return of_batch(learner, state, *places, resident, window_samples, batch_statistics, encoder)

    def nothing(state: State, starts: Array, *arguments: Any) -> tuple:
        shapes = jax.eval_shape(batch, state, starts, *arguments)
        return jax.tree.map(lambda part: jnp.zeros((len(starts), *part.shape), part.dtype), shapes)

    def one(
        carry: tuple[State, tuple], starts: Array, lengths: Array, utterances: Array, i: Array, *corpus: Any
    ) -> tuple:
        state, output = carry
        found = batch(state, starts, lengths, utterances, i, *corpus)
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), output, found)

    places = starts, lengths, utterances
    with products_in(learner.precision):
        zeros = over_runs(nothing)(state, *places, count, resident, encoder)
        return jax.lax.fori_loop(
            0, count, lambda i, output: over_runs(one)((state, output), *places, i, resident, encoder), zeros
        )
