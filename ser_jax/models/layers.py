"""Layers that padding cannot touch.

All of them work on maps of shape [batch, time, frequency, channels] that come with a `Mask`: which time steps of which
utterance are real. One rule keeps padding out of every result: **a map is zero wherever its utterance has ended**. A
convolution then reads zeros beyond the end, exactly as at a true border, and a sum over the map is one over real cells.

Everything computes in the dtype of the map; parameters and statistics stay float32.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

Map = Float[Array, "batch _time _frequency _channels"]  # a leading underscore: sizes differ within a function
Activation = Callable[[Array], Array]
Affine = tuple[Float[Array, " channels"], Float[Array, " channels"]]  # a factor and a shift for each channel

ACTIVATIONS: dict[str, Activation] = {"relu": jax.nn.relu, "hard_swish": jax.nn.hard_swish}


@flax.struct.dataclass
class Mask:
    """The real cells of a batch of maps.

    Attributes:
        lengths: number of real time steps of each utterance, Int[Array, "batch"].
        num_steps: time steps of the map, real and padded.
        num_bands: frequency bands of the map, all real.
        cells: True where a cell is real, as large as a map of some number of channels, where it is `in_memory`.
        cells_in_border: the same within the `border` of a 3x3 layer that has no strides.
    """

    lengths: Any
    num_steps: int = flax.struct.field(pytree_node=False)
    num_bands: int = flax.struct.field(pytree_node=False)
    cells: Any = None
    cells_in_border: Any = None

    def strided(self, strides: tuple[int, int]) -> "Mask":
        """The mask of what a 3x3 layer with `strides` and one cell of border on every side makes of the map."""
        if strides == (1, 1):
            return self
        # The barrier keeps XLA from computing the lengths again inside every loop that is masked.
        lengths = jax.lax.optimization_barrier(jax.lax.div(self.lengths + strides[0] - 1, strides[0]))
        return Mask(lengths, _thinned(self.num_steps, strides[0]), _thinned(self.num_bands, strides[1]))

    def in_memory(self, channels: int) -> "Mask":
        """The same with what masks maps of so many channels, and what does within a border, in a CPU's memory.

        It is read faster than computed: a kernel that compares time steps has to find out where each element lies.
        """
        if jax.default_backend() != "cpu":
            return self
        shape = (*self.real.shape[:2], self.num_bands, channels)

        def compute() -> tuple[Array, Array]:
            cells = jnp.broadcast_to(self.real, shape)
            return cells, border(cells, (1, 1))

        cells, cells_in_border = once(compute, self.lengths[0] < 0)
        return self.replace(cells=cells, cells_in_border=cells_in_border)

    @property
    def real(self) -> Bool[Array, "batch time 1 1"]:
        """True where a time step is real."""
        return _real_steps(self.lengths, self.num_steps)

    def of(self, channels: int) -> Bool[Array, "batch time bands_or_1 channels_or_1"]:
        """What masks a map of so many channels."""
        return self.real if self.cells is None or self.cells.shape[-1] != channels else self.cells

    def within_border(self, channels: int, strides: tuple[int, int]) -> Bool[Array, "batch time bands channels_or_1"]:
        """What masks a map of so many channels within the `border` of a 3x3 layer that has `strides`."""
        if self.cells_in_border is not None and strides == (1, 1) and self.cells_in_border.shape[-1] == channels:
            return self.cells_in_border
        size = (self.num_steps, self.num_bands)
        steps, bands = (
            jnp.arange(1 + length + after) for length, after in zip(size, _after(size, strides), strict=True)
        )
        step, band = steps[None, :, None, None], bands[None, None, :, None]
        return (step > 0) & (step <= self.lengths[:, None, None, None]) & (band > 0) & (band <= self.num_bands)

    def apply(self, x: Map) -> Map:
        """Zero the padding of a map."""
        return jnp.where(self.of(x.shape[-1]), x, 0)

    def mean(self, x: Map, affine: Affine | None = None) -> Float[Array, "batch channels"]:
        """Mean of each channel over an utterance's real cells (zero without any); x is zero in its padding.

        With a factor and a shift, the mean of `x * factor + shift`.
        """
        num_cells = self.lengths[:, None] * self.num_bands
        mean = jnp.sum(x, (1, 2), dtype=jnp.float32) / jnp.maximum(num_cells, 1)
        if affine is not None:
            factor, shift = affine
            mean = jnp.where(num_cells > 0, mean * factor[None] + shift[None], 0)
        return mean.astype(x.dtype)


def _real_steps(lengths: Int[Array, " batch"], num_steps: int) -> Bool[Array, "batch time 1 1"]:
    return jnp.arange(num_steps)[None, :, None, None] < lengths[:, None, None, None]


# Convolutions -------------------------------------------------------------------------------------------------------
#
# A 3x3 convolution is written as its nine taps: each sees a shifted slice of the map within its border. XLA makes good
# loops of that on every platform as long as no loop has something to compute behind a test for the border. So the
# border comes first, around what a matrix product has left in memory, and activation, mask and taps work within the
# border.


def _thinned(size: int, stride: int) -> int:
    return -(-size // stride)


def _after(size: Sequence[int], strides: tuple[int, int]) -> list[int]:
    """The cells after a map that a 3x3 layer's last windows reach, of time and frequency."""
    return [stride * _thinned(length, stride) + 1 - length for length, stride in zip(size, strides, strict=True)]


