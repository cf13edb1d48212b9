"""From a dataset to a fitted world: which rows each fit sees, the ensemble, its calibration, the end of episodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_offline.buffers.rows import HostRows, Rows
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import is_mapped
from sb3_offline.dynamics.actions import encode_actions
from sb3_offline.dynamics.calibration import MAX_CALIBRATION_ROWS
from sb3_offline.dynamics.config import DynamicsConfig
from sb3_offline.dynamics.end_reward import EndReward
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.dynamics.fit_checkpoint import FitCheckpoint
from sb3_offline.dynamics.reward import UserReward
from sb3_offline.dynamics.termination import UserTermination, known_rule, never_ended
from sb3_offline.dynamics.termination_fit import MIN_TERMINATIONS, check_counts, fit_termination_head
from sb3_offline.dynamics.termination_head import TerminationHead, TerminationReport
from sb3_offline.dynamics.training import EpochStats, FitReport, fit_ensemble
from sb3_offline.execution.precision import Precision
from sb3_offline.training.rng import Streams
from sb3_offline.training.schedules import CosineSchedule

_MODELLED = ("observations", "actions", "next_observations", "rewards")
_PAYING = ("rewards", "next_observations", "terminations")


@dataclass(frozen=True)
class Columns:
    """Transitions as tensors on one device, in environment units."""

    observations: th.Tensor  # (n, observation_dim)
    actions: th.Tensor  # (n, action_dim), one-hot where they are discrete
    next_observations: th.Tensor  # (n, observation_dim)
    rewards: th.Tensor  # (n,), of rows that end less what ending pays, if that is said
    terminations: th.Tensor  # (n,) bool

    @classmethod
    def of(cls, dataset: OfflineDataset, rows: np.ndarray, device: th.device, end_reward: EndReward | None = None) -> Columns:
        columns = {name: getattr(dataset, name)[rows] for name in (*_MODELLED, "terminations")}
        columns["actions"] = encode_actions(columns["actions"], dataset.action_space)
        if end_reward is not None:
            columns["rewards"] = end_reward.taken_out(**{name: columns[name] for name in _PAYING})
        return cls(**{name: th.as_tensor(column, device=device) for name, column in columns.items()})

    @property
    def targets(self) -> th.Tensor:
        """(n, observation_dim + 1): what the model predicts."""
        return th.cat([self.next_observations - self.observations, self.rewards[:, None]], dim=1)


def build_dynamics(
    observation_dim: int, action_dim: int, config: DynamicsConfig, streams: Streams, device: th.device
) -> EnsembleDynamics:
    """The model that ``config`` describes, not fitted; every tensor's shape follows from the arguments."""
    return EnsembleDynamics(
        observation_dim,
        action_dim,
        n_members=config.n_members,
        n_elites=config.n_elites,
        hidden_sizes=config.sizes(observation_dim + action_dim),
        weight_decay=config.weight_decay,
        termination_head=TerminationHead(observation_dim, action_dim, generator=streams.cpu("termination_init")),
        generator=streams.cpu("dynamics_init"),
    ).to(device)


