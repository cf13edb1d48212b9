"""Evaluation during training, with normalised scores."""

from __future__ import annotations

import math
from typing import Any

from stable_baselines3.common.callbacks import EvalCallback

from sb3_offline.evaluation.masking import masked_by


class OfflineEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback``, which also logs ``eval/normalized_score`` (0 = random, 100 = the dataset's reference).

    Takes the arguments of ``EvalCallback``; ``eval_freq`` counts gradient steps. ``last_normalized_score`` is ``None`` for
    data without reference scores. In an environment with ``action_masks`` (sb3-contrib's name) the discrete algorithms choose
    among what these allow.
    """

    last_normalized_score: float | None = None
    _last_mean_reward = -math.inf

    def _on_step(self) -> bool:
        with masked_by(self.model, self.eval_env):
            return super()._on_step()

    @property
    def last_mean_reward(self) -> float:
        """Of the latest evaluation. SB3 assigns it just before it records its own values, so the score joins their table."""
        return self._last_mean_reward

    @last_mean_reward.setter
    def last_mean_reward(self, value: float) -> None:
        self._last_mean_reward = value
        info: Any = getattr(getattr(self, "model", None), "dataset_info", None)
        if info is not None and math.isfinite(value):
            self.last_normalized_score = info.normalized_score(value)
            if self.last_normalized_score is not None:
                self.logger.record("eval/normalized_score", self.last_normalized_score)
