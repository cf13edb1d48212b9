"""DQN's update on logged data: the Q-network and its target. Every algorithm for discrete actions starts here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, NoReturn

import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.arguments import UPDATE_RATE, Interval, check_count, check_number
from sb3_offline.common.discrete_actions import DiscreteActions
from sb3_offline.common.policy_options import check_policy_kwargs
from sb3_offline.common.validation import HeldOutValues, Validation
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call, call_plainly
from sb3_offline.networks.choice_policies import IN_PLACE_OF
from sb3_offline.networks.choices import CHOICE_SPACES, Choices, masked, renormalized
from sb3_offline.networks.networks import Batch, Logs, Normalizer
from sb3_offline.networks.observations import Observations, take_rows
from sb3_offline.networks.support import SUPPORT_POLICIES, greedy_supported

# What the algorithms for continuous actions take, and why there is none of it here
CONTINUOUS_ONLY = {
    "n_action_samples": "sums over discrete actions are exact",
    "qf_learning_rate": "the Q-network is the only network, and learning_rate is its rate",
    "ent_coef": "no entropy is rewarded",
    "target_entropy": "no entropy is rewarded",
    "entropy_backup": "no entropy is rewarded",
    "critic_update": "the Q-network is trained by Adam",
    "semi_gradient": "the Q-network is trained by Adam",
}


class DQNNetworks:
    """
    A DQN policy's networks on raw observations. The losses see only this, so an exact table can stand in for the networks.

    :param policy: An SB3 DQN policy.
    :param normalize: Maps raw observations to what the policy was built for (identity, or VecNormalize's statistics).
    """

    def __init__(self, policy: BasePolicy, normalize: Normalizer):
        self.network: Any = policy
        self.normalize = normalize

    def q(self, observations: Observations) -> th.Tensor:
        """Q of every action, (n_critics, B, n_actions); DQN has one critic."""
        return self.network.q_net(self.normalize(observations)).float().unsqueeze(0)

    def q_target(self, observations: Observations) -> th.Tensor:
        """Q of every action by the target network, shaped as :meth:`q`."""
        return self.network.q_net_target(self.normalize(observations)).float().unsqueeze(0)

    def log_behavior(self, observations: Observations) -> th.Tensor:
        """log pi_beta(.|s), (B, n_actions), where ``support_threshold`` is used."""
        return self.network.behavior(self.normalize(observations))

    @th.no_grad()
    def greedy(self, q: th.Tensor, observations: Observations, masks: th.Tensor | None = None) -> th.Tensor:
        """
        The action of the largest Q, (B, n_actions) -> (B,), among those that ``masks`` (likewise) allow; with
        ``support_threshold`` among the supported ones of them.
        """
        threshold = getattr(self.network, "support_threshold", None)
        if threshold is None:
            return masked(q, masks).argmax(dim=1)
        return greedy_supported(q, masked(self.log_behavior(observations), masks), threshold)

    @th.no_grad()
    def policy(self, observations: Observations, masks: th.Tensor | None = None) -> th.Tensor:
        """pi(a|s), (B, n_actions): the greedy policy of the Q-network, among the actions that ``masks`` (likewise) allow."""
        q = self.q(observations)[0]
        return one_hot(self.greedy(q, observations, masks), q.shape[1])


class _AnyChoice(OffPolicyAlgorithm):
    """Behind SB3's DQN, which says that it takes Discrete actions alone: the policies here number all others."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "supported_action_spaces": CHOICE_SPACES})


class OfflineDQN(DiscreteActions, DQN, _AnyChoice):
    """
    Double DQN (van Hasselt et al. 2016) on a fixed dataset, the parent of the algorithms for discrete actions. What
    it shares with all algorithms is in :class:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm`.

    Its TD loss is 1/2 (Q - y)^2 and not DQN's Huber loss, so that a penalty's weight means what it means elsewhere here.

    :param learning_rate: Of the Q-network; a number or a schedule.
    :param tau: Polyak coefficient of the target network; 1 copies.
    :param target_update_interval: Gradient steps between steps of the target network.
    :param support_threshold: BCQ's rule (Fujimoto et al. 2019): actions less likely in the data than this share of the
        likeliest one are neither bootstrapped from nor chosen, in (0, 1]. A network of the data's actions is learned beside
        Q. None (default) has no such rule; BCQ's own value is 0.3, and 1 clones.
    """

    left_out: ClassVar[Mapping[str, str]] = CONTINUOUS_ONLY
    td_weight: ClassVar[float] = 0.5  # of (Q - y)^2; every penalty's weight is relative to it
    behavior: Any  # None without a support_threshold

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = 3e-4,
        tau: float = 0.005,
        target_update_interval: int = 1,
        support_threshold: float | None = None,
        **kwargs: Any,
    ):
        share = Interval(0.0, 1.0, open_low=True)
        self.support_threshold = (
            None if support_threshold is None else check_number("support_threshold", support_threshold, share)
        )
        if isinstance(check_policy_kwargs(kwargs.get("policy_kwargs")).get("net_arch"), Mapping):
            raise ValueError("policy_kwargs: net_arch is of one Q-network here, a list such as [256, 256].")
        kwargs |= {"learning_rate": learning_rate, "tau": check_number("tau", tau, UPDATE_RATE)}
        kwargs["target_update_interval"] = check_count("target_update_interval", target_update_interval)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.support_threshold is not None or not Choices(self.action_space).plain:
            self.policy_class = IN_PLACE_OF.get(self.policy_class, self.policy_class)
        if self.support_threshold is not None:
            self.policy_class = SUPPORT_POLICIES.get(self.policy_class, self.policy_class)
            self.policy_kwargs["support_threshold"] = self.support_threshold
        super()._setup_model()
        self.register_state("policy", self.policy, optimizer=self.policy.optimizer, rate=self.critic_rate)
        behavior: Any = getattr(self.policy, "behavior", None)
        self.register_state("behavior", behavior, optimizer=behavior and behavior.optimizer, rate="learning_rate", saved=False)
        self.register_state("q_net", self.q_net, target=self.q_net_target, saved=False)  # both within the policy

    # --- the loss: a pure function of (networks, batch); nothing in it is random ---

    def critic_loss(self, nets: DQNNetworks, batch: Batch, noise: None = None) -> tuple[th.Tensor, Logs]:
        """``td_weight`` E_{d_f}(Q - y)^2, summed over the critics, plus the :attr:`terms` (:meth:`critic_penalty`)."""
        y = self.td_target(nets, batch)  # (B,)
        q = th.take_along_dim(nets.q(batch.observations), batch.actions.unsqueeze(0), dim=-1).squeeze(-1)  # (n_critics, B)
        td_loss = self.td_weight * (q - y).square().mean(dim=1).sum()
        penalty, logs = self.critic_penalty(nets, batch, noise, q)
        loss = td_loss + penalty
        return loss, {"critic_loss": loss, "td_loss": td_loss, "q_data": q[:, : batch.n_real].mean(), **logs}

    @th.no_grad()
    def td_target(self, nets: DQNNetworks, batch: Batch, noise: None = None) -> th.Tensor:
        """y = r + gamma (1 - done) sum_a pi(a|s') Q'(s', a), (B,); pi is greedy in the online Q, hence "double"."""
        policy = choose(nets, batch.next_observations, batch.next_masks)
        value = (policy * nets.q_target(batch.next_observations)).sum(dim=-1).amin(dim=0)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def behavior_loss(self, nets: DQNNetworks, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """-E_D log pi_beta(a|s), of the data's rows alone."""
        rows = slice(batch.n_real)
        masks = None if batch.masks is None else batch.masks[rows]
        log_behavior = renormalized(nets.log_behavior(take_rows(batch.observations, rows)), masks)
        loss = -log_behavior.gather(1, batch.actions[rows]).mean()
        return loss, {"behavior_loss": loss}

    # --- one update ---

    @property
    def target_is_due(self) -> bool:
        """Whether this update is one of the target network, too."""
        return (self._n_updates + 1) % self.target_update_interval == 0

    @property
    def phase(self) -> Hashable:
        return self.target_is_due

    def gradient_step(self, nets: DQNNetworks, batch: Batch, noise: None, call: Call = call_plainly) -> Logs:
        """The Q-network; every ``target_update_interval``-th update also its target."""
        logs = self.critic_step(nets, batch, noise, call)
        if self.target_is_due:
            self.update_targets()
        return {name: value.detach() for name, value in logs.items()}

    def critic_step(self, nets: Any, batch: Batch, noise: None, call: Call) -> Logs:
        """One step of the Q-network, and of what is learned beside it."""
        loss, logs = call(self.critic_loss, nets, batch, noise)
        minimize(loss, self.policy.optimizer)
        self.after_critic_step(logs)
        if self.behavior is not None:
            loss, more = call(self.behavior_loss, nets, batch, noise)
            minimize(loss, self.behavior.optimizer)
            logs = {**logs, **more}
        return logs

    def networks(self) -> DQNNetworks:
        """The view of the networks that the losses get."""
        return DQNNetworks(self.policy, self.normalizer)

    def learn_online(self, *_: Any, **__: Any) -> NoReturn:
        """
        Not for discrete actions.

        :raises NotImplementedError: saying how SB3's DQN goes on with the networks.
        """
        if not isinstance(self.action_space, spaces.Discrete):
            raise NotImplementedError(f"{type(self).__name__} has no learn_online, and SB3 no DQN for {self.action_space}.")
        files = [[set(names) for names in cls._get_torch_save_params(self)] for cls in (type(self), DQN)]
        if files[0] == files[1]:
            how = (
                "from its file: model.save(path), then DQN.load(path, env=env, buffer_size=100_000, learning_starts=1000, "
                "exploration_initial_eps=0.05).learn(...)"
            )
        else:  # which DQN.load would refuse
            how = (
                "with its networks: dqn = DQN(model.policy_class, env, policy_kwargs=model.policy_kwargs, "
                "learning_starts=1000, exploration_initial_eps=0.05); "
                "dqn.policy.load_state_dict(model.policy.state_dict()); dqn.learn(...)"
            )
        raise NotImplementedError(f"{type(self).__name__} has no learn_online. SB3's DQN goes on {how}.")

    def held_out_values(self, rows: Validation) -> HeldOutValues:
        nets, taken = self.networks(), rows.actions
        q, policy = nets.q(rows.observations).mean(dim=0), choose(nets, rows.observations, rows.masks)
        following = choose(nets, rows.next_observations, rows.next_masks) * nets.q_target(rows.next_observations)
        return HeldOutValues(
            q.gather(1, taken).squeeze(1),
            (policy * q).sum(dim=1),
            following.sum(dim=-1).amin(dim=0),
            policy.gather(1, taken).squeeze(1),
        )

    # --- what diagnostics ask ---

    def next_actions(self, nets: DQNNetworks, batch: Batch, noise: None) -> th.Tensor:
        """Greedy in the online Q, (B, 1)."""
        return choose(nets, batch.next_observations, batch.next_masks).argmax(dim=1, keepdim=True)

    @th.no_grad()
    def watched_values(self, observations: Any, actions: th.Tensor, generator: th.Generator) -> tuple[th.Tensor, th.Tensor]:
        nets = self.networks()
        q = nets.q(observations)
        greedy = (nets.policy(observations) * q).sum(dim=-1)
        q_data = th.take_along_dim(q, actions.unsqueeze(0), dim=-1).squeeze(-1)
        return q_data, th.stack([greedy, q.mean(dim=-1)], dim=-1)  # the mean over uniform actions is exact


def choose(nets: Any, observations: Observations, masks: th.Tensor | None) -> th.Tensor:
    """pi(a|s), (B, n_actions), among allowed actions where masks say which these are."""
    return nets.policy(observations) if masks is None else nets.policy(observations, masks)


def one_hot(actions: th.Tensor, n_actions: int) -> th.Tensor:
    """Actions (n,) or (n, 1) as rows of an identity matrix, (n, n_actions)."""
    return th.eye(n_actions, device=actions.device)[actions.flatten()]