def fit_world(
    model: EnsembleDynamics,
    dataset: OfflineDataset,
    config: DynamicsConfig,
    streams: Streams,
    *,
    precision: Precision = "float32",
    on_epoch: Callable[[EpochStats], bool | None] | None = None,
    progress_bar: bool = False,
    checkpoint: FitCheckpoint | None = None,
) -> FitReport:
    """
    Fit the ensemble, calibrate it on rows of their own, and fit the termination head where it is needed. Each draws from
    its own stream ("dynamics", "calibration", "termination"). The other parameters are those of :func:`fit_ensemble`.

    :raises ValueError: too little data for one of the parts, or data that are not finite; or a user's function that cannot
        take or return rows, before anything is fitted
    """
    try_functions(dataset, config, model.device)
    rows, _ = split_episodes(dataset, test_interval(dataset, config))
    calibration_rows = rows[:0]
    if config.calibration != "none":
        n = min(int(config.calibration_fraction * len(rows)), MAX_CALIBRATION_ROWS)
        shuffled = rows[permutation(len(rows), streams["calibration"])]
        calibration_rows, rows = shuffled[:n], np.sort(shuffled[n:])
    fit_end_reward(model.end_reward, dataset, rows, config)
    report = fit_ensemble(
        model,
        th.optim.Adam(model.member_parameters(), lr=config.learning_rate, fused=True),
        *_modelled(dataset, rows, model.device, model.end_reward),
        generator=streams["dynamics"],
        batch_size=config.rows_a_step(len(rows)),
        holdout_fraction=config.holdout_fraction,
        max_epochs=config.epochs(len(rows)),
        patience=config.patience,
        schedule=CosineSchedule(config.learning_rate),
        logvar_loss_weight=config.logvar_loss_weight,
        precision=precision,
        on_epoch=on_epoch,
        progress_bar=progress_bar,
        checkpoint=checkpoint,
    )
    held_out = model.holdout_rows >= 0
    model.holdout_rows[held_out] = th.as_tensor(rows, device=model.device)[model.holdout_rows[held_out]]
    model.test_every.fill_(test_interval(dataset, config))
    if config.calibration != "none":
        residuals = standardized_residuals(model, Columns.of(dataset, calibration_rows, model.device, model.end_reward))
        model.calibration.fit(config.calibration, residuals)
    fit_termination(model, dataset, config, streams)
    return report


@th.no_grad()
def try_functions(dataset: OfflineDataset, config: DynamicsConfig, device: th.device, n_rows: int = 10) -> None:
    """
    Call the user's termination and reward with the first rows of the data: a fit takes too long to find out afterwards.

    :raises ValueError: if one raises, or returns what cannot be
    :raises TypeError: if one returns another kind of result
    """
    columns = Columns.of(dataset, np.flatnonzero(dataset.valid_next)[:n_rows], device)
    rows = columns.observations, columns.actions, columns.next_observations
    if callable(config.termination):
        UserTermination(config.termination)(*rows)
    if config.reward is not None:
        UserReward(config.reward)(*rows)


def _modelled(
    dataset: OfflineDataset, rows: np.ndarray, device: th.device, end_reward: EndReward
) -> tuple[Rows, Rows, Rows, Rows]:
    """Observations, actions, next observations and rewards of these rows; left in their files if they are mapped."""
    if is_mapped(dataset):
        encode = functools.partial(encode_actions, space=dataset.action_space)
        o, n = (HostRows(getattr(dataset, name), device, rows) for name in ("observations", "next_observations"))
        rewards = end_reward.taken_out(**{name: getattr(dataset, name) for name in _PAYING})
        return o, HostRows(dataset.actions, device, rows, read=encode), n, HostRows(rewards, device, rows)
    known = Columns.of(dataset, rows, device, end_reward)
    return known.observations, known.actions, known.next_observations, known.rewards


def fit_end_reward(end_reward: EndReward, dataset: OfflineDataset, rows: np.ndarray, config: DynamicsConfig) -> None:
    """
    Fit what ending pays, where an imagined episode can end.

    :param rows: those that the fit sees
    """
    ends = needs_head(dataset, config) or callable(config.termination)
    rule = known_rule(dataset.info.env_spec) if config.termination == "auto" else None
    if not ends and (rule is None or rule is never_ended):
        return
    ended = np.asarray(dataset.terminations[rows], dtype=bool)
    parts = dataset.next_observations[rows[ended]], dataset.rewards[rows[ended]], dataset.rewards[rows[~ended]]
    end_reward.fit(*(th.as_tensor(part, device=end_reward.paid.device) for part in parts))


