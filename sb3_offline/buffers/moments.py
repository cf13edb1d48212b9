"""Means and standard deviations of columns that are read block by block."""

from __future__ import annotations

import torch as th


class Moments:
    """
    Mean, standard deviation (uncorrected) and largest magnitude of each column, each (d,).

    Those of one block are torch's own in the block's type; those of several are joined in float64 (Chan et al. 1979).
    """

    def __init__(self) -> None:
        self.n = 0

    def add(self, block: th.Tensor) -> None:
        """Take (n, d) more rows in."""
        mean, std = block.mean(dim=0).double(), block.std(dim=0, correction=0).double()
        largest, n = block.abs().amax(dim=0), len(block)
        if self.n == 0:
            self.dtype, self._mean, self._variance, self.largest = block.dtype, mean, std.square(), largest
        else:
            share = n / (self.n + n)
            shift = mean - self._mean
            within = (1 - share) * self._variance + share * std.square()
            self._variance = within + share * (1 - share) * shift.square()
            self._mean = self._mean + share * shift
            self.largest = self.largest.maximum(largest)
        self.n += n

    @property
    def mean(self) -> th.Tensor:
        return self._mean.to(self.dtype)

    @property
    def std(self) -> th.Tensor:
        return self._variance.sqrt().to(self.dtype)
