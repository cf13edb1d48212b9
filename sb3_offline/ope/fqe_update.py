"""One gradient step of fitted Q evaluation, in the form that the update runner runs: eagerly, compiled or captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.buffers.storage import make_dataset_buffer
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.precision import Precision
from sb3_offline.execution.updates import Call, Execution, call_plainly
from sb3_offline.networks.networks import Logs
from sb3_offline.networks.policies import NormalizeExtractor
from sb3_offline.ope.fqe_networks import FQENetworks
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.training.rng import Streams

NEAR = 0.05  # of the range between the bounds
N_DRAWS = 8  # next actions kept a row, of a policy that samples continuous ones


@dataclass(frozen=True, eq=False)
class FQEBatch:
    """Rows of the data, with what the policy does next and how often each critic's bootstrap has drawn their episodes."""

    rows: ReplayBufferSamples
    next_policy: th.Tensor  # (B, action_dim) scaled actions, or (B, n_actions) probabilities
    counts: th.Tensor  # (N, B)


class FQEUpdate:
    """
    Q_k <- argmin sum over rows of c_k (Q(s, a) - y_k)^2, y_k = r + gamma (1 - done) E_{a' ~ pi} Q'_k(s', a')
    (Le et al. 2019), with c_k the times that critic k's bootstrap drew the row's episode.

    The networks learn (Q - offset)/scale: ``offset`` is the mean return-to-go of the log and ``scale`` its spread, so that
    they start from the behaviour's value whatever the task's units. A target is kept between what the least and the greatest
    logged reward would give for ever: no policy is worth less or more.

    :param counts: (N, n_episodes)
    :param batch_size: None takes all rows, in order
    """

    execution: Execution = "auto"
    precision: Precision = "float32"

    def __init__(
        self,
        policy: EvaluatedPolicy,
        dataset: OfflineDataset,
        counts: np.ndarray,
        *,
        gamma: float,
        batch_size: int | None,
        net_arch: tuple[int, ...],
        learning_rate: float,
        tau: float,
        streams: Streams,
    ):
        self.device, self.streams, self.gamma, self.batch_size, self.tau = streams.device, streams, gamma, batch_size, tau
        spaces_of = dataset.observation_space, dataset.action_space
        self.buffer = make_dataset_buffer("auto", dataset, *spaces_of, self.device)
        self.buffer.generator = streams["sampling"]
        with streams.scope("fqe_init"):
            self.nets = FQENetworks(*spaces_of, len(counts), net_arch).to(self.device)
        if isinstance(self.nets.features, NormalizeExtractor):
            observations: Any = self.buffer.observations
            moments = observation_moments(observations)
            for features in (self.nets.features, self.nets.target[0]):
                features.fit(*moments)  # type: ignore[operator]
        self.optimizer = th.optim.Adam([*self.nets.features.parameters(), *self.nets.heads.parameters()], lr=learning_rate)
        self.counts = th.as_tensor(
            np.repeat(counts, dataset.episode_lengths(), axis=1).T, dtype=th.float32, device=self.device
        )
        self.next_policy = th.as_tensor(policy_table(policy, dataset.next_observations), device=self.device)
        self._set_units(dataset)

    def _set_units(self, dataset: OfflineDataset) -> None:
        rewards = np.asarray(dataset.rewards, dtype=np.float64)
        returns = returns_to_go(rewards, np.asarray(dataset.terminations), dataset.episode_ends, self.gamma)
        self.offset, self.scale = float(returns.mean()), max(float(returns.std()), 1e-3 * abs(float(returns.mean())), 1e-8)
        worst, best = rewards.min() / (1 - self.gamma), rewards.max() / (1 - self.gamma)
        if dataset.terminations.any():  # an episode may be over at once
            worst, best = min(worst, rewards.min()), max(best, rewards.max())
        self.bounds = (worst - self.offset) / self.scale, (best - self.offset) / self.scale
        self.worst, self.best = float(worst), float(best)
        near = NEAR * (self.best - self.worst)
        self.reached = returns.min() <= self.worst + near, returns.max() >= self.best - near

    def at_a_bound(self, values: np.ndarray) -> float:
        """
        Share of values, in the task's own reward, at a bound that the log itself does not come near: where it does, as in
        CartPole, a good policy belongs there.
        """
        low, high = self.reached
        return float(((values <= self.worst) & (not low) | (values >= self.best) & (not high)).mean())

    def in_reward(self, q: th.Tensor) -> np.ndarray:
        """What the networks say, in the task's own reward, float64."""
        return self.offset + self.scale * q.double().cpu().numpy()

    # --- what the update runner asks for ---

    def networks(self) -> FQENetworks:
        return self.nets

    def optimizers(self) -> list[th.optim.Optimizer]:
        return [self.optimizer]

    def capture_obstacle(self) -> str | None:
        on_device = isinstance(self.buffer.rewards, th.Tensor)
        return None if on_device else "the batches are read from host memory or files"

    def baked_in(self) -> tuple[Any, ...]:
        return (self.buffer.address,)

    @property
    def phase(self) -> None:
        """There is one."""

    def sample_batch(self) -> FQEBatch:
        n = self.buffer.size()
        whole = self.batch_size is None
        index = th.arange(n, device=self.device) if whole else self.buffer.sample_index(self.batch_size)  # type: ignore[arg-type]
        acted = self.next_policy[index]
        if acted.dim() == 3:
            draw = th.randint(acted.shape[1], (len(acted),), generator=self.streams["draw"], device=self.device)
            acted = acted[th.arange(len(acted), device=self.device), draw]
        return FQEBatch(self.buffer._get_samples(index), acted, self.counts.index_select(0, index).T)

    def draw_noise(self, batch: FQEBatch) -> None:
        """Nothing in the loss is random."""

    def gradient_step(self, nets: FQENetworks, batch: FQEBatch, noise: None, call: Call = call_plainly) -> Logs:
        loss, logs = call(self.loss, nets, batch)
        minimize(loss, self.optimizer)
        nets.follow(self.tau)
        return {name: value.detach() for name, value in logs.items()}

    def loss(self, nets: FQENetworks, batch: FQEBatch) -> tuple[th.Tensor, Logs]:
        """1/2 E c_k (Q_k - y_k)^2, summed over the critics."""
        rows, y = batch.rows, self.target(nets, batch)
        if nets.is_discrete:
            chosen = rows.actions.expand(nets.n_critics, -1, -1)
            q = nets.q(rows.observations).gather(2, chosen).squeeze(2)
        else:
            q = nets.q(rows.observations, rows.actions).squeeze(2)
        loss = 0.5 * (batch.counts * (q - y).square()).mean(dim=1).sum()
        return loss, {"loss": loss}

    @th.no_grad()
    def target(self, nets: FQENetworks, batch: FQEBatch) -> th.Tensor:
        """y, (N, B), in the networks' units."""
        rows, low, high = batch.rows, *self.bounds
        if nets.is_discrete:
            value = (nets.q(rows.next_observations, target=True) * batch.next_policy).sum(dim=2)
        else:
            value = nets.q(rows.next_observations, batch.next_policy, target=True).squeeze(2)
        discount = self.gamma * (1.0 - rows.dones.flatten())
        # (r + discount (offset + scale q') - offset) / scale
        reward = (rows.rewards.flatten() + (discount - 1.0) * self.offset) / self.scale
        return reward + discount * value.clamp(low, high)


def policy_table(policy: EvaluatedPolicy, observations: Any) -> np.ndarray:
    """
    What the policy does in each state, worked out once: probabilities (n, n_actions); or scaled actions (n, action_dim), with
    :data:`N_DRAWS` of them a state, (n, draws, action_dim), where it samples.
    """
    if policy.is_discrete:
        return policy.probabilities(observations).astype(np.float32)
    draws = [
        scale_actions(policy.actions(observations), policy.action_space) for _ in range(1 if policy.deterministic else N_DRAWS)
    ]
    return draws[0] if policy.deterministic else np.stack(draws, axis=1)
