"""Levels, channels, clipping and stillness of a recording, counted while its blocks are decoded."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Float64

from ser_jax.errors import UserError

_FULL_SCALE = 0.9999  # what stands there three times in a row is clipped
GREATEST = 1e30  # of a sample, of which float32 still holds means and multiples
_DEAD = 1e-6  # of the loudest channel's power: a channel with less has the noise of its converter, or an offset, alone


class Counted:
    """What is counted while the blocks of a file go by.

    Attributes:
        frames: how many there are.
        clipped: samples of all channels that stand at full scale, three or more in a row.
        power: the sum of the squares of the mean over channels.
        low, high: the extremes of that mean.
        still, value: the longest run of one value of it, and that value; `run` is the one at the end.
    """

    def __init__(self, channels: int) -> None:
        self.frames, self.clipped, self.power = 0, 0, 0.0
        self.sums, self.products = np.zeros(channels), np.zeros((channels, channels))  # of samples, and of their pairs
        self.low, self.high = np.inf, -np.inf
        self.still, self.value = 0, 0.0  # the longest run of one value
        self.run, self.last = 0, np.nan  # the run at the end

    @property
    def powers(self) -> Float64[np.ndarray, " channels"]:
        """The sum of the squares of each channel."""
        return np.diagonal(self.products)

    def sounding(self) -> Bool[np.ndarray, " channels"]:
        """Which channels have a sound, and not the noise of a converter or an offset alone."""
        variances = self.powers - self.sums**2 / max(self.frames, 1)
        return variances > _DEAD * variances.max()

    def least_alike(self) -> float:
        """The smallest correlation, by its size, of the loudest channel with another one; 1 of one channel."""
        covariances = self.products - np.outer(self.sums, self.sums) / max(self.frames, 1)
        variances = np.diagonal(covariances)
        loudest = int(np.argmax(variances))
        if len(variances) < 2 or variances.min() <= 0:
            return 1.0
        return float(np.abs(covariances[loudest] / np.sqrt(variances[loudest] * variances)).min())

    def mono(self, name: str, blocks: Iterator[np.ndarray]) -> Iterator[Float32[np.ndarray, " frames"]]:
        """Yields the mean over channels of every block, and counts; raises UserError for NaN and infinity."""
        for block in blocks:
            if not np.abs(block).max(initial=0) <= GREATEST:
                raise UserError(f"{name}: audio holds NaN or infinity, or above {GREATEST:g}, expected finite samples")
            mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
            self.frames += len(mono)
            self.power += float(np.square(mono, dtype=np.float64).sum())
            fine = np.ascontiguousarray(block.T, np.float64)
            self.sums = self.sums + fine.sum(axis=1)
            # Not `fine @ fine.T`: the threads of BLAS wait for each other where other decoders have the cores.
            self.products = self.products + np.einsum("if,jf->ij", fine, fine)
            self.low, self.high = min(self.low, float(mono.min())), max(self.high, float(mono.max()))
            self._count_still(mono)
            full = (np.abs(block) >= _FULL_SCALE) & (np.abs(block) <= 1)
            if full.any():
                thrice = full[:-2] & full[1:-1] & full[2:]
                in_a_row = np.zeros_like(full)
                for shift in range(3):
                    in_a_row[shift : len(full) - 2 + shift] |= thrice
                self.clipped += int(in_a_row.sum())
            yield mono

    def _count_still(self, mono: Float32[np.ndarray, " frames"]) -> None:
        """Counts how many samples in a row have one value, over the ends of blocks."""
        before = np.concatenate([[np.float32(self.last)], mono[:-1]])
        new = np.flatnonzero(mono != before)
        runs = np.diff(new, prepend=0, append=len(mono))  # what goes on from before comes first
        runs[0] += self.run
        values = np.concatenate([[self.last], mono[new]])
        longest = int(np.argmax(runs))
        if runs[longest] > self.still:
            self.still, self.value = int(runs[longest]), float(values[longest])
        self.run, self.last = int(runs[-1]), float(mono[-1])
