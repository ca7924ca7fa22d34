"""What a training changes (State), what differs between runs (Run) and what all runs of a program share (Learner)."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ser_jax.encoders.adapters import COLLECTION
from ser_jax.frontend import Frontend, Masking, Statistics, num_features
from ser_jax.frontend.augment import AUGMENTATIONS
from ser_jax.training.heads import Heads
from ser_jax.training.objectives import cross_entropy
from ser_jax.training.optimizers import Optimizer, make_optimizer

# A run's random streams: fold_in(run key, purpose), then fold_in(step).
INITIALISATION, CROP, AUGMENTATION, DROPOUT, MASKING = range(5)
_MOST_PACKED = 2**22  # parameters: of more, kernels are what a step spends least on


@flax.struct.dataclass
class Selection:
    """What the validations of a run have come to, where they decide something; see `ser_jax.training.selection`.

    Attributes:
      ua, step: the best unweighted accuracy so far, -1 before the first, and the step of it.
      waited: the number of validations since.
      stopped_at: the step at which the run was stopped, or -1.
      parameters, batch_stats: the averages that had the best.
    """

    ua: Any
    step: Any
    waited: Any
    stopped_at: Any
    parameters: Any
    batch_stats: Any


@flax.struct.dataclass
class State:
    """All that a training step changes; it is what a checkpoint holds. Under a population each array has leading axes.

    The fields' types are in the docstring alone: transformations put shapes and axes in the places of arrays.

    Attributes:
      step: the number of steps made.
      diverged_at: the step at which the loss or its gradient was not finite, or -1. The run is frozen from there on.
      parameters, ema_parameters: the linen collection "params", and its exponential moving average.
      batch_stats, ema_batch_stats: the linen collection "batch_stats", likewise; {} without batch normalisation.
      optimizer: the state of `Learner.optimizer`.
      feature_statistics: `Statistics` of the training fold, where the frontend normalises by them; never changes.
      selection: `Selection`, where validation decides which averages are kept or when a run stops.
    """

    step: Any
    diverged_at: Any
    parameters: Any
    batch_stats: Any
    optimizer: Any
    ema_parameters: Any
    ema_batch_stats: Any
    feature_statistics: Any
    selection: Any = None


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
      dimension_scaling: [2, dimensions], mean and deviation over the fold's training utterances, or None.
      teacher_share: of a teacher's probabilities in what is learnt; the rest is the label.
      rates: a scalar for each rate of the model that is not 0, as that of dropout, by its name.
      ema_decay: of the moving averages, where there are any.
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
    dimension_scaling: Any = None
    rates: Any = flax.struct.field(default_factory=dict)
    ema_decay: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Learner:
    """What is static in a training step.

    Attributes:
      model: the network.
      rates: the options of the model that are values of `Run.rates`, as that of dropout.
      optimizer: what a gradient does to the parameters.
      averages: whether parameters are averaged for evaluation, by `Run.ema_decay`.
      parameters, batch_stats: shapes and dtypes of one run's, trees of `jax.ShapeDtypeStruct`.
      attends: whether the model has any attention to look at.
      heads: the classifiers whose outputs the model has, or None: it has one.
      dimensions: the names of those that the last outputs of the model are; see `step.split_outputs`.
      loss: of the emotion, with the arguments and the result of `objectives.cross_entropy`.
      accumulate: the number of parts of a batch that the network sees one after another.
      axis_name: of the devices that share a batch, or None.
      selects: whether validation decides anything, see `Selection`.
      masking: how frames are masked for the model to predict, or None: none is.
      precision: a key of `ser_jax.training.precision.PRECISIONS`.
      augmentations: those that any run may use; the others leave no trace in the program.
    """

    model: nn.Module
    frontend: Frontend
    num_classes: int
    dimensions: tuple[str, ...]
    heads: Heads | None
    crop_samples: int
    optimizer: Optimizer
    averages: bool
    parameters: Any
    batch_stats: Any
    attends: bool
    loss: Callable
    accumulate: int
    axis_name: str | None
    masking: Masking | None
    selects: bool
    precision: str
    augmentations: frozenset[str]
    rates: tuple[str, ...]

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters of one run."""
        return _size(self.parameters)

    @property
    def packs(self) -> bool:
        """Whether parameters and what has their structure are vectors while steps are made; see `packing`."""
        alike = all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((self.parameters, self.batch_stats)))
        return alike and self.optimizer.elementwise and self.num_parameters <= _MOST_PACKED

    @property
    def num_kept(self) -> int:
        """How many numbers one run keeps on a device: its parameters, averages, the optimizer's own, the gradient.

        What is packed is there twice, since it cannot take the place of the trees that it is made of.
        """
        copies = 3 + self.selects  # themselves, the gradient, the moving average, and that which validation chose
        own = _size(jax.eval_shape(self.optimizer.transformation.init, self.parameters))
        return (copies + 2 * self.packs) * self.num_parameters + (1 + self.packs) * own


