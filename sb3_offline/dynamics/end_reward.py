"""What the end of an episode pays by itself, a prize or a fine, by where it ended."""

from __future__ import annotations

import numpy as np
import torch as th
from torch import nn

MAX_ENDS = 512  # of the data's ends, that are kept
N_NEAREST = 5
STANDS_OUT = 3.0  #: what rows that end pay beyond the others, in standard deviations of the others' rewards


class EndReward(nn.Module):
    """
    Where rows that end pay more or less than the others, a network smears it over the states next to the end, and imagined
    episodes would collect it there at every step without ending. Taken out of what the networks learn, it is paid where an
    imagined episode ends: the mean of what the nearest of the data's ends paid beyond their other rows, so that an episode is
    paid the prize in one place and the fine in another. Until :meth:`fit`, and where no end stands out, it is 0.

    :param observation_dim: length of a flat observation
    """

    states: th.Tensor  # (MAX_ENDS, observation_dim) the next observations of ends, standardised among them; then 0
    paid: th.Tensor  # (MAX_ENDS,)
    mean: th.Tensor  # (observation_dim,) of the ends' next observations
    std: th.Tensor
    n_ends: th.Tensor  # () int64

    def __init__(self, observation_dim: int) -> None:
        super().__init__()
        self.register_buffer("states", th.zeros(MAX_ENDS, observation_dim))
        self.register_buffer("paid", th.zeros(MAX_ENDS))
        self.register_buffer("mean", th.zeros(observation_dim))
        self.register_buffer("std", th.ones(observation_dim))
        self.register_buffer("n_ends", th.tensor(0))

    @classmethod
    def everywhere(cls, observation_dim: int, paid: float) -> EndReward:
        """Of ends that all pay this."""
        made = cls(observation_dim)
        if paid:
            made.states[0], made.paid[0] = 0.0, paid
            made.n_ends.fill_(1)
        return made

    def fit(self, where: th.Tensor, rewards: th.Tensor, others: th.Tensor) -> None:
        """
        Keep what ends pay, if the root of its mean square is more than ``STANDS_OUT`` standard deviations of what other rows
        pay; of more than ``MAX_ENDS`` ends, so many in equal distances.

        :param where: (k, observation_dim), the next observations of rows that end
        :param rewards: (k,), theirs
        :param others: (n,), of the other rows
        """
        self.n_ends.zero_()
        if not len(rewards) or not len(others):
            return
        beyond = rewards.double() - others.double().mean()
        if not beyond.square().mean().sqrt() > STANDS_OUT * others.double().std(correction=0):
            return
        drawn = th.linspace(0, len(where) - 1, min(len(where), MAX_ENDS), device=where.device).round().long()
        std, mean = th.std_mean(where, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(th.where(std > 0, std, 1.0))
        self.states[: len(drawn)] = (where[drawn] - self.mean) / self.std
        self.paid[: len(drawn)] = beyond[drawn].float()
        self.n_ends.fill_(len(drawn))

    @th.no_grad()
    def forward(self, next_observations: th.Tensor, ended: th.Tensor) -> th.Tensor:
        """What the ends among these rows pay by themselves, 0 for the others: (B, observation_dim) and (B,) bool -> (B,)."""
        pays = next_observations.new_zeros(len(next_observations))
        rows = ended.nonzero().squeeze(1)
        pays[rows] = self.at(next_observations[rows])
        return pays

    def at(self, where: th.Tensor) -> th.Tensor:
        """What ending there pays: (k, observation_dim) -> (k,)."""
        n_ends = int(self.n_ends)
        if not n_ends or not len(where):
            return where.new_zeros(len(where))
        distances = th.cdist((where - self.mean) / self.std, self.states[:n_ends])
        nearest = distances.topk(min(N_NEAREST, n_ends), dim=1, largest=False).indices
        return self.paid[nearest].mean(dim=1)

    def taken_out(self, rewards: np.ndarray, next_observations: np.ndarray, terminations: np.ndarray) -> np.ndarray:
        """What the networks learn to pay, (n,); no copy where ending pays nothing by itself."""
        if not self.n_ends:
            return rewards
        ends = np.flatnonzero(terminations)
        without = np.array(rewards, dtype=np.float32)
        without[ends] -= self.at(th.as_tensor(next_observations[ends], device=self.paid.device)).cpu().numpy()
        return without
