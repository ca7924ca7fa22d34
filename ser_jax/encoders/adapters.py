"""An encoder in a training step, or its upper layers alone, and what of them is trained.

Their weights are never changed. What is trained is added to them: LoRA (Hu et al. 2022), or a difference for each
weight. Both are zero at first, so that a training begins with the encoder as it is, and weight decay draws back to it
(as L2-SP does, Li et al. 2018). All runs of a population share one copy of the weights.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ser_jax.encoders.architecture import Architecture
from ser_jax.encoders.layers import LOW_RANK, Frames, layer_options, run_stack
from ser_jax.encoders.wav2vec2 import relative_bias
from ser_jax.encoders.weights import make_module, parameter_shapes

ADAPTATIONS = ("frozen", "lora", "full")
STEMS = ("frozen", "projection", "full")
PROJECTIONS = ("query", "key", "value", "output", "feed_forward_in", "feed_forward_out")
COLLECTION = "encoder"  # the linen collection of weights that are not trained


class UpperLayers(nn.Module):
    """Successive layers of an encoder, with what is trained of them.

    Attributes:
        architecture: of the encoder.
        depth: how many layers.
        adapt: "frozen": nothing is trained; "lora": matrices of a low rank, added to `projections`; "full": all
            weights, as differences from the encoder's.
        rank, alpha: of LoRA; what it adds is scaled by alpha / rank.
        projections: some of `PROJECTIONS`.
    """

    architecture: Architecture
    depth: int
    adapt: Literal["frozen", "lora", "full"] = "frozen"
    rank: int = 8
    alpha: float = 16.0
    projections: tuple[str, ...] = ("query", "value")

    @nn.compact
    def __call__(
        self, x: Frames, num_frames: Int[Array, " batch"], tokens: Frames | None = None
    ) -> Float[Array, "depth batch _frames width"]:
        """What each layer returns, given the hidden state below the first of them; any values past the end.

        `tokens` is that state of the extra tokens, which an encoder that has some needs. The weights are those of
        `upper_weights`, in the collection "encoder". Computes in the dtype of `x`.
        """
        spec = self.architecture
        if (0 if tokens is None else tokens.shape[1]) != spec.extra_tokens:
            raise ValueError(f"the layers of {spec.family} are given no state of its {spec.extra_tokens} extra tokens")
        if tokens is not None:
            x = jnp.concatenate([tokens, x], axis=1)
        weights = self.variable(COLLECTION, "weights", _zeros, spec, self.depth).value
        layers, options = dict(weights["layers"]), {}
        if self.adapt == "lora":
            options = {"low_rank": self.projections, "rank": self.rank, "scale": self.alpha / self.rank}
            for name in self.projections:
                layers[f"{name}{LOW_RANK}"] = self.param(name, _low_rank, layers[name]["kernel"].shape, self.rank)
        elif self.adapt == "full":
            for name, own in weights["layers"].items():
                difference = self.param(name, lambda _, own=own: jax.tree.map(jnp.zeros_like, own))
                layers[name] = jax.tree.map(jnp.add, own, difference)
        relative = None
        if spec.relative != "none":
            relative = relative_bias(spec, jnp.asarray(weights["relative_positions"]), x.shape[1], x.dtype)
        stack = _Stack(self.depth, {**layer_options(spec), **options, "dtype": x.dtype}, parent=None)
        after = stack.apply({"params": {"layers": layers}}, x, num_frames + spec.extra_tokens, relative)
        return after[1:, :, spec.extra_tokens :]


class LowerLayers(nn.Module):
    """The first layers of an encoder, computed from waveforms, and what is trained before them.

    Attributes:
        architecture: of the encoder.
        depth: how many layers; 0: what the first one is given.
        states: so many hidden states are returned, the last of which is "layer `depth`".
        stem: what is trained of the part before the first layer, as differences from the encoder's weights: "frozen":
            nothing; "projection": all but the convolutions over time; "full": these too.
    """

    architecture: Architecture
    depth: int = 0
    states: int = 1
    stem: Literal["frozen", "projection", "full"] = "frozen"

    @nn.compact
    def __call__(
        self, waveform: Float[Array, "batch samples"], num_samples: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch frames states width"], Int[Array, " batch"], Frames]:
        """The states of each frame, zero past the end of each utterance; how many it has; the tokens' last state.

        Waveforms as `ser_jax.encoders.weights.make_module`'s modules take them; an utterance too short for a frame has
        none. The weights are those of `ser_jax.encoders.weights.truncate`, in the collection "encoder".
        """
        spec = self.architecture
        own = self.variable(COLLECTION, "weights", _zeros_below, spec, self.depth).value
        weights = dict(own)
        for name in stem_parts(spec, own) if self.stem != "frozen" else ():
            if self.stem == "full" or not name.startswith("conv"):
                difference = self.param(name, lambda _, part=own[name]: jax.tree.map(jnp.zeros_like, part))
                weights[name] = jax.tree.map(jnp.add, own[name], difference)
        module = make_module(spec, depth=self.depth, dtype=waveform.dtype, parent=None)
        found = module.apply({"params": weights}, waveform, num_samples)
        states = jnp.moveaxis(found.layers[-self.states :], 0, 2)
        return states, jnp.maximum(found.num_frames, 0), found.tokens[-1]


def stem_parts(architecture: Architecture, weights: Mapping[str, Any]) -> list[str]:
    """Returns the names of an encoder's weights that what the first layer is given depends on."""
    others = {"layers", "relative_positions", "final_norm"} | ({"norm"} if architecture.pre_norm else set())
    return [name for name in weights if name not in others]


def upper_weights(parameters: dict[str, Any], first: int, depth: int) -> dict[str, Any]:
    """Returns what of an encoder's parameters `depth` layers need that follow the first `first` ones."""
    kept = {name: value for name, value in parameters.items() if name == "relative_positions"}
    return kept | {"layers": jax.tree.map(lambda leaf: leaf[first : first + depth], parameters["layers"])}


class _Stack(nn.Module):
    """The layers alone; `options` are attributes of `Layer`."""

    depth: int
    options: Mapping[str, Any]

    @nn.compact
    def __call__(
        self,
        x: Frames,
        num_frames: Int[Array, " batch"],
        relative: Float[Array, "heads frames frames"] | None,
    ) -> Float[Array, "states batch frames width"]:
        return run_stack(x, num_frames, relative, depth=self.depth, remat=False, **self.options)


@functools.cache
def _shapes(architecture: Architecture, depth: int) -> dict[str, Any]:
    """Those of `upper_weights`."""
    shapes = parameter_shapes(architecture)
    layers = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((depth, *leaf.shape[1:]), leaf.dtype), shapes["layers"])
    return {name: leaf for name, leaf in shapes.items() if name == "relative_positions"} | {"layers": layers}


def _zeros(architecture: Architecture, depth: int) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(architecture, depth))


def _zeros_below(architecture: Architecture, depth: int) -> dict[str, Any]:
    kept = {name: leaf for name, leaf in parameter_shapes(architecture).items() if name not in ("final_norm", "layers")}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)
    return zeros | {"layers": _zeros(architecture, depth)["layers"]}


def _low_rank(key: Array, shape: tuple[int, int, int], rank: int) -> dict[str, Array]:
    """The two matrices of every layer for a projection of this shape [layers, in, out]."""
    depth, width_in, width_out = shape
    draw = nn.initializers.lecun_normal(batch_axis=0)
    return {"down_kernel": draw(key, (depth, width_in, rank)), "up_kernel": jnp.zeros((depth, rank, width_out))}
