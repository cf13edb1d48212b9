"""
CQL as it is usually written, the yardstick of :mod:`benchmarks.speed`: SB3's SAC loop with the conservative term added.

Each state is repeated beside every sampled action through actor and critics, losses are read after each step, and SB3's own
buffer and optimisers are used as they come. It computes what :class:`sb3_offline.CQL` computes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import polyak_update

from sb3_offline.datasets import OfflineDataset, SpacesOnlyEnv


class ReferenceCQL(SAC):
    """SB3's SAC, whose critics also pay alpha (logsumexp_a Q(s, a) - Q(s, a_data))."""

    conservative_weight = 2.5
    n_action_samples = 10

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        self.policy.set_training_mode(True)
        losses: dict[str, list[float]] = {"critic": [], "actor": [], "ent_coef": []}
        for _ in range(gradient_steps):
            batch: Any = self.replay_buffer.sample(batch_size)  # type: ignore[union-attr]
            actions_pi, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            ent_coef = th.exp(self.log_ent_coef.detach())  # type: ignore[union-attr]
            ent_coef_loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()  # type: ignore[operator]
            losses["ent_coef"].append(ent_coef_loss.item())
            _step(self.ent_coef_optimizer, ent_coef_loss)

            with th.no_grad():
                next_actions, _ = self.actor.action_log_prob(batch.next_observations)
                next_q = th.cat(self.critic_target(batch.next_observations, next_actions), dim=1).amin(dim=1, keepdim=True)
                target = batch.rewards + (1 - batch.dones) * self.gamma * next_q
            current = self.critic(batch.observations, batch.actions)
            critic_loss = 0.5 * sum(F.mse_loss(q, target) for q in current)
            conservative = sum(
                soft - q.mean() for soft, q in zip(self.soft_maxima(batch), current, strict=True)
            )  # E_s logsumexp_a Q(s, a) - E_D Q
            critic_loss = critic_loss + self.conservative_weight * conservative
            losses["critic"].append(critic_loss.item())
            _step(self.critic.optimizer, critic_loss)

            q_pi = th.cat(self.critic(batch.observations, actions_pi), dim=1).amin(dim=1, keepdim=True)
            actor_loss = (ent_coef * log_prob - q_pi).mean()
            losses["actor"].append(actor_loss.item())
            _step(self.actor.optimizer, actor_loss)
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        self._n_updates += gradient_steps
        for name, values in losses.items():
            self.logger.record(f"train/{name}_loss", np.mean(values))

    def soft_maxima(self, batch: Any) -> list[th.Tensor]:
        """E_s log mean_a exp(Q(s, a) - log p(a)) of each critic, over uniform actions and those of pi(s) and pi(s')."""
        n, (rows, dim) = self.n_action_samples, batch.actions.shape
        observations = batch.observations.repeat_interleave(n, dim=0)
        next_observations = batch.next_observations.repeat_interleave(n, dim=0)
        with th.no_grad():
            actions, log_prob = self.actor.action_log_prob(observations)
            next_actions, next_log_prob = self.actor.action_log_prob(next_observations)
        uniform = th.empty_like(actions).uniform_(-1.0, 1.0)
        uniform_log_prob = th.full_like(log_prob, -dim * math.log(2.0))
        draws = ((uniform, uniform_log_prob), (next_actions, next_log_prob), (actions, log_prob))
        values = [[(q.squeeze(1) - density).view(rows, n) for q in self.critic(observations, a)] for a, density in draws]
        return [(th.logsumexp(th.cat(q, dim=1), dim=1) - math.log(3 * n)).mean() for q in zip(*values, strict=True)]


def _step(optimizer: Any, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make_reference(algorithm: type[SAC], data: OfflineDataset, net_arch: list[int], device: str) -> SAC:
    """SB3's SAC or a child of it, its replay buffer filled with the data."""
    env = SpacesOnlyEnv(data.info.observation_space, data.info.action_space)
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": net_arch}, "buffer_size": len(data), "seed": 0, "device": device}
    model = algorithm("MlpPolicy", env, **options)
    model.set_logger(Logger(None, []))
    buffer = model.replay_buffer
    if not isinstance(buffer, ReplayBuffer):
        raise TypeError("SB3 made no replay buffer.")
    for name in ("observations", "actions", "next_observations", "rewards"):
        column = getattr(data, name)
        getattr(buffer, name)[:, 0] = column
    buffer.dones[:, 0] = data.terminations
    buffer.pos, buffer.full = 0, True
    return model