def border(
    x: Shaped[Array, "batch time frequency channels"], strides: tuple[int, int]
) -> Shaped[Array, "batch _time _frequency channels"]:
    """The map within a border of zeros: one before it, and after it what a strided 3x3 layer's last windows reach."""
    after = _after(x.shape[1:3], strides)
    return jnp.pad(x, ((0, 0), (1, after[0]), (1, after[1]), (0, 0)))


def _seen(bordered: Map, strides: tuple[int, int], tap: tuple[int, int]) -> Map:
    """What one of the nine taps sees at each position of a convolution."""
    steps, bands = ((size - 2) // stride for size, stride in zip(bordered.shape[1:3], strides, strict=True))
    (time, frequency), (time_stride, frequency_stride) = tap, strides
    return bordered[
        :,
        time : time + time_stride * steps : time_stride,
        frequency : frequency + frequency_stride * bands : frequency_stride,
    ]


TAPS = [(time, frequency) for time in range(3) for frequency in range(3)]


def patches(x: Map, strides: tuple[int, int]) -> Map:
    """What the nine taps of a 3x3 convolution see at each of its positions, within a border of zeros."""
    return jnp.concatenate([_seen(border(x, strides), strides, tap) for tap in TAPS], -1)


class Depthwise(nn.Module):
    """A 3x3 convolution of each channel with itself, without bias."""

    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, bordered: Map, mask: Mask) -> Map:
        """The convolution of a map that is zero in its padding and within a `border`; `mask` is that of the result."""
        initializer = nn.initializers.he_normal(in_axis=(0, 1), out_axis=())
        kernel = self.param("kernel", initializer, (3, 3, bordered.shape[-1]))
        return depthwise_convolution(bordered, kernel, mask.of(bordered.shape[-1]), self.strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def depthwise_convolution(
    bordered: Map, kernel: Float[Array, "3 3 channels"], real: Bool[Array, "..."], strides: tuple[int, int]
) -> Map:
    """A 3x3 convolution of each channel with itself, as nine shifted multiply-adds; `real` masks the result.

    A convolution with feature groups is several times slower on CPUs, and slower still where runs are vmapped over
    their kernels; the gradient that JAX derives from the taps is slow too.
    """
    kernel = kernel.astype(bordered.dtype)
    result = sum(_seen(bordered, strides, tap) * kernel[None, None, None, *tap] for tap in TAPS)
    return jnp.where(real, result, 0)


def _depthwise_forward(bordered: Map, kernel: Array, real: Array, strides: tuple[int, int]) -> tuple[Map, tuple]:
    return depthwise_convolution(bordered, kernel, real, strides), (bordered, kernel, real)


def _depthwise_backward(strides: tuple[int, int], saved: tuple, gradient: Map) -> tuple[Map, Array, None]:
    bordered, kernel, real = saved
    gradient = jnp.where(real, gradient, 0)
    return (
        _depthwise_input_gradient(gradient, kernel, strides),
        _depthwise_kernel_gradient(gradient, bordered, strides).reshape(kernel.shape).astype(kernel.dtype),
        None,
    )


def _depthwise_input_gradient(gradient: Map, kernel: Array, strides: tuple[int, int]) -> Map:
    """Each cell collects from the results that saw it; cells of one phase of the stride were seen by the same taps."""
    batch, steps, bands, channels = gradient.shape
    kernel = kernel.astype(gradient.dtype)
    reach = [2 // stride for stride in strides]
    steps, bands = steps + reach[0], bands + reach[1]
    gradient = jnp.pad(gradient, ((0, 0), (reach[0], reach[0]), (reach[1], reach[1]), (0, 0)))

    def collected(time_phase: int, frequency_phase: int) -> Map:
        total = 0
        for time in range(time_phase, 3, strides[0]):
            for frequency in range(frequency_phase, 3, strides[1]):
                t = reach[0] - (time - time_phase) // strides[0]
                f = reach[1] - (frequency - frequency_phase) // strides[1]
                total += gradient[:, t : t + steps, f : f + bands] * kernel[None, None, None, time, frequency]
        return total

    if strides == (1, 1):
        return collected(0, 0)
    phases = [jnp.stack([collected(t, f) for f in range(strides[1])], 3) for t in range(strides[0])]
    return jnp.stack(phases, 2).reshape(batch, steps * strides[0], bands * strides[1], channels)


def _depthwise_kernel_gradient(
    gradient: Map, bordered: Map, strides: tuple[int, int]
) -> Float[Array, " taps_x_channels"]:
    """For each tap the sum, over all results, of what it saw times the gradient.

    The few frequency bands are added up in one elementwise loop. What is left goes through memory and a plain sum:
    XLA's loops for a sum over all but the last axis are vectorised on CPUs only when nothing has to be computed on the
    way.
    """
    products = []
    for tap in TAPS:
        seen = _seen(bordered, strides, tap)
        products.append(sum(seen[:, :, band] * gradient[:, :, band] for band in range(gradient.shape[2])))
    return sum_cells(jnp.concatenate(products, -1))


depthwise_convolution.defvjp(_depthwise_forward, _depthwise_backward)


def sum_cells(x: Float[Array, "*cells channels"]) -> Float[Array, " channels"]:
    """Sum over all axes but the last, in float32."""
    return jnp.sum(x, tuple(range(x.ndim - 1)), dtype=jnp.float32)


def once(compute: Callable[[], Any], never: Bool[Array, ""]) -> Any:
    """What `compute` gives, computed once on a CPU, where XLA would compute it again in every kernel that looks at it.

    What a conditional gives is in memory. `never` must be false, and the compiler must not be able to know it.
    """
    if jax.default_backend() != "cpu":
        return compute()
    shapes = jax.eval_shape(compute)
    return jax.lax.cond(never, lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), compute)


# Max-pooling --------------------------------------------------------------------------------------------------------
#
# A window of 3x3 cells, two apart, has cells of four phases: even and odd time steps of even and odd bands. A map that
# is held as four maps, one for each phase, is pooled by an elementwise maximum of shifted slices. Strided slices, and
# the gradient of a windowed reduction (select-and-scatter), are slow on CPUs.

Phases = list[list[Map]]


def phases(x: Map) -> Phases:
    """The even and odd time steps of a map, and of each the even and odd bands, all with one cell of border before."""
    batch, steps, bands, channels = x.shape
    x = jnp.pad(x, ((0, 0), (2, steps % 2), (2, bands % 2), (0, 0)))
    x = x.reshape(batch, x.shape[1] // 2, 2, x.shape[2] // 2, 2, channels)
    return [[x[:, :, step, :, band] for band in range(2)] for step in range(2)]


def max_pool(x: Phases, mask: Mask) -> Map:
    """Maximum over the real cells of 3x3 windows, two apart along both axes; zero in the padding.

    Args:
        x: the map's phases; what their borders hold does not matter.
        mask: the mask of the map.
    """
    steps, bands = x[0][0].shape[1:3]
    lowest = jnp.asarray(jnp.finfo(x[0][0].dtype).min, x[0][0].dtype)

    def real(x: Map, step: int, band: int) -> Map:
        step, band = step + 2 * (jnp.arange(steps) - 1), band + 2 * (jnp.arange(bands) - 1)
        is_step = (step >= 0)[None] & (step[None] < mask.lengths[:, None])
        is_band = (band >= 0) & (band < mask.num_bands)
        return jnp.where(is_step[:, :, None, None] & is_band[None, None, :, None], x, lowest)

    pooled = _window_maximum([[real(x[step][band], step, band) for band in range(2)] for step in range(2)])
    return mask.strided((2, 2)).apply(pooled)


# The three cells of a window along an axis: (phase, offset in the phase with its border).
_WINDOW = ((1, 0), (0, 1), (1, 1))


@jax.custom_vjp
def _window_maximum(x: Phases) -> Map:
    steps, bands = (size - 1 for size in x[0][0].shape[1:3])

    def maximum() -> Map:
        cells = [x[step][band][:, t : t + steps, f : f + bands] for step, t in _WINDOW for band, f in _WINDOW]
        return functools.reduce(jnp.maximum, cells)

    never = x[0][0].ravel()[0] > jnp.inf
    return once(maximum, never)


def _window_maximum_forward(x: Phases) -> tuple[Map, tuple[Phases, Map]]:
    pooled = _window_maximum(x)
    return pooled, (x, pooled)


def _window_maximum_backward(saved: tuple[Phases, Map], gradient: Map) -> tuple[Phases]:
    """Each cell collects from the windows whose maximum it is; so do equals, which lie where activations are flat."""
    x, pooled = saved
    steps, bands = x[0][0].shape[1:3]
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    pooled, gradient = jnp.pad(pooled, border), jnp.pad(gradient, border)

    def collected(step: int, band: int) -> Map:
        total = 0
        for t in (offset for phase, offset in _WINDOW if phase == step):
            for f in (offset for phase, offset in _WINDOW if phase == band):
                window = (slice(None), slice(1 - t, 1 - t + steps), slice(1 - f, 1 - f + bands))
                total += jnp.where(x[step][band] == pooled[window], gradient[window], 0)
        return total

    return ([[collected(step, band) for band in range(2)] for step in range(2)],)


_window_maximum.defvjp(_window_maximum_forward, _window_maximum_backward)


# Batch normalisation ------------------------------------------------------------------------------------------------


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), as a factor and a shift for each channel.

    As in PyTorch, the batch is normalised by its biased variance and the running average takes the unbiased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, channels: int, batch: tuple[Array, Array, Array] | None, offset: Array | float = 0.0
    ) -> tuple[Array, Array]:
        """Factor and shift, from the statistics of the `batch` (mean, biased variance, count) or else running ones.

        An `offset`, a constant for each channel, may be left out of what is normalised: the shift makes up for it.
        """
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if batch is None:
            mean, var = running_mean.value - offset, running_var.value
        else:
            mean, var, count = batch
            if not self.is_initializing():
                new_mean, new_var = jax.lax.stop_gradient((mean + offset, var * count / jnp.maximum(count - 1, 1)))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * new_mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * new_var
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor


