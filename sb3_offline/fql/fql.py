"""Flow Q-learning (Park et al. 2025, arXiv 2502.02538): a flow clones the data, and a one-step policy follows it and Q."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.arguments import NOT_NEGATIVE, check_count, check_flag, check_number
from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE, OfflineActorCritic
from sb3_offline.execution import ranks
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call
from sb3_offline.fql.policies import FLOW_POLICIES, FlowNetworks, FlowPolicy
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.networks.observations import Observations

TargetQ = Literal["mean", "min"]


@dataclass(frozen=True)
class FQLNoise:
    """Standard normals z' at s', x_0 and z at s, (B, 1, action_dim); and times t, uniform in [0, 1), (B, 1, 1)."""

    next_action: th.Tensor
    start: th.Tensor
    action: th.Tensor
    time: th.Tensor


class FQL(OfflineActorCritic):
    """
    A flow learns where the data's actions lie, however many modes they have; a policy mu(s, z) learns what the flow makes of
    the noise z, in one step in place of many, and to raise Q. ``predict(deterministic=True)`` takes z = 0, else z is drawn.
    The critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the authors' do.

    The defaults are a recipe (see the benchmarks' page): Q of unit size, the lower target critic, networks of two layers of
    256, targets that follow four times as fast, rates that fall to 0 in the second half of ``learn``, and an average of the
    actor's weights. The authors' settings are the AntMaze and Adroit entries of ``zoo_configs/fql.yml``.

    :param distill_weight: alpha of the paper: weight of the flow beside Q. It counts in units of Q unless ``normalize_q``.
    :param flow_steps: Euler steps of the flow.
    :param normalize_q: Divide Q by the batch's mean \\|Q\\|, so that the weight means the same whatever the rewards are.
    :param target_q: "mean" or "min" of the target critics makes the target.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = FLOW_POLICIES
    td_weight: ClassVar[float] = 1.0
    recipe: ClassVar = MODEL_FREE_RECIPE
    default_policy_kwargs: ClassVar = {"net_arch": [256, 256]}
    flow: Any

    def __init__(
        self,
        *args: Any,
        distill_weight: float = 0.15,
        flow_steps: int = 10,
        normalize_q: bool = True,
        target_q: TargetQ = "min",
        **kwargs: Any,
    ):
        self.distill_weight = check_number("distill_weight", distill_weight, NOT_NEGATIVE)
        self.flow_steps = check_count("flow_steps", flow_steps)
        self.normalize_q = check_flag("normalize_q", normalize_q)
        if target_q not in get_args(TargetQ):
            raise ValueError(f"target_q must be 'mean' or 'min', got {target_q!r}.")
        self.target_q: TargetQ = target_q
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, FlowPolicy):
            raise ValueError(f"FQL's policy has a flow: {self.policy_class.__name__} must be a child of FlowPolicy.")
        super()._setup_model()
        flow: Any = self.policy.flow
        self.register_state("flow", flow, optimizer=flow.optimizer, rate="learning_rate", saved=False)

    def networks(self) -> FlowNetworks:
        """The view of the networks that the losses get."""
        return FlowNetworks(self.policy, self.normalizer)

    def draw_noise(self, batch: Batch) -> FQLNoise:
        shape = (len(batch.rewards), 1, batch.actions.shape[1])
        next_action, start, action = (self.normals(*shape) for _ in range(3))
        time = th.rand(len(batch.rewards), 1, 1, generator=self.streams["policy"], device=self.device)
        return FQLNoise(next_action, start, action, time)

    # --- the losses: pure functions of (networks, batch, noise) ---

    @th.no_grad()
    def td_target(self, nets: FlowNetworks, batch: Batch, noise: FQLNoise) -> th.Tensor:
        """y = r + gamma (1 - done) mean_j Q'_j(s', mu(s', z')), or min_j: (B,)."""
        value = self.value_of_next(nets, batch.next_observations, noise.next_action)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def flow_loss(self, nets: FlowNetworks, batch: Batch, noise: FQLNoise) -> tuple[th.Tensor, Logs]:
        """E |v(s, x_t, t) - (a - x_0)|^2, x_t = (1 - t) x_0 + t a: flow matching, a mean over rows and dimensions."""
        action, t = batch.actions.unsqueeze(1), noise.time
        velocity = nets.field(batch.observations)((1.0 - t) * noise.start + t * action, t)
        loss = (velocity - (action - noise.start)).square().mean()
        return loss, {"flow_loss": loss}

    def actor_loss(self, nets: FlowNetworks, batch: Batch, noise: FQLNoise) -> tuple[th.Tensor, Logs]:
        """alpha E |mu(s, z) - flow(s, z)|^2 - E mean_j Q_j(s, mu(s, z)); the flow, and a scale of Q, have no gradient."""
        with th.no_grad():
            imitated = euler(nets.field(batch.observations), noise.action, self.flow_steps).clamp(-1.0, 1.0)
        actions = nets.one_step(batch.observations, noise.action)
        distillation = (actions - imitated).square().mean()
        q = nets.q_frozen(batch.observations, actions.clamp(-1.0, 1.0)).mean(dim=0)
        scale = ranks.batch_mean(q.abs()) if self.normalize_q else 1.0
        loss = self.distill_weight * distillation - q.mean() / scale
        return loss, {"actor_loss": loss, "distill_loss": distillation}

    # --- one update ---

    def actor_step(self, nets: FlowNetworks, batch: Batch, noise: FQLNoise, call: Call) -> Logs:
        """The flow, then the one-step policy after it."""
        loss, logs = call(self.flow_loss, nets, batch, noise)
        minimize(loss, self.flow.optimizer)
        return {**logs, **super().actor_step(nets, batch, noise, call)}

    # --- what diagnostics and held-out rows ask ---

    def value_of_next(self, nets: FlowNetworks, observations: Observations, noise: th.Tensor) -> th.Tensor:
        q = nets.q_target(observations, nets.act(observations, noise)).squeeze(-1)  # (n_critics, B)
        return q.mean(dim=0) if self.target_q == "mean" else q.amin(dim=0)

    def next_actions(self, nets: FlowNetworks, batch: Batch, noise: FQLNoise) -> th.Tensor:
        return nets.act(batch.next_observations, noise.next_action).squeeze(1)


def euler(velocity: Callable[[th.Tensor, th.Tensor], th.Tensor], start: th.Tensor, n_steps: int) -> th.Tensor:
    """x_1 of dx/dt = v(x, t), x_0 = ``start`` (B, N, dim), by equal steps; v also takes t, (B, N, 1)."""
    x, t = start, start.new_zeros(*start.shape[:-1], 1)
    for step in range(n_steps):
        x = x + velocity(x, t + step / n_steps) / n_steps
    return x
