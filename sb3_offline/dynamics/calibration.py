"""Calibration of the ensemble: each member's forecast, one dimension at a time, recalibrated as it is sampled."""

from __future__ import annotations

import numpy as np
import torch as th
from torch import nn

from sb3_offline.dynamics.recalibration import CalibrationMethod, Calibrator, fit_calibrator, normal_cdf, normal_quantile

KNOTS = 71
REACH = 3.5  # normal scores that the tables cover
MIN_CALIBRATION_ROWS = 60
MAX_CALIBRATION_ROWS = 5000


class CalibrationMaps(nn.Module):
    """
    For each member and dimension the increasing map G from a standard normal to the recalibrated standardised residual:
    s' = mu + sigma G(n). It is kept as a table over normal scores, with straight lines between and beyond.

    :param n_members: M
    :param n_outputs: D
    """

    active: th.Tensor  # () bool: False is no calibration
    table: th.Tensor  # (M, D, KNOTS)
    shift: th.Tensor  # (M, D) mean and standard deviation of G(n)
    scale: th.Tensor

    def __init__(self, n_members: int, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.register_buffer("active", th.tensor(False))
        self.register_buffer("table", th.linspace(-REACH, REACH, KNOTS).repeat(n_members, n_outputs, 1))
        self.register_buffer("shift", th.zeros(n_members, n_outputs))
        self.register_buffer("scale", th.ones(n_members, n_outputs))

    def forward(self, noise: th.Tensor, members: th.Tensor) -> th.Tensor:
        """
        G of standard normals.

        :param noise: (B, D)
        :param members: (B,) whose map each row takes
        """
        if not self.active:
            return noise
        position = (noise + REACH) * ((KNOTS - 1) / (2 * REACH))
        low = position.floor().clamp(0, KNOTS - 2)
        maps = members[:, None] * self.n_outputs + th.arange(self.n_outputs, device=noise.device)
        index = maps * KNOTS + low.long()
        left, right = self.table.take(index), self.table.take(index + 1)
        return left + (position - low) * (right - left)

    def fit(self, method: CalibrationMethod, residuals: th.Tensor) -> None:
        """
        Fit every map to held-out rows. A dimension whose residuals are all equal is left alone.

        :param method: "std", "isotonic" or "scaling-binning"
        :param residuals: (M, T, D) of each member, standardised by its own mean and std; rows in random order
        :raises ValueError: too few rows
        :raises ImportError: "isotonic" without scikit-learn
        """
        n_members, n_rows, n_outputs = residuals.shape
        if n_rows < MIN_CALIBRATION_ROWS:
            raise ValueError(
                f"calibration={method!r} needs at least {MIN_CALIBRATION_ROWS} rows of its own, and has {n_rows}: bring more "
                "data, raise calibration_fraction in dynamics_kwargs, or leave the calibration out."
            )
        z = residuals.double().cpu().numpy()
        grid = np.linspace(-REACH, REACH, KNOTS)
        spread = normal_quantile((np.arange(4000) + 0.5) / 4000)  # a standard normal, to take moments of G
        for m in range(n_members):
            for d in range(n_outputs):
                if np.ptp(z[m, :, d]) > 0:
                    calibrator: Calibrator = fit_calibrator(method, z[m, :, d])
                    drawn = calibrator.quantile(spread)
                    self.table[m, d] = th.as_tensor(calibrator.quantile(grid))
                    self.shift[m, d], self.scale[m, d] = float(drawn.mean()), float(drawn.std())
        self.active.fill_(True)

    def pit(self, residuals: th.Tensor) -> np.ndarray:
        """
        Probability integral transforms under the recalibrated forecasts, uniform where they are right.

        :param residuals: (M, T, D), standardised
        :return: (M, T, D), float64
        """
        z = residuals.double().cpu().numpy()
        if not self.active:
            return normal_cdf(z)
        table, grid = self.table.double().cpu().numpy(), np.linspace(-REACH, REACH, KNOTS)
        scores = np.empty_like(z)
        for m in range(z.shape[0]):
            for d in range(z.shape[2]):
                scores[m, :, d] = np.interp(z[m, :, d], table[m, d], grid)
        return normal_cdf(scores)