class NormalizedPointwise(nn.Module):
    """A pointwise (1x1) convolution without bias, and its batch normalisation.

    `norm_input` is a batch normalisation of the input without activation (as follows a depthwise convolution): its
    factor goes into the kernel, and its shift is lost in the normalisation of the result.

    Attributes:
        channels: of the result.
        norm_input: normalise the input as well.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    norm_input: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Map, mask: Mask, *, train: bool) -> tuple[Map, Affine]:
        """The result before its normalisation, and what normalises it, of a map that is zero in its padding."""
        in_channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_normal(), (in_channels, self.channels))
        offset = jnp.zeros(self.channels)
        # All in the one shape of the matrix product: XLA would compute for each shape anew what it reads.
        cells = x.reshape(-1, in_channels)
        if self.norm_input:
            batch = _moments(cells, mask, self.axis_name) if train else None
            in_factor, in_shift = BatchNorm(name="input_norm")(in_channels, batch)
            offset = in_shift @ kernel
            kernel = in_factor[:, None] * kernel
        cells = product(cells, kernel)
        batch = _moments(cells, mask, self.axis_name) if train else None
        affine = BatchNorm(name="norm")(self.channels, batch, offset)
        return cells.reshape(*x.shape[:-1], -1), affine


def activated(
    x: Map,
    affine: Affine,
    activate: Activation,
    mask: Mask,
    gates: Float[Array, "batch channels"] | None = None,
    within_border: tuple[int, int] | None = None,
) -> Map:
    """`activate(gates * (x * factor + shift))`, zero in the padding.

    With strides, within the `border` of a 3x3 layer that has them.
    """
    real = mask.of(x.shape[-1])
    if within_border:
        real = mask.within_border(x.shape[-1], within_border)
        x = border(x, within_border)
    x = normal(x, affine)
    return jnp.where(real, activate(x if gates is None else x * gates[:, None, None]), 0)


def normal(x: Map, affine: Affine) -> Map:
    """`x * factor + shift`, for each channel."""
    factor, shift = (part.astype(x.dtype)[None, None, None] for part in affine)
    return x * factor + shift


@jax.custom_vjp
def product(
    x: Float[Array, "*cells channels"], kernel: Float[Array, "channels channels_out"]
) -> Float[Array, "*cells channels_out"]:
    """`x @ kernel`, in the dtype of x, with a gradient that XLA need not transpose large arrays for."""
    return x @ kernel.astype(x.dtype)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return gradient @ kernel.T.astype(x.dtype), _gram(x, gradient)


product.defvjp(_product_forward, _product_backward)


def _gram(
    a: Float[Array, "*cells channels_a"], b: Float[Array, "*cells channels_b"]
) -> Float[Array, "channels_a channels_b"]:
    """Sum over all cells of the products of their channels, in float32."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision="highest", preferred_element_type=jnp.float32)


