"""MOBILE: Model-Bellman inconsistency penalised offline policy optimization (Sun et al., ICML 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_count, check_number
from sb3_offline.buffers.buffers import unscale_actions
from sb3_offline.common.model_based_sac import PENALIZED_RECIPE, ModelBasedSAC
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.dynamics import DynamicsConfig
from sb3_offline.execution.updates import Call, call_plainly
from sb3_offline.networks.networks import Batch, Logs, SACNetworks

Inconsistency = Literal["bellman", "authors_code"]


@dataclass(frozen=True)
class MOBILENoise(SACNoise):
    """
    And standard normals of what the elites draw at the batch's K imagined rows, the same for each elite, lest elites that
    agree differ by chance: ``model_state`` (n_model_samples, K, observation_dim) and ``model_action``
    (n_model_samples, K, action_dim).
    """

    model_state: th.Tensor
    model_action: th.Tensor


class MOBILE(ModelBasedSAC):
    """
    SAC on imagined transitions whose target pays for what the ensemble's members do not agree on: the target itself,
    y = r - lambda u(s, a) + gamma (1 - done) min_j Q'_j(s', a'), with u the standard deviation over the elites i of
    T_i Q'(s, a) = r_i + gamma (1 - done_i) min_j Q'_j(s'_i, a'_i). Rows of the data pay nothing.

    The defaults are the recipe of :class:`~sb3_offline.MOPO`, on hopper and halfcheetah medium-replay (see the benchmarks'
    page). The paper's settings are the locomotion entries of ``zoo_configs/mobile.yml``.

    :param penalty_weight: lambda.
    :param n_model_samples: M, draws (s'_i, a'_i) of each elite, whose mean makes its target.
    :param inconsistency: "bellman", u as above (the paper's), or "authors_code": the standard deviation of
        min_j Q'_j(s'_i, a'_i) alone, and no target below 0, which is for rewards that are not negative. Published weights
        belong to the latter.
    """

    rows_at_once = (*ModelBasedSAC.rows_at_once, ("batch_size", "n_model_samples"))
    recipe: ClassVar = PENALIZED_RECIPE
    default_policy_kwargs: ClassVar = {"layer_norm": True}

    def __init__(
        self,
        *args: Any,
        penalty_weight: float = 1.0,
        n_model_samples: int = 3,
        inconsistency: Inconsistency = "bellman",
        **kwargs: Any,
    ):
        self.penalty_weight = check_number("penalty_weight", penalty_weight, NOT_NEGATIVE)
        self.n_model_samples = check_count("n_model_samples", n_model_samples)
        if inconsistency not in get_args(Inconsistency):
            raise ValueError(f"inconsistency must be 'bellman' or 'authors_code', got {inconsistency!r}.")
        self.inconsistency: Inconsistency = inconsistency
        if kwargs.get("critic_update", "adam") != "adam":
            raise ValueError("critic_update='normalized_td' has targets of its own: use it with OfflineSAC or MOPO.")
        config = DynamicsConfig.from_kwargs(kwargs.get("dynamics_kwargs"))
        check_count("dynamics_kwargs: n_elites, which MOBILE compares,", config.n_elites, least=2)
        super().__init__(*args, **kwargs)

    def draw_noise(self, batch: Batch) -> MOBILENoise:
        n_rows, dim = batch.observations[batch.n_real :].shape
        state, action = (self.normals(self.n_model_samples, n_rows, n, stream="target") for n in (dim, batch.actions.shape[1]))
        return MOBILENoise(**vars(super().draw_noise(batch)), model_state=state, model_action=action)

    def gradient_step(self, nets: SACNetworks, batch: Batch, noise: MOBILENoise, call: Call = call_plainly) -> Logs:
        """SAC's, on r - lambda u for imagined rows."""
        u = self.member_targets(nets, batch, noise).std(dim=0)  # the sample's, with n_elites - 1
        real, imagined = batch.rewards[: batch.n_real], batch.rewards[batch.n_real :]
        penalized = batch._replace(rewards=th.cat([real, imagined - self.penalty_weight * u]))
        return {**super().gradient_step(nets, penalized, noise, call), "inconsistency": u.mean()}

    @th.no_grad()
    def member_targets(self, nets: SACNetworks, batch: Batch, noise: MOBILENoise) -> th.Tensor:
        """T_i Q'(s, a) of each elite i at the K imagined rows, (n_elites, K), in the scale of the rewards trained on."""
        rows = slice(batch.n_real, None)
        observations, actions = batch.observations[rows], unscale_actions(batch.actions[rows], *self._action_bounds)
        moments = self.dynamics.moments(observations, actions)
        mean, std = (moment.index_select(0, self.dynamics.elites) for moment in moments)  # (n_elites, K, obs + 1)
        drawn = observations + mean[..., :-1] + std[..., :-1] * noise.model_state.unsqueeze(1)  # (M, n_elites, K, obs)
        following = drawn.flatten(0, 2)
        action_noise = noise.model_action.unsqueeze(1).expand(-1, len(mean), -1, -1).flatten(0, 2)
        next_actions = nets.act(following, action_noise.unsqueeze(1))  # (M n_elites K, 1, action_dim)
        value = nets.q_target(following, next_actions).amin(dim=0).view(drawn.shape[:3])
        if self.inconsistency == "authors_code":
            return value.mean(dim=0)
        transitions = *(part.expand(*drawn.shape[:2], -1, -1).flatten(0, 2) for part in (observations, actions)), following
        value = value.masked_fill(self.termination(*transitions).view(value.shape), 0.0)
        rewards = mean[..., -1]
        if self.reward_function is not None:
            rewards = self.reward_function(*transitions).view(value.shape).mean(dim=0)
        return self.reward_factor * rewards + self.reward_shift + self.gamma * value.mean(dim=0)

    @th.no_grad()
    def td_target(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        y = super().td_target(nets, batch, noise)
        return y.clamp(min=0.0) if self.inconsistency == "authors_code" else y

    def capture_obstacle(self) -> str | None:
        config = DynamicsConfig.from_kwargs(self.dynamics_kwargs)
        if callable(config.termination) or config.reward is not None:
            return "a function of yours judges what the members draw"
        return super().capture_obstacle()