def fit_termination(
    model: EnsembleDynamics, dataset: OfflineDataset, config: DynamicsConfig, streams: Streams
) -> TerminationReport | None:
    """Fit the termination head where it is needed and not fitted yet."""
    head = model.termination_head
    if head is None or bool(head.fitted) or not needs_head(dataset, config):
        return None
    rows, _ = split_episodes(dataset, int(model.test_every))
    columns = Columns.of(dataset, rows, model.device)
    return fit_termination_head(
        head,
        columns.observations,
        columns.actions,
        columns.next_observations,
        columns.terminations,
        generator=streams["termination"],
    )


def needs_head(dataset: OfflineDataset, config: DynamicsConfig) -> bool:
    """
    Whether imagined episodes are to end where a learned classifier says so: "learned" if the data holds any termination,
    "auto" if no rule is known and the data holds enough of them.

    :raises ValueError: "learned" with too few terminations to learn from
    """
    n_terminal = int((dataset.terminations & dataset.valid_next).sum())
    if config.termination == "learned" and dataset.terminations.any():
        check_counts(n_terminal, int(dataset.valid_next.sum()) - n_terminal)
        return True
    return config.termination == "auto" and known_rule(dataset.info.env_spec) is None and n_terminal >= MIN_TERMINATIONS


def test_interval(dataset: OfflineDataset, config: DynamicsConfig) -> int:
    """
    Every how many episodes one is kept from all fits; 0 for none.

    :raises ValueError: for fewer than two episodes
    """
    if config.test_fraction == 0:
        return 0
    if dataset.n_episodes < 2:
        raise ValueError(
            f"test_fraction={config.test_fraction:g} sets whole episodes aside, but the data hold {dataset.n_episodes}. "
            "Leave it out, or bring more episodes."
        )
    return round(1 / config.test_fraction)


def split_episodes(dataset: OfflineDataset, every: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows with a known next observation: those that fits may see, and those of every ``every``-th episode, from the first
    (none if 0). Logs are ordered by time, so the latter are spread over it.

    :raises ValueError: if there are fewer than two such rows
    """
    valid = dataset.valid_next
    if valid.sum() < 2:
        if valid.all():
            raise ValueError(f"{dataset.info.dataset_id}: one row is too few for a dynamics model. Bring more data.")
        raise ValueError(
            f"{dataset.info.dataset_id}: a dynamics model learns from next observations, and of {len(dataset)} rows "
            f"{int(valid.sum())} have one that was logged. Log next_observations also where an episode terminates, or take a "
            "model-free algorithm (CQL, OfflineSAC)."
        )
    if every == 0:
        return np.flatnonzero(valid), np.flatnonzero(valid)[:0]
    episode = np.repeat(np.arange(dataset.n_episodes), dataset.episode_lengths())
    test = episode % every == 0
    return np.flatnonzero(valid & ~test), np.flatnonzero(valid & test)


def held_out_rows(model: EnsembleDynamics, dataset: OfflineDataset) -> np.ndarray:
    """Rows of the data that the weights were not fitted to; at most 1000 spread over all, if the model does not know any."""
    rows = model.holdout_rows[model.holdout_rows >= 0].cpu().numpy()
    if len(rows) == 0 or rows.max() >= len(dataset):  # fitted to other data
        valid = np.flatnonzero(dataset.valid_next)
        return valid[:: -(-len(valid) // len(model.holdout_rows))]
    return np.sort(rows)


@th.no_grad()
def standardized_residuals(model: EnsembleDynamics, columns: Columns) -> th.Tensor:
    """(y - mu) / sigma of every member before any calibration, (n_members, n, observation_dim + 1), float64."""
    mean, logvar = model(columns.observations, columns.actions)
    return (columns.targets - mean).double() * (-0.5 * logvar.double()).exp()


def permutation(n: int, generator: th.Generator) -> np.ndarray:
    return th.randperm(n, generator=generator, device=generator.device).cpu().numpy()