def _moments(x: Float[Array, "cells channels"], mask: Mask, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Mean [channels], biased variance [channels] and number of the real cells of a map, zero in its padding."""
    sums = jnp.stack([sum_cells(x), sum_cells(jnp.square(x.astype(jnp.float32)))])
    count = jnp.sum(mask.lengths).astype(jnp.float32) * mask.num_bands
    if axis_name:
        sums, count = jax.lax.psum((sums, count), axis_name)
    count = jnp.maximum(count, 1)
    mean, square = sums / count
    return mean, jnp.maximum(square - jnp.square(mean), 0), count


class NormalizedKernel(nn.Module):
    """A pointwise convolution of a large map of few channels, with its batch normalisation in its kernel.

    The mean and variance of the convolution's result follow from the mean m and the covariance C of its input: those of
    `x @ K` are `m @ K` and `diag(K' C K)`. So the statistics cost one product, `x' x`, and no pass over the result,
    which the normalised kernel gives at once.

    Attributes:
        channels: of the result.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Phases, mask: Mask, *, train: bool) -> tuple[Phases, Float[Array, " channels"]]:
        """The result short of its shift, and that shift, of a map in its phases that is zero in its padding."""
        parts = jax.tree.leaves(x)
        kernel = self.param("kernel", nn.initializers.he_normal(), (parts[0].shape[-1], self.channels))
        batch = None
        if train:
            total, squares = sum(map(sum_cells, parts)), sum(_gram(part, part) for part in parts)
            count = jnp.sum(mask.lengths).astype(jnp.float32) * mask.num_bands
            if self.axis_name:
                total, squares, count = jax.lax.psum((total, squares, count), self.axis_name)
            count = jnp.maximum(count, 1)
            mean = total / count
            covariance = squares / count - mean[:, None] * mean[None]
            batch = (mean @ kernel, jnp.maximum(jnp.sum(kernel * (covariance @ kernel), 0), 0), count)
        factor, shift = BatchNorm(name="norm")(self.channels, batch)
        return jax.tree.map(lambda part: product(part, kernel * factor[None]), x), shift


