"""ShuffleNet V2 (Ma et al. 2018, arXiv 1807.11164) over features, with channel attention where ECA puts it in MobileNetV2."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.models import layers
from ser_jax.models.layers import Depthwise, Map, Mask, NormalizedPointwise
from ser_jax.models.output import Output

# Channels of the stem, of stages 2, 3 and 4, and of the last convolution (table 5 of the paper), and units per stage.
CHANNELS = {
    "tiny": (8, 8, 16, 24, 32),
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}
UNITS = {"tiny": (2, 2, 2)}
PAPER_UNITS = (4, 8, 4)

# What `build` accepts beyond the types.
CHOICES = {
    "width": tuple(CHANNELS),
    "attention": ("none", "eca", "se"),
    "attention_stages": (2, 3, 4),
    "attention_position": ("before_activation", "after_activation"),
    "activation": tuple(layers.ACTIVATIONS),
    "eca_kernel": (None, 1, 3, 5, 7, 9),
    "time_stride": (32, 16, 8),
    "stem_stride": (2, 1),
}


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 with hard-swish and channel attention as options; a masked mean over time and frequency before the classifier.

    Attributes:
        num_classes: number of emotions.
        width: the paper's width factor, 0.5, 1.0, 1.5 or 2.0; "tiny" is for tests.
        attention: "none", "eca" (Wang et al. 2020) or "se" (Hu et al. 2018), on the branch of every unit.
        attention_stages: the stages (of 2, 3, 4) that have it.
        attention_position: "before_activation": after the last pointwise convolution and its batch normalisation, where ECA has it in
            MobileNetV2; "after_activation": after the activation that follows.
        eca_kernel: channels that ECA's convolution sees; None: the paper's rule.
        activation: "relu" or "hard_swish".
        time_stride: frames per time step of the last map, at most: with 16, stage 4 keeps the time resolution, with 8, stages 3 and 4 do.
            The stride along the features is 16 times `stem_stride` always.
        stem_stride: stride of the first convolution, 2 (the paper's) or 1.
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
        stem_channels, *stage_channels, last_channels = CHANNELS[self.width]
        activate = layers.ACTIVATIONS[self.activation]
        gates = {}

        mask = Mask(num_frames, *features.shape[1:3])
        x = mask.apply(features if features.ndim == 4 else features[..., None])

        # The stem: a 3x3 convolution over what its nine taps see, in the phases that the max-pool takes its neighbours from.
        strides = (self.stem_stride, self.stem_stride)
        mask = mask.strided(strides)
        x = layers.phases(mask.apply(layers.patches(x, strides)))
        x = NormalizedPointwise(stem_channels, axis_name=self.axis_name, name="stem")(x, mask, train=train)
        x = layers.max_pool(jax.tree.map(activate, x), mask)
        mask = mask.strided((2, 2))
        time_stride = 2 * self.stem_stride

        for stage, channels, units in zip((2, 3, 4), stage_channels, UNITS.get(self.width, PAPER_UNITS), strict=True):
            strides = (2 if 2 * time_stride <= self.time_stride else 1, 2)
            time_stride *= strides[0]
            for unit in range(units):
                name = f"stage{stage}_unit{unit + 1}"
                x, mask, gate = Unit(
                    channels=channels,
                    strides=strides if unit == 0 else None,
                    activation=self.activation,
                    attention=self.attention if stage in self.attention_stages else "none",
                    attention_position=self.attention_position,
                    eca_kernel=self.eca_kernel,
                    axis_name=self.axis_name,
                    name=name,
                )(x, mask, train=train)
                if gate is not None:
                    gates[name] = gate

        x = NormalizedPointwise(last_channels, axis_name=self.axis_name, name="last")(x, mask, train=train)
        x = mask.apply(activate(x))
        x = mask.mean(x)
        if train and not (isinstance(self.dropout, float) and self.dropout == 0):
            x = layers.dropout(x, self.dropout, self.make_rng("dropout"))
        return Output(nn.Dense(self.num_classes, name="classifier")(x.astype(jnp.float32)), gates)


class Unit(nn.Module):
    """A unit of ShuffleNet V2 (figure 3, c and d): one half of the channels passes by, the other goes through the branch, then they are shuffled.

    With `strides`, the first unit of a stage: both halves see all channels, and time and frequency are thinned.
    """

    channels: int
    strides: tuple[int, int] | None
    activation: str
    attention: str
    attention_position: str
    eca_kernel: int | None
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Map, mask: Mask, *, train: bool) -> tuple[Map, Mask, Float[Array, "batch channels"] | None]:
        half = self.channels // 2
        activate = layers.ACTIVATIONS[self.activation]

        def pointwise(x: Map, mask: Mask, name: str, norm_input: bool) -> Map:
            return NormalizedPointwise(half, norm_input, self.axis_name, name=name)(x, mask, train=train)

        if self.strides:
            out_mask = mask.strided(self.strides)
            passing = Depthwise(self.strides, name="passing_depthwise")(x, mask)
            passing = activate(pointwise(passing, out_mask, "passing_pointwise", norm_input=True))
            passing = out_mask.apply(passing)
            branch = x
        else:
            out_mask = mask
            passing, branch = jnp.split(x, 2, axis=-1)

        branch = pointwise(branch, mask, "pointwise1", norm_input=False)
        branch = Depthwise(self.strides or (1, 1), name="depthwise")(branch, mask, activate)
        branch = pointwise(branch, out_mask, "pointwise2", norm_input=True)

        gate = None
        if self.attention_position == "after_activation":
            branch = activate(branch)
        branch = out_mask.apply(branch)
        if self.attention != "none":
            gate = self._gate(out_mask.mean(branch))
            branch = branch * gate[:, None, None]
        if self.attention_position == "before_activation":
            branch = activate(branch)
        return shuffle(passing, branch), out_mask, gate

    def _gate(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        if self.attention == "eca":
            return layers.EfficientChannelAttention(self.eca_kernel, name="eca")(means)
        return layers.SqueezeAndExcitation(name="se")(means)


def shuffle(passing: Map, branch: Map) -> Map:
    """The channel shuffle of two groups: channels of the two halves in turn."""
    return jnp.stack([passing, branch], -1).reshape(*passing.shape[:-1], -1)
