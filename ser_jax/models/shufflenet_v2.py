"""ShuffleNet V2 (Ma et al. 2018, arXiv 1807.11164) over features, with channel attention in the branch of its units."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import layers, ops, pooling
from ser_jax.models.channel_attention import channel_attention
from ser_jax.models.family import COUNT, RATE, Family, Range
from ser_jax.models.layers import Depthwise, NormalizedConvolution, NormalizedPointwise
from ser_jax.models.mask import Map, Mask
from ser_jax.models.output import Attention, Output
from ser_jax.models.reconstruction import reconstructed

# Channels of the stem, stages 2, 3 and 4, and the last convolution (table 5 of the paper), and units of each stage.
CHANNELS = {
    "tiny": (8, 8, 16, 24, 32),
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}
UNITS = {"tiny": (2, 2, 2), 0.5: (4, 8, 4), 1.0: (4, 8, 4), 1.5: (4, 8, 4), 2.0: (4, 8, 4)}


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 with a masked mean over frequency, and a pooling over time, before the classifier.

    Attributes:
        num_classes: number of emotions.
        width: the paper's width factor, 0.5, 1.0, 1.5 or 2.0; "tiny" is for tests.
        attention: "none", "eca" (Wang et al. 2020) or "se" (Hu et al. 2018), on the branch of a unit.
        attention_stages: the stages (of 2, 3, 4) whose units have it.
        attention_position: "before_activation": after the last pointwise convolution and its batch normalisation,
            where ECA has it in MobileNetV2; "after_activation": after the activation that follows.
        eca_kernel: channels that ECA's convolution sees; None: the paper's rule.
        activation: "relu" or "hard_swish".
        time_stride: frames per time step of the last map, at most 32 (16 with `stem_stride` 1): with 16, stage 4 keeps
            the time resolution, with 8, stages 3 and 4 do. The stride along the features stays 16 times `stem_stride`.
        stem_stride: stride of the first convolution, 2 (the paper's) or 1.
        pooling: over time, one of `ser_jax.models.pooling.KINDS` but "last".
        heads: of the poolings that have heads.
        reconstruction: features of every frame of the input to reconstruct in training; 0: none.
        dropout: rate before the classifier; may be a traced scalar (`model.clone(dropout=rate)`).
        axis_name: axis of devices along which batch normalisation is synchronised.
    """

    num_classes: int
    width: float | Literal["tiny"] = 0.5
    attention: Literal["none", "eca", "se"] = "none"
    attention_stages: tuple[int, ...] = (2, 3, 4)
    attention_position: Literal["before_activation", "after_activation"] = "before_activation"
    eca_kernel: int | None = None
    activation: Literal["relu", "hard_swish"] = "relu"
    time_stride: Literal[32, 16, 8] = 32
    stem_stride: Literal[2, 1] = 2
    pooling: str = "mean"
    heads: int = 4
    reconstruction: int = 0
    dropout: float | Float[Array, ""] = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch frames features *input_channels"],
        num_frames: Int[Array, " batch"],
        *,
        train: bool,
    ) -> Output:
        """Logits, the gates [batch, channels] of each unit with attention, by its name ("stage2_unit1"), and the
        weights of the pooling over time.

        Computes in the dtype of the features; what lies past an utterance's `num_frames` does not matter.
        """
        stem_channels, *stage_channels, last_channels = CHANNELS[self.width]
        act = layers.ACTIVATIONS[self.activation]

        mask = Mask(num_frames, *features.shape[1:3])
        x = mask.apply(features if features.ndim == 4 else features[..., None])
        strides = (self.stem_stride, self.stem_stride)
        mask = mask.strided(strides)
        stem = NormalizedConvolution(stem_channels, strides=strides, axis_name=self.axis_name, name="stem")
        x, mask = ops.max_pool(act(stem(x, mask, train=train)), mask, (3, 3), (2, 2))

        attention = {}
        time_stride = 2 * self.stem_stride
        for stage, channels, units in zip((2, 3, 4), stage_channels, UNITS[self.width], strict=True):
            strides = (2 if 2 * time_stride <= self.time_stride else 1, 2)
            time_stride *= strides[0]
            unit = functools.partial(
                Unit,
                channels=channels,
                activation=self.activation,
                attention=self.attention if stage in self.attention_stages else "none",
                attention_position=self.attention_position,
                eca_kernel=self.eca_kernel,
                axis_name=self.axis_name,
            )
            names = [f"stage{stage}_unit{number}" for number in range(1, units + 1)]
            halves, mask, first_gates = unit(strides=strides, name=names[0])(x, x, mask, train=train)
            halves, other_gates = self._equal_units(
                functools.partial(unit, strides=None), names[1:], halves, mask, train
            )
            if first_gates is not None:
                for name, gates in zip(names, [first_gates, *other_gates], strict=True):
                    attention[name] = Attention(gates, ("batch", "channels"))
            x = jnp.concatenate(halves, -1)

        last = NormalizedPointwise(last_channels, axis_name=self.axis_name, name="last")
        x = mask.apply(act(last(x, mask, train=train)))
        reconstruction = reconstructed(self, x, features.shape[1], stride=time_stride, train=train)
        if self.pooling == "mean":
            x = mask.mean(x)
        else:
            pool = pooling.Pooling(self.pooling, self.heads, name="pool")
            x, weights = pool(jnp.mean(x, 2), mask.lengths)
            if weights is not None:
                attention["pooling"] = pooling.of_frames(weights, time_stride)
        if train and layers.is_on(self.dropout):
            x = layers.dropout(x, self.dropout, self.make_rng("dropout"))
        logits = nn.Dense(self.num_classes, name="classifier")(x.astype(jnp.float32))
        return Output(logits, attention, reconstruction=reconstruction)

    def _equal_units(
        self, unit: Callable[..., "Unit"], names: list[str], halves: tuple[Map, Map], mask: Mask, train: bool
    ) -> tuple[tuple[Map, Map], list[Array | None]]:
        """The halves after units of one shape that follow one another, and the gates of each.

        They are traced once. On a CPU they are one loop over their variables, which takes a third of the time to
        compile. On an accelerator a loop would write to memory, and read again, all that the gradient has to know of
        each unit: half of a step's kernels and more than half of its bytes.
        """
        if self.is_initializing():
            gates = []
            for name in names:
                halves, mask, found = unit(name=name)(*halves, mask, train=train)
                gates.append(found)
            return halves, gates
        of_units = [{kind: self.variables[kind][name] for kind in ("params", "batch_stats")} for name in names]
        alone = unit(parent=None)

        @jax.jit
        def one(halves: tuple[Map, Map], variables: dict) -> tuple[tuple[Map, Map], tuple]:
            (halves, _, gates), updates = alone.apply(variables, *halves, mask, train=train, mutable=["batch_stats"])
            return halves, (gates, updates["batch_stats"])

        if jax.default_backend() == "cpu":
            halves, stacked = jax.lax.scan(one, halves, jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_units))
            found = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(names))]
        else:
            found = []
            for variables in of_units:
                halves, made = one(halves, variables)
                found.append(made)
        if self.is_mutable_collection("batch_stats"):
            for name, (_, statistics) in zip(names, found, strict=True):
                self.put_variable("batch_stats", name, statistics)
        return halves, [gates for gates, _ in found]


