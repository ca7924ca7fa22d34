"""Layers that padding cannot touch.

All of them work on maps of shape [batch, time, frequency, channels] that come with a `Mask`: which time steps of which utterance
are real. One rule keeps padding out of every result: **a map is zero wherever its utterance has ended**. A convolution then reads
zeros beyond the end, exactly as at a true border, and a sum over the map is a sum over its real cells.

Everything computes in the dtype of the map; parameters and statistics stay float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Self

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Map = Float[Array, "batch time frequency channels"]
Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {"relu": jax.nn.relu, "hard_swish": jax.nn.hard_swish}


@flax.struct.dataclass
class Mask:
    """The real cells of a batch of maps.

    Attributes:
        lengths: number of real time steps of each utterance.
        num_steps: time steps of the map, real and padded.
        num_bands: frequency bands of the map, all real.
    """

    lengths: Int[Array, " batch"]
    num_steps: int = flax.struct.field(pytree_node=False)
    num_bands: int = flax.struct.field(pytree_node=False)

    def strided(self, strides: tuple[int, int]) -> Self:
        """The mask of what a 3x3 layer with `strides` and one cell of border on every side makes of the map."""
        # The barrier keeps XLA from computing the lengths again inside every loop that is masked.
        lengths = jax.lax.optimization_barrier(jax.lax.div(self.lengths + strides[0] - 1, strides[0]))
        return Mask(lengths, _thinned(self.num_steps, strides[0]), _thinned(self.num_bands, strides[1]))

    @property
    def real(self) -> Bool[Array, "batch time 1 1"]:
        """True where a time step is real."""
        return jnp.arange(self.num_steps)[None, :, None, None] < self.lengths[:, None, None, None]

    def apply(self, x: Map) -> Map:
        """Zero the padding of a map."""
        return jnp.where(self.real, x, jnp.zeros((), x.dtype))

    def mean(self, x: Map) -> Float[Array, "batch channels"]:
        """Mean of each channel over an utterance's real cells (zero for an utterance without any); x is zero in its padding."""
        num_cells = jnp.maximum(self.lengths, 1)[:, None] * self.num_bands
        return (jnp.sum(x, (1, 2), dtype=jnp.float32) / num_cells).astype(x.dtype)


# Convolutions -----------------------------------------------------------------------------------------------------------------------


def _border(x: Map, strides: tuple[int, int], fill: float = 0.0) -> Map:
    """The map within a border, wide enough for `_seen_by_tap`. The barrier keeps XLA from testing for the border at every use."""
    return jax.lax.optimization_barrier(
        jnp.pad(x, ((0, 0), (1, strides[0]), (1, strides[1]), (0, 0)), constant_values=fill)
    )


