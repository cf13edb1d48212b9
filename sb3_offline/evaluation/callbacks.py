"""Evaluation during training, with normalised scores."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import EvalCallback


class OfflineEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback``, which also logs ``eval/normalized_score`` (0 = random, 100 = the dataset's reference).

    Takes the arguments of ``EvalCallback``; ``eval_freq`` counts gradient steps. ``last_normalized_score`` is ``None`` for
    data without reference scores.
    """

    last_normalized_score: float | None = None

    def _on_step(self) -> bool:
        proceed: Any = super()._on_step()
        info = getattr(self.model, "dataset_info", None)
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0 and info is not None:
            self.last_normalized_score = info.normalized_score(float(self.last_mean_reward))
            if self.last_normalized_score is not None:
                self.logger.record("eval/normalized_score", self.last_normalized_score)
                self.logger.dump(self.num_timesteps)  # EvalCallback has dumped its own values already
        return proceed
