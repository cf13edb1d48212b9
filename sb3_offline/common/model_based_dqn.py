"""Model-based DQN: the greedy policy of the Q-network, or of its target, acts in rollouts."""

from __future__ import annotations

from collections.abc import Callable

import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_offline.behavior.behavior_fit import fit_behavior_policy
from sb3_offline.behavior.legal_actions import LegalActions
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_dqn import OfflineDQN, one_hot
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from sb3_offline.networks.choices import Choices
from sb3_offline.networks.networks import Batch

LEGAL_FIT_STEPS = 2000  # gradient steps at most, to learn which actions imagined states allow


class ModelBasedDQN(ModelBasedAlgorithm, OfflineDQN):
    """
    An :class:`OfflineDQN` whose batches mix data with rollouts. The model of the world takes actions one-hot. Of data with
    action masks those of imagined states are learned (:class:`LegalActions`).
    """

    legal_actions: LegalActions

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.uses_action_masks:  # load() fills it
            self._make_legal_actions()

    def _make_legal_actions(self) -> None:
        choices, generator = Choices(self.action_space), self.streams.cpu("legal_actions")
        network = LegalActions(get_flattened_obs_dim(self.observation_space), choices, generator=generator)
        self.register_state("legal_actions", network.to(self.device))

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.uses_action_masks and not (hasattr(self, "legal_actions") and bool(self.legal_actions.fitted)):
            self._make_legal_actions()
            fit_behavior_policy(
                self.legal_actions,
                th.optim.Adam(self.legal_actions.parameters(), lr=1e-3),
                self.replay_buffer.observations,
                self.replay_buffer.masks[MASK_NAMES[0]],
                generator=self.streams.cpu("legal_actions"),
                n_steps=LEGAL_FIT_STEPS,
                progress_bar=progress_bar,
            )

    def rollout_actor(self, generator: th.Generator) -> Callable[[th.Tensor], th.Tensor]:
        """Who acts in rollouts: observations (B, ...) -> one-hot actions (B, n_actions)."""
        nets, n_actions = self.networks(), Choices(self.action_space).n

        def act(observations: th.Tensor) -> th.Tensor:
            allowed = self.legal_actions.masks(observations) if self.uses_action_masks else None
            if self.rollout_policy == "uniform" and allowed is not None:
                chosen = th.multinomial(allowed.float(), 1, generator=generator).squeeze(1)
            elif self.rollout_policy == "uniform":
                chosen = th.randint(n_actions, (len(observations),), generator=generator, device=self.device)
            else:
                value = nets.q_target if self.rollout_policy == "target" else nets.q
                chosen = nets.greedy(value(observations)[0], observations, allowed)
            return one_hot(chosen, n_actions)

        return act

    def logged_form(self, actions: th.Tensor) -> th.Tensor:
        return actions.argmax(dim=1, keepdim=True)

    def sample_batch(self) -> Batch:
        if not self.uses_action_masks:
            return super().sample_batch()
        index = self.replay_buffer.sample_index(self.n_real)
        imagined = self.model_buffer.sample(self.batch_size - self.n_real)
        states = imagined.observations, imagined.next_observations
        logged = zip(self.allowed(index), states, strict=True)
        masks = [th.cat([known, self.legal_actions.masks(seen)]) for known, seen in logged]
        return self.with_masks(Batch.of(self.replay_buffer._get_samples(index), imagined), *masks)