def _thinned(size: int, stride: int) -> int:
    return -(-size // stride)


def patches(x: Map, strides: tuple[int, int]) -> Float[Array, "batch time frequency nine_times_channels"]:
    """What a 3x3 convolution sees at each of its positions, within a border of one zero."""
    steps, bands = _thinned(x.shape[1], strides[0]), _thinned(x.shape[2], strides[1])
    bordered = _border(x, strides)
    return jnp.concatenate(
        [
            bordered[:, t : t + strides[0] * steps : strides[0], f : f + strides[1] * bands : strides[1]]
            for t in range(3)
            for f in range(3)
        ],
        -1,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_convolution(x: Map, kernel: Float[Array, "3 3 channels"], strides: tuple[int, int]) -> Map:
    """A 3x3 convolution of each channel with itself, within a border of one zero, as nine shifted multiply-adds.

    A convolution with feature groups is several times slower on CPUs, and slower still where runs are vmapped over their kernels.
    """
    steps, bands = _thinned(x.shape[1], strides[0]), _thinned(x.shape[2], strides[1])
    bordered = _border(x, strides)
    kernel = kernel.astype(x.dtype)
    return sum(
        bordered[:, t : t + strides[0] * steps : strides[0], f : f + strides[1] * bands : strides[1]] * kernel[None, None, t, f]
        for t in range(3)
        for f in range(3)
    )


def _depthwise_forward(x: Map, kernel: Array, strides: tuple[int, int]) -> tuple[Map, tuple[Map, Array]]:
    return depthwise_convolution(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides: tuple[int, int], saved: tuple[Map, Array], gradient: Map) -> tuple[Map, Array]:
    x, kernel = saved
    return _depthwise_input_gradient(x, kernel, strides, gradient), _depthwise_kernel_gradient(x, kernel, strides, gradient)


def _depthwise_input_gradient(x: Map, kernel: Array, strides: tuple[int, int], gradient: Map) -> Map:
    """Each cell collects from the outputs whose windows hold it; cells of one phase of the stride share their taps."""
    steps, bands = gradient.shape[1:3]
    bordered = _border(gradient, (1, 1))
    kernel = kernel.astype(x.dtype)
    phases = [
        sum(
            bordered[:, 1 + t_shift : 1 + t_shift + steps, 1 + f_shift : 1 + f_shift + bands] * kernel[None, None, t, f]
            for t, t_shift in _collecting_taps(t_phase, strides[0])
            for f, f_shift in _collecting_taps(f_phase, strides[1])
        )
        for t_phase in range(strides[0])
        for f_phase in range(strides[1])
    ]
    if len(phases) == 1:
        return phases[0]
    batch, _, _, channels = x.shape
    interleaved = jnp.stack(phases, 3).reshape(batch, steps, bands, *strides, channels).transpose(0, 1, 3, 2, 4, 5)
    return interleaved.reshape(batch, steps * strides[0], bands * strides[1], channels)[:, : x.shape[1], : x.shape[2]]


def _collecting_taps(phase: int, stride: int) -> list[tuple[int, int]]:
    """(tap, shift): input `stride * i + phase` is seen through `tap` by output `i + shift`."""
    return [(tap, (phase + 1 - tap) // stride) for tap in range(3) if (phase + 1 - tap) % stride == 0]


def _depthwise_kernel_gradient(x: Map, kernel: Array, strides: tuple[int, int], gradient: Map) -> Array:
    """For each tap the sum, over all outputs, of what it saw times the gradient.

    The few frequency bands are summed elementwise, in one pass; what is left to `sum_rows` is small.
    """
    steps, bands = gradient.shape[1:3]
    bordered = jnp.pad(x, ((0, 0), (1, strides[0]), (0, 0), (0, 0)))
    sums = []
    for t in range(3):
        seen = bordered[:, t : t + strides[0] * steps : strides[0]]
        for f in range(3):
            pairs = [(band, strides[1] * band + f - 1) for band in range(bands)]
            products = sum(seen[:, :, i] * gradient[:, :, o] for o, i in pairs if 0 <= i < x.shape[2])
            sums.append(products)
    return sum_rows(jnp.concatenate(sums, -1)).reshape(kernel.shape).astype(kernel.dtype)


depthwise_convolution.defvjp(_depthwise_forward, _depthwise_backward)


def sum_rows(x: Float[Array, "*rows channels"]) -> Float[Array, " channels"]:
    """Sum over all axes but the last, in float32.

    On CPUs XLA sums well what is in memory, and badly what it has to compute on the way: hence the barrier.
    """
    return jnp.sum(jax.lax.optimization_barrier(x), tuple(range(x.ndim - 1)), dtype=jnp.float32)


class Depthwise(nn.Module):
    """A 3x3 convolution of each channel with itself, without bias."""

    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Map) -> Map:
        initializer = nn.initializers.he_normal(in_axis=(0, 1), out_axis=())
        return depthwise_convolution(x, self.param("kernel", initializer, (3, 3, x.shape[-1])), self.strides)


def phases(x: Map) -> Float[Array, "2 2 batch half_time half_frequency channels"]:
    """The map's even and odd time steps, and of each the even and odd bands, with zeros to make an odd size even."""
    batch, steps, bands, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, steps % 2), (0, bands % 2), (0, 0)))
    return x.reshape(batch, -(-steps // 2), 2, -(-bands // 2), 2, channels).transpose(2, 4, 0, 1, 3, 5)


def max_pool(x: Float[Array, "2 2 batch half_time half_frequency channels"], mask: Mask) -> Map:
    """Maximum over 3x3 windows of real cells, two apart along both axes, of a map in `phases`; zero in the padding.

    In phases, it is an elementwise maximum of neighbours. The gradient of a windowed reduction (select-and-scatter) and strided
    slices are slow on CPUs.
    """
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)

    def largest(even: Map, odd: Map, axis: int) -> Map:
        before = jax.lax.pad(odd, lowest, [(int(a == axis), -int(a == axis), 0) for a in range(4)])
        return _larger(_larger(before, even), odd)

    def real(step: int, band: int) -> Map:
        steps, bands = x.shape[3:5]
        is_real = (2 * jnp.arange(steps) + step)[None, :, None, None] < mask.lengths[:, None, None, None]
        is_band = (2 * jnp.arange(bands) + band < mask.num_bands)[None, None, :, None]
        return jnp.where(is_real & is_band, x[step, band], lowest)

    even_bands, odd_bands = (largest(real(0, band), real(1, band), axis=1) for band in range(2))
    return mask.strided((2, 2)).apply(largest(even_bands, odd_bands, axis=2))


def _larger(a: Array, b: Array) -> Array:
    """The elementwise maximum whose gradient goes to the first of two equals, as in PyTorch, and not half to each."""
    return jnp.where(a >= b, a, b)


# Batch normalisation ----------------------------------------------------------------------------------------------------------------


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), as a factor and a shift for each channel.

    As in PyTorch, the batch is normalised by its biased variance and the running average takes the unbiased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, channels: int, batch: tuple[Array, Array, Array] | None) -> tuple[Array, Array]:
        """Factor and shift from the `batch` statistics (mean, biased variance, count), or from the running ones without."""
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if batch is None:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = batch
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor


