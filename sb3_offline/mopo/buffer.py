"""A model buffer that remembers how unsure the model was."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_offline.buffers.buffers import ModelRolloutBuffer


class PenalizedRolloutBuffer(ModelRolloutBuffer):
    """
    Keeps u(s, a) beside each imagined transition and leaves its reward alone: the coefficient changes while the rows stay.
    """

    def reset(self) -> None:
        super().reset()
        self.uncertainties = th.empty(0, device=self.device)

    def write(self, **rows: th.Tensor) -> None:
        """As in the parent, with ``uncertainties`` (n,)."""
        uncertainties = rows.pop("uncertainties")[-self.buffer_size :]
        if len(self.uncertainties) == 0:
            self.uncertainties = uncertainties.new_zeros(self.buffer_size)
        index = (th.arange(len(uncertainties), device=self.device) + self.pos) % self.buffer_size
        self.uncertainties[index] = uncertainties
        super().write(**rows)

    def sample_with_uncertainty(self, batch_size: int) -> tuple[ReplayBufferSamples, th.Tensor]:
        """Uniformly drawn rows, as by ``sample``, and their u (batch_size, 1)."""
        index = self.sample_index(batch_size)
        return self._get_samples(index), self.uncertainties.index_select(0, index).unsqueeze(1)