# Full convolutions --------------------------------------------------------------------------------------------------
#
# XLA's own convolution is the fastest forward, and for the gradient of the map, as long as runs do not come with
# kernels of their own: then it becomes a convolution with groups, and a matrix product with what every position sees is
# faster. Such a product is the gradient of the kernel in any case: XLA's own is many times slower on CPUs.


@jax.custom_vjp
def convolution(
    x: Map, kernel: Float[Array, "taps_in_time taps_in_frequency channels channels_out"]
) -> Float[Array, "batch _time _frequency channels_out"]:
    """A convolution over time and frequency, of odd size, as large as the map, zero beyond its border."""
    return _convolve(x, kernel.astype(x.dtype))


def _convolution_forward(x: Map, kernel: Array) -> tuple[Map, tuple[Map, Array]]:
    return convolution(x, kernel), (x, kernel)


def _convolution_backward(saved: tuple[Map, Array], gradient: Map) -> tuple[Map, Array]:
    x, kernel = saved
    reflected = kernel[::-1, ::-1].swapaxes(2, 3).astype(x.dtype)
    kernel_gradient = _kernel_gradient(x, gradient, kernel.shape[:2]).reshape(kernel.shape)
    return _convolve(gradient, reflected), kernel_gradient.astype(kernel.dtype)


