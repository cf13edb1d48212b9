"""What the model report measures, one function a question. Observations are compared in standard deviations of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics.actions import encode_actions
from sb3_offline.dynamics.calibration_metrics import CalibrationError, calibration_error
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.dynamics.penalties import PENALTIES, Forecast
from sb3_offline.dynamics.rollout import rollout
from sb3_offline.dynamics.termination import TerminationFn
from sb3_offline.dynamics.world import Columns, standardized_residuals

MIN_STARTS = 20  # a curve ends where fewer episodes go on
MAX_REFERENCE_ROWS = 5000  # of the data, that neighbours are looked up in

PolicyFn = Callable[[th.Tensor], th.Tensor]


@dataclass(frozen=True)
class OneStep:
    """Root mean square errors on held-out rows, per dimension: observations, then the reward; in environment units."""

    error: tuple[float, ...]
    no_change: tuple[float, ...]  # of s' = s, and of the mean reward
    gain: float  # no-change error over error, both the root mean square over observations in the data's std
    reward_explained: float  # 1 - error^2 / variance


@dataclass(frozen=True)
class OpenLoop:
    """After k steps of logged actions, without looking: root mean squares over coordinates, in the data's std."""

    steps: tuple[int, ...]
    error: tuple[float, ...]  # of the elites' mean
    spread: tuple[float, ...]  # std across the elites
    no_change: tuple[float, ...]


@dataclass(frozen=True)
class Coverage:
    """Where imagined states lie, per step of a rollout; distances to the nearest state of the data, in its std."""

    steps: tuple[int, ...]
    outside: tuple[float, ...]  # share of states with a coordinate beyond the data's range
    distance_median: tuple[float, ...]
    distance_95: tuple[float, ...]
    data_median: float  # the data's own distances
    data_95: float


@dataclass(frozen=True)
class TerminationAgreement:
    """What ends imagined episodes, tried on the data."""

    precision: float
    recall: float
    n_terminal: int
    n_rows: int


@th.no_grad()
def one_step(model: EnsembleDynamics, columns: Columns) -> OneStep:
    mean, _ = model.moments(columns.observations, columns.actions)
    targets = columns.targets
    error = (mean[model.elites].mean(dim=0) - targets).square().mean(dim=0)
    reward_variance = columns.rewards.var(correction=0)
    no_change = th.cat([targets[:, :-1].square().mean(dim=0), reward_variance[None]])
    scale = _scale(columns.observations).square()
    gain = ((no_change[:-1] / scale).mean() / (error[:-1] / scale).mean().clamp(min=1e-12)).sqrt()
    explained = 1 - float(error[-1] / reward_variance) if reward_variance > 0 else float(error[-1] < 1e-6)
    return OneStep(tuple(error.sqrt().tolist()), tuple(no_change.sqrt().tolist()), float(gain), explained)


@th.no_grad()
def open_loop(
    model: EnsembleDynamics, dataset: OfflineDataset, rows: np.ndarray, horizon: int, rng: np.random.Generator
) -> OpenLoop:
    """
    :param rows: rows of whole episodes; up to 256 of them, drawn from ``rng``, are starts
    """
    ends = dataset.episode_ends[np.searchsorted(dataset.episode_ends, rows)]
    left = np.minimum(ends - rows + dataset.valid_next[ends], horizon)  # steps whose outcome is known
    chosen = rng.permutation(np.flatnonzero(left >= min(horizon, int(np.quantile(left, 0.5)))))[:256]
    starts, left = rows[chosen], left[chosen]
    observations, actions, following = (
        th.as_tensor(array, device=model.device)
        for array in (dataset.observations, encode_actions(dataset.actions, dataset.action_space), dataset.next_observations)
    )
    scale = _scale(observations)
    index = th.as_tensor(starts, device=model.device)
    states = observations[index].expand(model.n_members, -1, -1)
    curves: list[tuple[int, float, float, float]] = []
    for k in range(1, horizon + 1):
        going = th.as_tensor(left >= k, device=model.device)
        if int(going.sum()) < min(MIN_STARTS, len(starts)):
            break
        row = (index + k - 1).clamp(max=len(dataset) - 1)
        mean, _ = model(states, actions[row].expand(model.n_members, -1, -1))
        states = states + mean[..., :-1]
        elites = states[model.elites][:, going] / scale
        truth, start = following[row][going] / scale, observations[index][going] / scale
        error = (elites.mean(dim=0) - truth).square().mean().sqrt()
        spread = elites.var(dim=0, correction=0).mean().sqrt()
        curves.append((k, float(error), float(spread), float((start - truth).square().mean().sqrt())))
    steps, errors, spreads, no_change = zip(*curves, strict=True)
    return OpenLoop(steps, errors, spreads, no_change)


def calibration(model: EnsembleDynamics, columns: Columns) -> CalibrationError:
    """Of the elites' forecasts as they are sampled, all dimensions pooled."""
    pit = model.calibration.pit(standardized_residuals(model, columns))
    return calibration_error(pit[model.elites.cpu().numpy()].ravel())