class Unit(nn.Module):
    """A unit of ShuffleNet V2 (figure 3, c and d): half the channels pass by, half take the branch; both are shuffled.

    With `strides`, the first unit of a stage: both halves are all channels, and time and frequency are thinned.
    """

    channels: int
    strides: tuple[int, int] | None
    activation: str
    attention: str
    attention_position: str
    eca_kernel: int | None
    axis_name: str | None

    @nn.compact
    def __call__(
        self, passing: Map, branch: Map, mask: Mask, *, train: bool
    ) -> tuple[tuple[Map, Map], Mask, Float[Array, "batch half_channels"] | None]:
        """The two halves for the next unit, their mask, and the gates of the attention if there is one."""
        act = layers.ACTIVATIONS[self.activation]
        strides = self.strides or (1, 1)
        out_mask = mask.strided(strides)

        def pointwise(name: str, x: Map, mask: Mask, *, norm_input: bool) -> Map:
            layer = NormalizedPointwise(self.channels // 2, norm_input, self.axis_name, name=name)
            return layer(x, mask, train=train)

        if self.strides:
            passing = out_mask.apply(Depthwise(strides, name="passing_depthwise")(passing))
            passing = out_mask.apply(act(pointwise("passing_pointwise", passing, out_mask, norm_input=True)))

        branch = mask.apply(act(pointwise("pointwise1", branch, mask, norm_input=False)))
        branch = out_mask.apply(Depthwise(strides, name="depthwise")(branch))
        branch = pointwise("pointwise2", branch, out_mask, norm_input=True)

        if self.attention == "none":
            return shuffle(passing, out_mask.apply(act(branch))), out_mask, None
        attention = channel_attention(self.attention, self.eca_kernel, name=self.attention)
        if self.attention_position == "before_activation":
            gates = attention(out_mask.mean(branch))
            branch = out_mask.apply(act(branch * gates[:, None, None]))
        else:
            branch = out_mask.apply(act(branch))
            gates = attention(out_mask.mean(branch))
            branch = branch * gates[:, None, None]
        return shuffle(passing, branch), out_mask, gates


def shuffle(passing: Map, branch: Map) -> tuple[Map, Map]:
    """The two halves of the shuffled channels, which are channels of `passing` and `branch` in turn.

    The first half of them comes from the first halves of both, so neither the whole nor a slice of it need be written
    to memory.
    """

    def in_turn(a: Map, b: Map) -> Map:
        return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)

    (passing1, passing2), (branch1, branch2) = jnp.split(passing, 2, -1), jnp.split(branch, 2, -1)
    return in_turn(passing1, branch1), in_turn(passing2, branch2)


FAMILY = Family(
    module=ShuffleNetV2,
    summary="ShuffleNet V2 with channel attention",
    choices={
        "width": tuple(CHANNELS),
        "attention": ("none", "eca", "se"),
        "attention_stages": (2, 3, 4),
        "attention_position": ("before_activation", "after_activation"),
        "activation": tuple(layers.ACTIVATIONS),
        "eca_kernel": (None, 1, 3, 5, 7, 9),
        "time_stride": (32, 16, 8),
        "stem_stride": (2, 1),
        "pooling": pooling.OVER_TIME,
        "heads": COUNT,
        "reconstruction": Range(0),
        "dropout": RATE,
    },
    switches={"attention": ("none", "eca", "se"), "pooling": pooling.OVER_TIME},
    rates=("dropout",),
    tiny={"width": "tiny", "attention": "eca"},
    check=lambda model: pooling.check_heads(model.pooling, model.heads, CHANNELS[model.width][-1]),
    batch_normalisation=True,
)