convolution.defvjp(_convolution_forward, _convolution_backward)


@jax.custom_batching.custom_vmap
def _convolve(x: Map, kernel: Array) -> Map:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@_convolve.def_vmap
def _convolve_runs(runs: int, is_batched: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
    """The same of several runs."""
    has_own_maps, has_own_kernels = is_batched
    if not has_own_kernels:
        result = _convolve(x.reshape(-1, *x.shape[2:]), kernel)
        return result.reshape(runs, -1, *result.shape[1:]), True

    def one_run(x: Map, kernel: Array) -> Map:
        return windows(x, kernel.shape[:2]) @ kernel.reshape(-1, kernel.shape[-1])

    return jax.vmap(one_run, in_axes=(0 if has_own_maps else None, 0))(x, kernel), True


def windows(x: Map, size: tuple[int, int]) -> Float[Array, "batch _time _frequency taps_x_channels"]:
    """What the taps of a convolution of odd `size` see at each of its positions, zero beyond the border of the map."""
    steps, bands = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), *((taps // 2, taps // 2) for taps in size), (0, 0)))
    return jnp.concatenate([x[:, t : t + steps, f : f + bands] for t in range(size[0]) for f in range(size[1])], -1)


def _kernel_gradient(x: Map, gradient: Map, size: tuple[int, int]) -> Float[Array, "taps_x_channels channels_out"]:
    """Sum over all positions of what the taps saw there times the gradient."""

    def at_once(x: Map, gradient: Map) -> Array:
        return _gram(windows(x, size), gradient)

    def in_pieces(x: Map, gradient: Map) -> Array:
        pieces = _num_pieces(len(x), math.prod(size) * x[0].size * x.dtype.itemsize)
        if pieces == 1:
            return at_once(x, gradient)
        parts = (x.reshape(pieces, -1, *x.shape[1:]), gradient.reshape(pieces, -1, *gradient.shape[1:]))
        zero = jnp.zeros((math.prod(size) * x.shape[-1], gradient.shape[-1]))
        return jax.lax.scan(lambda total, part: (total + at_once(*part), None), zero, parts)[0]

    return jax.lax.platform_dependent(x, gradient, cpu=in_pieces, default=at_once)


def _num_pieces(batch: int, bytes_each: int) -> int:
    """Into how many equal pieces a batch goes, so that a piece stays in the cache of a CPU's core."""
    most = max(2**21 // max(bytes_each, 1), 1)
    return next((n for n in range(1, batch) if batch % n == 0 and batch // n <= most), max(batch, 1))


class NormalizedConvolution(nn.Module):
    """A convolution over time and frequency without bias, and its batch normalisation.

    Attributes:
        channels: of the result.
        size: taps along time and frequency, odd.
        axis_name: axis of devices whose batches share the statistics.
    """

    channels: int
    size: tuple[int, int] = (3, 3)
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Map, mask: Mask, *, train: bool) -> Map:
        """The result, as large as the map, of a map that is zero in its padding; it is not."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.size, x.shape[-1], self.channels))
        return normalized(BatchNorm(name="norm"), convolution(x, kernel), mask, self.axis_name, train=train)


def normalized(norm: BatchNorm, x: Map, mask: Mask, axis_name: str | None, *, train: bool) -> Map:
    """Batch normalisation of a map by the statistics of its real cells, or else by running ones."""
    batch = None
    if train:
        cells = mask.apply(x).astype(jnp.float32)
        total, squares = sum_cells(cells), sum_cells(jnp.square(cells))
        count = jnp.sum(mask.lengths).astype(jnp.float32) * mask.num_bands
        if axis_name:
            total, squares, count = jax.lax.psum((total, squares, count), axis_name)
        count = jnp.maximum(count, 1)
        mean = total / count
        batch = (mean, jnp.maximum(squares / count - jnp.square(mean), 0), count)
    factor, shift = (part.astype(x.dtype)[None, None, None] for part in norm(x.shape[-1], batch))
    return x * factor + shift


# Pooling within windows ---------------------------------------------------------------------------------------------


def pool(x: Map, mask: Mask, size: tuple[int, int], kind: str) -> tuple[Map, Mask]:
    """The "max" or "average" of the real cells of windows side by side, and their mask; zero in the padding.

    The last windows may reach beyond the border.
    """
    batch, steps, bands, _ = x.shape
    pooled_mask = mask.strided(size)
    x = jnp.pad(x, ((0, 0), (0, -steps % size[0]), (0, -bands % size[1]), (0, 0)))
    step, band = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
    real = (step[None] < mask.lengths[:, None])[:, :, None] & (band < bands)[None, None]
    x, real = (
        part.reshape(batch, -1, size[0], x.shape[2] // size[1], size[1], part.shape[-1])
        for part in (x, real[..., None])
    )
    if kind == "average":
        total = jnp.sum(jnp.where(real, x, 0), (2, 4))
        return total / jnp.maximum(jnp.sum(real, (2, 4)), 1).astype(x.dtype), pooled_mask
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    return pooled_mask.apply(_block_maximum(jnp.where(real, x, lowest))), pooled_mask


@jax.custom_vjp
def _block_maximum(x: Float[Array, "batch steps steps_each bands bands_each channels"]) -> Map:
    """Maximum over axes 2 and 4; cells that equal it all have its gradient, as they lie where activations are flat."""
    cells = [x[:, :, step, :, band] for step in range(x.shape[2]) for band in range(x.shape[4])]
    return functools.reduce(jnp.maximum, cells)


def _block_maximum_forward(x: Array) -> tuple[Map, tuple[Array, Map]]:
    pooled = _block_maximum(x)
    return pooled, (x, pooled)


def _block_maximum_backward(saved: tuple[Array, Map], gradient: Map) -> tuple[Array]:
    x, pooled = saved
    return (jnp.where(x == pooled[:, :, None, :, None], gradient[:, :, None, :, None], 0),)


_block_maximum.defvjp(_block_maximum_forward, _block_maximum_backward)


# Attention over channels --------------------------------------------------------------------------------------------


def eca_kernel_size(channels: int) -> int:
    """Channels that ECA sees: the odd number next to |log2 C + 1| / 2, at least 3 (Wang et al. 2020, eq. 12)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


class EfficientChannelAttention(nn.Module):
    """Gates in (0, 1) for each channel, from the means of its neighbours (ECA, Wang et al. 2020).

    A 1-D convolution along the channels, without bias; `kernel_size` None: the paper's rule.
    """

    kernel_size: int | None = None

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        """The gates."""
        channels = means.shape[-1]
        size = self.kernel_size or eca_kernel_size(channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=0, out_axis=()), (size,))
        bordered = jnp.pad(means, ((0, 0), (size // 2, size // 2)))
        return jax.nn.sigmoid(sum(bordered[:, i : i + channels] * kernel[i].astype(means.dtype) for i in range(size)))


class SqueezeAndExcitation(nn.Module):
    """Gates in (0, 1) for each channel, from the means of all of them (SE, Hu et al. 2018).

    Two dense layers, the first 16 times narrower, but no narrower than 4.
    """

    @nn.compact
    def __call__(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        """The gates."""
        channels = means.shape[-1]
        hidden = jax.nn.relu(nn.Dense(max(channels // 16, 4), dtype=means.dtype, name="squeeze")(means))
        return jax.nn.sigmoid(nn.Dense(channels, dtype=means.dtype, name="excite")(hidden))


def is_on(rate: float | Array) -> bool:
    """Whether a rate is, or may turn out to be, anything but zero."""
    return not (isinstance(rate, int | float) and rate == 0)


def dropout(x: Array, rate: float | Array, key: Array) -> Array:
    """Zero elements with probability `rate`, which may be a traced scalar, and scale up the rest."""
    keep = jax.random.uniform(key, x.shape) >= rate
    return jnp.where(keep, x / (1 - rate), 0)
