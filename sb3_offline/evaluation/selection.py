"""Callbacks for those who have no simulator: keep the model that an estimator likes best, stop when held-out figures turn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.arguments import NOT_NEGATIVE, check_count, check_number
from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.sources import Source
from sb3_offline.ope import FQE, Estimate, Estimator

#: Which way each of ``learn``'s validation figures is better: -1 for less. The others have no better side of their own.
BETTER = {"td_error": -1, "likelihood": 1}


class OfflineSelectionCallback(BaseCallback):
    """
    Estimates the policy now and then from logged data, logs ``offline/value``, ``offline/low`` and ``offline/ood_score``, and
    keeps the model of the highest lower bound as ``best_offline_model.zip``. No environment is stepped.

    :param dataset: logged episodes, best such as are not trained on: the second half of ``dataset.split()``
    :param save_path: folder of ``best_offline_model.zip``
    :param freq: gradient steps between estimates
    :param estimator: :class:`~sb3_offline.ope.FQE` with 2000 steps if not given
    """

    def __init__(
        self,
        dataset: OfflineDataset | Source,
        save_path: str | Path,
        freq: int = 10_000,
        estimator: Estimator | None = None,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.dataset = dataset if isinstance(dataset, OfflineDataset) else load_dataset(dataset)
        self.path, self.freq = Path(save_path) / "best_offline_model.zip", check_count("freq", freq)
        self.estimator = FQE(n_steps=2000) if estimator is None else estimator
        self.history: list[tuple[int, Estimate]] = []
        self.best = -math.inf

    def _on_step(self) -> bool:
        if self.n_calls % self.freq == 0:
            self._judge()
        return True

    def _on_training_end(self) -> None:
        if self.n_calls % self.freq != 0:  # the last model counts, too
            self._judge()

    def _judge(self) -> None:
        estimate = self.estimator.estimate(self.model, self.dataset)
        self.history.append((self.num_timesteps, estimate))
        for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high)):
            self.logger.record(f"offline/{name}", value)
        if "ood_score" in estimate.diagnostics:
            self.logger.record("offline/ood_score", estimate.diagnostics["ood_score"])
        if estimate.bound > self.best or not self.path.exists():
            self.best = estimate.bound
            self.model.save(self.path)


class StopOnValidation(BaseCallback):
    """
    Ends ``learn(validation=...)`` when a held-out figure has not been better for a while.

    :param figure: "td_error" (less is better) or "likelihood" (more is)
    :param patience: looks in a row without an improvement
    :param freq: gradient steps between looks
    :param min_improvement: by which a figure must be better to count, as a share of its size
    :raises ValueError: for another figure; at the start of training, if there is no validation
    """

    def __init__(self, figure: str = "td_error", patience: int = 5, freq: int = 1000, min_improvement: float = 0.0):
        super().__init__()
        if figure not in BETTER:
            raise ValueError(f"figure must be one of {', '.join(BETTER)}, got {figure!r}: the others have no better side.")
        self.figure, self.patience, self.freq = figure, check_count("patience", patience), check_count("freq", freq)
        self.min_improvement = check_number("min_improvement", min_improvement, NOT_NEGATIVE)
        self.best, self.best_step, self.worse = -math.inf, 0, 0

    def _on_training_start(self) -> None:
        if self._validation is None:
            raise ValueError("StopOnValidation looks at held-out data: call learn(..., validation=0.1), or give it data.")
        known = self._validation.names
        if self.figure not in known:
            name = type(self.model).__name__
            raise ValueError(f"{name} has no {self.figure}: take StopOnValidation({known[0]!r}).")

    @property
    def _validation(self) -> Any:
        return getattr(self.model, "validation", None)

    def _on_step(self) -> bool:
        if self.n_calls % self.freq != 0:
            return True
        value = BETTER[self.figure] * self._validation.figures()[self.figure]
        if value > self.best + self.min_improvement * abs(self.best if math.isfinite(self.best) else 0.0):
            self.best, self.best_step, self.worse = value, self.num_timesteps, 0
        else:
            self.worse += 1
        return self.worse < self.patience