def _size(shapes: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def make_learner(
    model: nn.Module,
    frontend: Frontend,
    *,
    num_classes: int,
    crop_samples: int,
    num_steps: int,
    warmup_steps: int,
    optimizer: Mapping[str, Any],
    dimensions: tuple[str, ...] = (),
    heads: Heads | None = None,
    loss: Callable = cross_entropy,
    accumulate: int = 1,
    axis_name: str | None = None,
    masking: Masking | None = None,
    selects: bool = False,
    precision: str = "tf32",
    augmentations: frozenset[str] = AUGMENTATIONS,
    rates: Iterable[str] = (),
) -> Learner:
    """Builds a Learner; `optimizer` is the group `config.optimizer`, see `optimizers.make_optimizer`."""
    if axis_name and hasattr(model, "axis_name"):  # its batch normalisation is synchronised
        model = model.clone(axis_name=axis_name)
    output, shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *example(frontend), train=False))
    return Learner(
        model=model,
        frontend=frontend,
        num_classes=num_classes,
        dimensions=dimensions,
        heads=heads,
        crop_samples=crop_samples,
        optimizer=make_optimizer(optimizer, shapes["params"], num_steps=num_steps, warmup_steps=warmup_steps),
        averages=bool(optimizer["ema_decay"]),
        parameters=shapes["params"],
        batch_stats=shapes.get("batch_stats", {}),
        attends=bool(output.attention),
        loss=loss,
        accumulate=accumulate,
        axis_name=axis_name,
        masking=masking,
        selects=selects,
        precision=precision,
        augmentations=augmentations,
        rates=tuple(rates),
    )


def initialise(learner: Learner, key: Key[Array, ""], feature_statistics: Statistics | None) -> State:
    """Returns the state before the first step of one run; its parameters depend on nothing but the run's key."""
    variables = learner.model.init(jax.random.fold_in(key, INITIALISATION), *example(learner.frontend), train=False)
    parameters, batch_stats = variables["params"], variables.get("batch_stats", {})
    return State(
        step=jnp.zeros((), jnp.int32),
        diverged_at=jnp.full((), -1, jnp.int32),
        parameters=parameters,
        batch_stats=batch_stats,
        optimizer=learner.optimizer.transformation.init(parameters),
        ema_parameters=jax.tree.map(jnp.array, parameters),
        ema_batch_stats=jax.tree.map(jnp.array, batch_stats),
        feature_statistics=feature_statistics,
        selection=_no_selection(parameters, batch_stats) if learner.selects else None,
    )


def _no_selection(parameters: dict, batch_stats: dict) -> Selection:
    return Selection(
        ua=jnp.full((), -1, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        waited=jnp.zeros((), jnp.int32),
        stopped_at=jnp.full((), -1, jnp.int32),
        parameters=jax.tree.map(jnp.array, parameters),
        batch_stats=jax.tree.map(jnp.array, batch_stats),
    )


def for_evaluation(state: State) -> State:
    """Returns the part of a state that evaluation uses; the others are None."""
    return state.replace(parameters=None, batch_stats=None, optimizer=None, selection=None)


def variables(state: State, encoder: Any = None) -> dict:
    """Returns the linen variables that evaluation uses: the exponential moving averages.

    `encoder` is the collection of an encoder's weights, which are not trained; None where the model has none.
    """
    return {"params": state.ema_parameters, "batch_stats": state.ema_batch_stats, **frozen(encoder)}


def frozen(encoder: Any) -> dict:
    """Returns the linen variables that no training changes, by their collection."""
    return {} if encoder is None else {COLLECTION: encoder}


def example(frontend: Frontend) -> tuple[Array, Array]:
    """Returns an input of a model, to find the shapes of its parameters, which do not depend on its length."""
    frames = frontend.sample_rate // 5 if frontend.kind == "waveform" else 64
    return jnp.zeros((1, frames, num_features(frontend))), jnp.full((1,), frames, jnp.int32)