@th.no_grad()
def penalty_correlations(model: EnsembleDynamics, columns: Columns) -> dict[str, float]:
    """Spearman's correlation of each penalty with the error of the elites' mean, in standard deviations of the targets."""
    mean, std = model.moments(columns.observations, columns.actions)
    forecast = Forecast(mean, std, model.residual_std)
    error = ((mean[model.elites].mean(dim=0) - columns.targets) / model.target_std).norm(dim=1)
    return {name: _spearman(u(forecast), error) for name, u in PENALTIES.items()}


def termination_agreement(termination: TerminationFn, columns: Columns) -> TerminationAgreement | None:
    """None where the data holds no termination."""
    truth = columns.terminations
    if not truth.any():
        return None
    called = termination(columns.observations, columns.actions, columns.next_observations)
    hits, n_called, n_true = (float(x.sum()) for x in (called & truth, called, truth))
    return TerminationAgreement(hits / max(n_called, 1.0), hits / n_true, int(n_true), len(truth))


@th.no_grad()
def coverage(
    model: EnsembleDynamics,
    observations: th.Tensor,
    policy: PolicyFn,
    termination: TerminationFn,
    horizon: int,
    generator: th.Generator,
) -> Coverage:
    """
    :param observations: (n, observation_dim) of the data; 256 of them are starts
    """
    device = generator.device
    order = th.randperm(len(observations), generator=generator, device=device).to(observations.device)
    reference, scale = observations[order[:MAX_REFERENCE_ROWS]], _scale(observations)
    imagined = rollout(model, observations[order[-256:]], policy, termination, horizon, generator)
    low, high = observations.amin(dim=0), observations.amax(dim=0)
    margin = 0.01 * (high - low)
    figures = []
    for step, states in enumerate(_by_step(imagined.next_observations, imagined.starts), start=1):
        if len(states) < MIN_STARTS:
            break
        outside = ((states < low - margin) | (states > high + margin)).any(dim=1).float().mean()
        distance = th.cdist(states / scale, reference / scale).amin(dim=1)
        figures.append((step, float(outside), float(distance.median()), float(distance.quantile(0.95))))
    others = observations[order[MAX_REFERENCE_ROWS:][:1000]]
    own = (
        _neighbour_distance(others, reference, scale)
        if len(others)
        else _neighbour_distance(reference[:1000], reference, scale)
    )
    steps, outsides, medians, upper = zip(*figures, strict=True) if figures else ((), (), (), ())
    return Coverage(steps, outsides, medians, upper, float(own.median()), float(own.quantile(0.95)))


@th.no_grad()
def elite_stability(model: EnsembleDynamics, columns: Columns, rng: np.random.Generator, n_resamples: int = 200) -> float:
    """Mean share of the elites that are elites again on a resample of the rows; by chance n_elites / n_members."""
    mean, _ = model(columns.observations, columns.actions)
    error = ((mean - columns.targets) / model.target_std).square().mean(dim=2).double().cpu().numpy()  # (M, n)
    n_elites, shares = len(model.elites), []
    chosen = set(model.elites.tolist())
    for _ in range(n_resamples):
        rows = rng.integers(error.shape[1], size=error.shape[1])
        shares.append(len(chosen & set(np.argsort(error[:, rows].mean(axis=1))[:n_elites].tolist())) / n_elites)
    return float(np.mean(shares))


def neighbour_policy(observations: th.Tensor, actions: th.Tensor) -> PolicyFn:
    """The data's own behaviour: the action that was logged at the nearest state."""
    scale, reference, logged = _scale(observations), observations[:MAX_REFERENCE_ROWS], actions[:MAX_REFERENCE_ROWS]
    return lambda states: logged[th.cdist(states / scale, reference / scale).argmin(dim=1)]


def _by_step(states: th.Tensor, starts: th.Tensor) -> Iterator[th.Tensor]:
    """Rows of a rollout, step by step: within a step the starts increase."""
    breaks = (starts[1:] <= starts[:-1]).nonzero().squeeze(1) + 1
    yield from states.tensor_split(breaks.cpu()) if len(states) else ()


def _neighbour_distance(states: th.Tensor, reference: th.Tensor, scale: th.Tensor) -> th.Tensor:
    """To the nearest row of ``reference`` that is not the state itself."""
    distance = th.cdist(states / scale, reference / scale)
    return distance.masked_fill((states[:, None] == reference[None]).all(dim=2), th.inf).amin(dim=1)


def _scale(observations: th.Tensor) -> th.Tensor:
    std = observations.std(dim=0, correction=0)
    return th.where(std <= 1e-6 * observations.abs().amax(dim=0), 1.0, std)


def _spearman(x: th.Tensor, y: th.Tensor) -> float:
    ranks = np.stack([_ranks(values.double().cpu().numpy()) for values in (x, y)])
    if np.ptp(ranks, axis=1).min() == 0:
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts - 1))[group]