class NormalizedPointwise(nn.Module):
    """A pointwise (1x1) convolution without bias and its batch normalisation, in one matrix product; the result is not masked.

    The normalisation is a linear map of the convolution's result, whose mean and variance follow from the mean m and the covariance C
    of its input: those of `x @ K` are `m @ K` and `diag(K' C K)`. So the statistics cost one small product, `x' x`, no pass
    over the result, and gradients are matrix products too; XLA's sums over all but the last axis are many times slower on CPUs.
    For the same reason `norm_input`, a batch normalisation of the input, costs nothing: only a mean and the diagonal of C.

    Attributes:
        channels: of the result.
        norm_input: normalise the input as well, without activation in between.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    norm_input: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*cells channels"], mask: Mask, *, train: bool) -> Float[Array, "*cells channels_out"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.channels))
        shift = jnp.zeros(self.channels)
        if train:
            mean, covariance, count = _moments(x, mask, self.axis_name)
        if self.norm_input:
            batch = (mean, jnp.sum(covariance * jnp.eye(len(mean)), 0), count) if train else None
            in_factor, in_shift = BatchNorm(name="input_norm")(x.shape[-1], batch)
            shift = in_shift @ kernel
            kernel = in_factor[:, None] * kernel
        batch = None
        if train:
            var = jnp.maximum(jnp.sum(kernel * (covariance @ kernel), 0), 0)
            batch = (mean @ kernel + shift, var, count)
        factor, out_shift = BatchNorm(name="norm")(self.channels, batch)
        kernel, shift = kernel * factor, shift * factor + out_shift
        return x @ kernel.astype(x.dtype) + jnp.expand_dims(shift.astype(x.dtype), range(x.ndim - 1))


def _moments(x: Float[Array, "*cells channels"], mask: Mask, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Mean [channels], covariance [channels, channels] and number of the real cells of a map that is zero in its padding."""
    rows = x.reshape(-1, x.shape[-1])
    total = sum_rows(x)
    squares = jnp.dot(rows.T, rows, precision="highest", preferred_element_type=jnp.float32)
    count = jnp.sum(mask.lengths).astype(jnp.float32) * mask.num_bands
    if axis_name:
        total, squares, count = jax.lax.psum((total, squares, count), axis_name)
    count = jnp.maximum(count, 1)
    mean = total / count
    return mean, squares / count - mean[:, None] * mean[None], count


# Attention over channels ------------------------------------------------------------------------------------------------------------


def eca_kernel_size(channels: int) -> int:
    """Kernel size of efficient channel attention: the odd number next to |log2 C + 1| / 2, at least 3 (Wang et al. 2020, eq. 12)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


class EfficientChannelAttention(nn.Module):
    """Gates in (0, 1) for each channel, from the means of its neighbours (ECA, Wang et al. 2020).

    A 1-D convolution along the channels, without bias; `kernel_size` None: the paper's rule.
    """

    kernel_size: int | None = None

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        channels = means.shape[-1]
        size = self.kernel_size or eca_kernel_size(channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=0, out_axis=()), (size,))
        bordered = jnp.pad(means, ((0, 0), (size // 2, size // 2)))
        return jax.nn.sigmoid(sum(bordered[:, i : i + channels] * kernel[i].astype(means.dtype) for i in range(size)))


class SqueezeAndExcitation(nn.Module):
    """Gates in (0, 1) for each channel, from the means of all of them (SE, Hu et al. 2018): two dense layers, the first 16 times narrower."""

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        channels = means.shape[-1]
        hidden = jax.nn.relu(nn.Dense(max(channels // 16, 4), dtype=means.dtype, name="squeeze")(means))
        return jax.nn.sigmoid(nn.Dense(channels, dtype=means.dtype, name="excite")(hidden))


def dropout(x: Array, rate: float | Array, key: Array) -> Array:
    """Zero elements with probability `rate`, which may be a traced scalar, and scale up the rest."""
    keep = jax.random.uniform(key, x.shape) >= rate
    return jnp.where(keep, x / (1 - rate), 0)
