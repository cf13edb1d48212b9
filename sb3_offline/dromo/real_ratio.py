"""Automatic f (experimental; named by the DROMO paper as future work): trust data as far as the model's target is biased."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from sb3_offline.arguments import INSIDE_UNIT, check_number
from sb3_offline.buffers.buffers import unscale_actions
from sb3_offline.common.model_based_sac import ModelBasedSAC
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.networks.networks import Batch
from sb3_offline.options import option

BOUNDS = (0.05, 0.95)
N_ROWS, N_DRAWS = 1024, 8  # transitions and draws of the model each an estimate


@option
@dataclass(frozen=True)
class AutoRealRatio:
    """
    f moves at every rollout towards b^2 / (b^2 + sigma^2), within [.05, .95], with b the bias of the model's target and sigma
    the noise of the data's.

    :param start: f at first.
    :param rate: Share of the way at a rollout.
    """

    start: float = 0.5
    rate: float = 0.1

    def __post_init__(self) -> None:
        for name in ("start", "rate"):
            check_number(f"real_ratio[{name!r}]", getattr(self, name), INSIDE_UNIT)


def bias_and_variance(y_data: th.Tensor, y_model: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    b^2 = max(0, E_D (T~Q - T^Q)^2 - sigma^2), and sigma^2, the variance of one sampled target.

    sigma^2 is the model's, as the data hold one sample a pair; the mean of the K draws adds sigma^2 / K to the square.

    :param y_data: T~Q by the logged next states, (B,).
    :param y_model: T^Q by K draws of the model at the same pairs, (K, B).
    """
    variance = y_model.var(dim=0).mean()
    square = (y_data - y_model.mean(dim=0)).square().mean()
    return (square - variance * (1.0 + 1.0 / len(y_model))).clamp(min=0), variance


def optimal_real_ratio(bias2: th.Tensor, variance: th.Tensor) -> float:
    """f* = b^2 / (b^2 + sigma^2), which minimises f^2 sigma^2 + (1 - f)^2 b^2, clipped to [.05, .95]."""
    return float((bias2 / (bias2 + variance).clamp(min=1e-12)).clamp(*BOUNDS))


@th.no_grad()
def next_real_ratio(model: ModelBasedSAC, rate: float) -> float:
    """f moved towards f*, estimated on rows of the data with the target critics and draws of the model."""
    generator, nets, (low, high) = model.streams["real_ratio"], model.networks(), model._action_bounds
    rows = th.randint(model.replay_buffer.size(), (N_ROWS,), generator=generator, device=model.device)
    data = Batch.of(model.replay_buffer._get_samples(rows))

    def target(batch: Batch) -> th.Tensor:
        normals = model.normals(len(batch.rewards), 1, batch.actions.shape[1], stream="real_ratio")
        return model.td_target(nets, batch, SACNoise(next_action=normals, action=normals))

    def imagined() -> Batch:
        actions = unscale_actions(data.actions, low, high)
        sample = model.dynamics.sample(data.observations, actions, generator)
        ended = model.termination(data.observations, actions, sample.next_observations)
        paid = sample.rewards + model.dynamics.end_reward(sample.next_observations, ended)
        rewards = model.reward_factor * paid + model.reward_shift
        return data._replace(next_observations=sample.next_observations, rewards=rewards, dones=ended.float())

    y_model = th.stack([target(imagined()) for _ in range(N_DRAWS)])
    finite = y_model.isfinite().all(dim=0)  # as in rollouts, rows that left the finite numbers do not count
    if not bool(finite.any()):
        return model.real_ratio
    best = optimal_real_ratio(*bias_and_variance(target(data)[finite], y_model[:, finite]))
    return model.real_ratio + rate * (best - model.real_ratio)
