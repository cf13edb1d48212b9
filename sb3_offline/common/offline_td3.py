"""TD3's update on logged data: a deterministic actor that steps now and then, and a target smoothed by noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.arguments import NOT_NEGATIVE, check_count, check_number
from sb3_offline.common.actor_critic import OfflineActorCritic
from sb3_offline.networks.networks import Batch, Logs, TD3Networks
from sb3_offline.networks.policies import TD3_POLICIES


@dataclass(frozen=True)
class TD3Noise:
    """Standard normals that smooth the target's actions, (B, 1, action_dim)."""

    next_action: th.Tensor


class OfflineTD3(OfflineActorCritic, TD3):
    """
    Twin Delayed DDPG (Fujimoto et al. 2018) on a fixed dataset, the parent of the algorithms with a deterministic actor. Its
    policy is :class:`~sb3_offline.networks.policies.OfflineTD3Policy`, with ``policy_kwargs`` of its own.

    :param policy_delay: The actor and the targets step once in so many updates.
    :param target_policy_noise: Standard deviation of the noise on the target's actions, in units of [-1, 1].
    :param target_noise_clip: Its largest absolute value.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = TD3_POLICIES

    def __init__(
        self,
        *args: Any,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        **kwargs: Any,
    ):
        kwargs["policy_delay"] = check_count("policy_delay", policy_delay)
        kwargs["target_policy_noise"] = check_number("target_policy_noise", target_policy_noise, NOT_NEGATIVE)
        kwargs["target_noise_clip"] = check_number("target_noise_clip", target_noise_clip, NOT_NEGATIVE)
        super().__init__(*args, **kwargs)

    def networks(self) -> TD3Networks:
        """The view of the networks that the losses get."""
        return TD3Networks(self.policy, self.normalizer)

    def draw_noise(self, batch: Batch) -> Any:
        return TD3Noise(self.normals(len(batch.rewards), 1, batch.actions.shape[1]))

    @th.no_grad()
    def td_target(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> th.Tensor:
        """y = r + gamma (1 - done) min_j Q'_j(s', a'), a' the target actor's smoothed action: (B,)."""
        actions = self.smoothed_action(nets, batch, noise)
        value = nets.q_target(batch.next_observations, actions).amin(dim=0).squeeze(-1)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def smoothed_action(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> th.Tensor:
        """clip(mu'(s') + clip(sigma eps, -c, c), -1, 1), (B, 1, action_dim)."""
        c = self.target_noise_clip
        epsilon = (self.target_policy_noise * noise.next_action).clamp(-c, c)
        return (nets.target_action(batch.next_observations) + epsilon).clamp(-1.0, 1.0)

    def actor_loss(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> tuple[th.Tensor, Logs]:
        """-E Q_1(s, mu(s)) over the batch's states."""
        loss = -nets.q1_frozen(batch.observations, nets.action(batch.observations)).mean()
        return loss, {"actor_loss": loss}

    def next_actions(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> th.Tensor:
        return self.smoothed_action(nets, batch, noise).squeeze(1)

    def exploration_noise(self) -> ActionNoise:
        """Normal, a tenth of [-1, 1]'s half width (Fujimoto et al. 2018)."""
        shape = self.action_space.shape or ()
        return NormalActionNoise(np.zeros(shape), np.full(shape, 0.1))
