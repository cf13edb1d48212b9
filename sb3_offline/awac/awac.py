"""AWAC (Nair et al. 2020, arXiv 2006.09359): an actor that imitates logged actions by their advantage over its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch as th

from sb3_offline.arguments import POSITIVE, check_flag, check_number
from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE, OfflineActorCritic
from sb3_offline.networks.networks import Batch, GaussianNetworks, Logs


@dataclass(frozen=True)
class AWACNoise:
    """Standard normals of the policy's actions at s' and at s, (B, 1, action_dim)."""

    next_action: th.Tensor
    action: th.Tensor


class AWAC(OfflineActorCritic):
    """
    Critics as SAC's without entropy, and an actor that maximises the logged actions' likelihood, weighted by exp(A / lambda)
    (Eq 13). The critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the authors' do.

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rewards
    scaled to a root mean square of 1, softer weights than by the paper's lambda = 1, critics with LayerNorm, targets that
    follow four times as fast, rates that fall to 0 in the second half of ``learn``, and an average of the actor's weights.

    :param temperature: lambda, in units of Q: a large one clones the data, a small one imitates only what looks best.
    :param max_weight: What exp(A / lambda) is clipped at.
    :param normalize_weights: Divide the weights by their mean over the batch (a softmax times the batch's size), as the
        authors' code does up to that size; nothing is clipped then.
    """

    td_weight: ClassVar[float] = 1.0
    default_policy_kwargs: ClassVar = {"layer_norm": True}
    recipe: ClassVar = {**MODEL_FREE_RECIPE, "reward_scale": "auto"}

    def __init__(
        self,
        *args: Any,
        temperature: float = 3.0,
        max_weight: float = 100.0,
        normalize_weights: bool = False,
        **kwargs: Any,
    ):
        self.temperature = check_number("temperature", temperature, POSITIVE)
        self.max_weight = check_number("max_weight", max_weight, POSITIVE)
        self.normalize_weights = check_flag("normalize_weights", normalize_weights)
        super().__init__(*args, **kwargs)

    def draw_noise(self, batch: Batch) -> AWACNoise:
        shape = (len(batch.rewards), 1, batch.actions.shape[1])
        return AWACNoise(next_action=self.normals(*shape), action=self.normals(*shape))

    @th.no_grad()
    def td_target(self, nets: GaussianNetworks, batch: Batch, noise: AWACNoise) -> th.Tensor:
        """y = r + gamma (1 - done) min_j Q'_j(s', a'), a' ~ pi: (B,)."""
        actions = nets.act(batch.next_observations, noise.next_action)
        value = nets.q_target(batch.next_observations, actions).amin(dim=0).squeeze(-1)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def actor_loss(self, nets: GaussianNetworks, batch: Batch, noise: AWACNoise) -> tuple[th.Tensor, Logs]:
        """-E w log pi(a|s), w of A = min_j Q_j(s, a) - min_j Q_j(s, a'), a' ~ pi; w has no gradient."""
        logged = batch.actions.unsqueeze(1)
        with th.no_grad():
            both = th.cat([logged, nets.act(batch.observations, noise.action)], dim=1)
            q, v = nets.q(batch.observations, both).amin(dim=0).unbind(dim=1)
            weight = self.weights(q - v)
        loss = -(weight * nets.log_prob(batch.observations, logged).squeeze(-1)).mean()
        return loss, {"actor_loss": loss, "advantage": (q - v).mean(), "actor_weight": weight.mean()}

    def weights(self, advantages: th.Tensor) -> th.Tensor:
        """exp(A / lambda), clipped or divided by the mean; (B,) -> (B,)."""
        if self.normalize_weights:
            return len(advantages) * (advantages / self.temperature).softmax(dim=0)
        return (advantages / self.temperature).exp().clamp(max=self.max_weight)

    # --- what diagnostics ask ---

    def next_actions(self, nets: GaussianNetworks, batch: Batch, noise: AWACNoise) -> th.Tensor:
        return nets.act(batch.next_observations, noise.next_action).squeeze(1)
