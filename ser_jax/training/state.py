"""What a training changes (State), what differs between runs (Run) and what all runs of a program share (Learner).

Parameters, BatchNorm statistics and the optimizer's moments are one flat vector each. A network of this kind has some
170 small arrays; as vectors they make AdamW and EMA two loops instead of a thousand, which compiles and runs faster.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Key

from ser_jax.frontend import Frontend, Masking, Statistics, num_features
from ser_jax.training.heads import Heads

# A run's random streams: fold_in(run key, purpose), then fold_in(step).
INITIALISATION, CROP, AUGMENTATION, DROPOUT, MASKING = range(5)


@flax.struct.dataclass
class State:
    """All that a training step changes; it is what a checkpoint holds. Under a population each array has leading axes.

    The fields' types are in the docstring alone: transformations put shapes and axes in the places of arrays.

    Attributes:
      step: the number of steps made.
      parameters, ema_parameters: [parameters], and their exponential moving average.
      batch_stats, ema_batch_stats: [statistics] of batch normalisation, likewise.
      optimizer: the state of `Learner.gradients`.
      feature_statistics: `Statistics` of the training fold, where the frontend normalises by them; never changes.
    """

    step: Any
    parameters: Any
    batch_stats: Any
    optimizer: Any
    ema_parameters: Any
    ema_batch_stats: Any
    feature_statistics: Any


@flax.struct.dataclass
class Run:
    """What distinguishes a run from its neighbours in a program, as arrays, so that a sweep compiles once.

    Attributes:
      key: from which all of the run's random draws come.
      learning_rate, weight_decay, label_smoothing: scalars.
      class_weights: [classes].
      loss_weights: a scalar for each loss, by its name.
      strengths: `Strengths` of the augmentation.
      fold: the place of its fold among those of its population.
      teacher_share: of a teacher's probabilities in what is learnt; the rest is the label.
    """

    key: Any
    learning_rate: Any
    weight_decay: Any
    label_smoothing: Any
    class_weights: Any
    loss_weights: Any
    strengths: Any
    fold: Any = 0
    teacher_share: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Learner:
    """What is static in a training step.

    Attributes:
      schedule: step -> share of the peak learning rate.
      gradients: the gradient transformation before learning rate and weight decay.
      decays: 1 for each entry of the parameter vector that weight decay pulls to zero (kernels), else 0.
      heads: the classifiers whose outputs the model has, or None: it has one.
      accumulate: the number of parts of a batch that the network sees one after another.
      axis_name: of the devices that share a batch, or None.
      masking: how frames are hidden for the model to tell them, or None: it is shown all.
      unravel_parameters, unravel_batch_stats: flat vector -> the linen collections "params" and "batch_stats".
    """

    model: nn.Module
    frontend: Frontend
    num_classes: int
    heads: Heads | None
    crop_samples: int
    schedule: optax.Schedule
    gradients: optax.GradientTransformation
    ema_decay: float
    decays: np.ndarray
    accumulate: int
    axis_name: str | None
    masking: Masking | None
    unravel_parameters: Callable[[Array], Any]
    unravel_batch_stats: Callable[[Array], Any]

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters of one run."""
        return self.decays.size


def make_learner(
    model: nn.Module,
    frontend: Frontend,
    *,
    num_classes: int,
    crop_samples: int,
    num_steps: int,
    warmup_steps: int,
    gradient_clip: float,
    ema_decay: float,
    heads: Heads | None = None,
    accumulate: int = 1,
    axis_name: str | None = None,
    masking: Masking | None = None,
) -> Learner:
    """Builds a Learner; the gradient's global norm is clipped at `gradient_clip`."""
    if axis_name and hasattr(model, "axis_name"):  # its batch normalisation is synchronised
        model = model.clone(axis_name=axis_name)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *_example(frontend), train=False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))
    parameters = zeros["params"]
    _, unravel_parameters = ravel_pytree(parameters)
    _, unravel_batch_stats = ravel_pytree(zeros.get("batch_stats", {}))
    # Gains, biases and normalisation parameters (vectors) are not decayed, as is usual (Loshchilov and Hutter 2019).
    decays = np.concatenate([np.full(leaf.size, leaf.ndim > 1, np.float32) for leaf in jax.tree.leaves(parameters)])
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0, peak_value=1.0, warmup_steps=warmup_steps, decay_steps=num_steps, end_value=0.0
    )
    return Learner(
        model=model,
        frontend=frontend,
        num_classes=num_classes,
        heads=heads,
        crop_samples=crop_samples,
        schedule=schedule,
        gradients=optax.chain(optax.clip_by_global_norm(gradient_clip), optax.scale_by_adam(b1=0.9, b2=0.999)),
        ema_decay=ema_decay,
        decays=decays,
        accumulate=accumulate,
        axis_name=axis_name,
        masking=masking,
        unravel_parameters=unravel_parameters,
        unravel_batch_stats=unravel_batch_stats,
    )


def initialise(learner: Learner, key: Key[Array, ""], feature_statistics: Statistics | None) -> State:
    """Returns the state before the first step of one run; its parameters depend on nothing but the run's key."""
    variables = learner.model.init(jax.random.fold_in(key, INITIALISATION), *_example(learner.frontend), train=False)
    parameters, _ = ravel_pytree(variables["params"])
    batch_stats, _ = ravel_pytree(variables.get("batch_stats", {}))
    return State(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        batch_stats=batch_stats,
        optimizer=learner.gradients.init(parameters),
        ema_parameters=jnp.array(parameters),
        ema_batch_stats=jnp.array(batch_stats),
        feature_statistics=feature_statistics,
    )


def variables(learner: Learner, state: State) -> dict:
    """Returns the linen variables that evaluation uses: the exponential moving averages."""
    return {
        "params": learner.unravel_parameters(state.ema_parameters),
        "batch_stats": learner.unravel_batch_stats(state.ema_batch_stats),
    }


def _example(frontend: Frontend) -> tuple[Array, Array]:
    return jnp.zeros((1, 64, num_features(frontend))), jnp.full((1,), 64, jnp.int32)
