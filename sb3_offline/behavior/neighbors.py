"""n(s) by nearest neighbours: smooth in s, where cells jump."""

from __future__ import annotations

import torch as th

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.behavior.visits import ROWS_PER_CELL, CountScale, VisitationCounts
from sb3_offline.buffers.rows import Rows, row_blocks

_CHUNK = 1024  # states measured at once
_SCALE_ROWS = 16_384  # of the data, that R and the rescaling are taken from


class NeighborCounts(VisitationCounts):
    """
    The rows of the data in a ball of fixed radius R around s, from the distance r_k(s) to the k-th nearest of M reference
    rows (Loftsgaarden and Quesenberry 1965): n(s) = n_R (R / r_k(s))^m, at most \\|D\\|, as long as the ball holds a row.

    m is the number of observations that vary, each standardised. R is the median of the positive r_k over a sample of the
    data, and n_R = 32: the ball holds as many rows at the median state as a SimHash cell does on average. From
    r_1 = R n_R^{1/m} on, where n(s) is 1, there is no density left to estimate, and n(s) = (r_1 / r_k(s))^2: n^{-1/2} grows
    in proportion to the distance from the data, as the error of a function of bounded slope does. (The m-th power would go on
    to 10^{-4} at twice r_1 in 11 dimensions, and one state would outweigh the batch.) If the data lie on a surface of fewer
    than m dimensions the ratio's power is too high, and counts spread too far.

    :param n_neighbors: k.
    :param max_references: M at most; a larger data set is represented by a seeded sample of its rows.
    """

    references: th.Tensor  # (M, m), standardised
    mean: th.Tensor
    std: th.Tensor
    varies: th.Tensor  # (m,) int64, columns of the observations that are not constant
    radius: th.Tensor  # (), R
    scale: th.Tensor  # (), of the raw counts
    n_rows: th.Tensor  # (), |D|
    sized_by_fit = ("references", "mean", "std", "varies")

    def __init__(
        self, *, n_neighbors: int = 10, max_references: int = 2048, count_scale: CountScale = "reference", n_ref: float = 1.0
    ):
        super().__init__(count_scale=count_scale, n_ref=n_ref)
        self.n_neighbors = n_neighbors
        self.max_references = max_references
        for name in ("references", "mean", "std"):
            self.register_buffer(name, th.empty(0))
        self.register_buffer("varies", th.empty(0, dtype=th.int64))
        for name in ("radius", "scale", "n_rows"):
            self.register_buffer(name, th.ones(()))

    def _fit(self, data: Rows, generator: th.Generator) -> None:
        self.mean, self.std = (moment.to(self.radius) for moment in observation_moments(data))
        moves = [(block != data[:1].to(block)).any(dim=0) for (block,) in row_blocks(data)]
        self.varies = th.stack(moves).any(dim=0).nonzero().squeeze(1)
        rows = th.randperm(len(data), generator=generator, device=generator.device)[: self.max_references]
        self.references = self._standardise(data[rows.to(data.device)])
        sample = th.randperm(len(data), generator=generator, device=generator.device)[:_SCALE_ROWS].sort().values
        blocks = row_blocks(data, order=sample.to(data.device))
        distances = th.cat([self._distances(part) for (block,) in blocks for part in block.split(_CHUNK)])
        apart = distances[distances > 0]  # r_k is 0 at rows that are repeated k times
        self.radius = apart.median() if len(apart) else self.radius.new_ones(())
        self.n_rows = self.radius.new_tensor(len(data))
        mean_rsqrt = self._raw(distances).double().rsqrt().mean()
        self.scale = th.as_tensor(self.rescaling(mean_rsqrt)).to(self.radius)

    def _count(self, observations: th.Tensor) -> th.Tensor:
        return self.scale * self._raw(self._distances(observations))

    def _raw(self, distances: th.Tensor) -> th.Tensor:
        ratio = (self.radius / distances).clamp(max=1e6)
        edge = ROWS_PER_CELL ** (-1.0 / max(len(self.varies), 1))  # R / r_1
        inside = ROWS_PER_CELL * ratio.pow(len(self.varies))
        return th.where(ratio < edge, (ratio / edge).square(), th.minimum(inside, self.n_rows))

    def _distances(self, observations: th.Tensor) -> th.Tensor:
        """r_k(s), (B,); without a reference row beyond the k-th, the farthest."""
        k = min(self.n_neighbors, len(self.references))
        points = self._standardise(observations)
        # not by |x|^2 + |y|^2 - 2xy, which loses the small distances that matter here
        distances = th.cdist(points, self.references, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(k, dim=1, largest=False).values[:, -1]

    def _standardise(self, observations: th.Tensor) -> th.Tensor:
        return ((observations.to(self.mean) - self.mean) / self.std)[:, self.varies]

    def _check(self, data: th.Tensor) -> None:
        super()._check(data)
        if data.ndim != 2:
            raise ValueError(f"observations must have shape (N, obs), got {tuple(data.shape)}: flatten each of them")
