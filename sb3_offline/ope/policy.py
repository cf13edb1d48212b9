"""A policy that is being evaluated: SB3's, ours or a stranger's, asked in the data set's own terms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import Actor

from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import blocks
from sb3_offline.networks.choices import CHOICE_SPACES, Choices
from sb3_offline.networks.clones import CategoricalActor
from sb3_offline.networks.networks import GaussianNetworks, SACNetworks, identity
from sb3_offline.networks.policies import GaussianActor

ROWS_AT_ONCE = 4096


class EvaluatedPolicy:
    """
    :param source: a model (its VecNormalize is heeded), a policy, or anything with SB3's ``predict``
    :param dataset: whose observations it will see, and whose actions it must take
    :param deterministic: take the policy's mode, or let it sample
    :param seed: of its samples
    :raises TypeError: for what has no ``predict``
    :raises ValueError: for a policy of other spaces than the data's
    """

    def __init__(self, source: Any, dataset: OfflineDataset, *, deterministic: bool = True, seed: int = 0):
        if not callable(getattr(source, "predict", None)):
            raise TypeError(
                f"{source!r} is no policy: give a model or a policy of Stable-Baselines3, or an object with its "
                "predict(observation, deterministic=...). A saved model is loaded first."
            )
        self.source, self.deterministic, self.action_space = source, deterministic, dataset.action_space
        self.policy: Any = source.policy if isinstance(source, BaseAlgorithm) else source
        self.normalizer: VecNormalize | None = source.get_vec_normalize_env() if isinstance(source, BaseAlgorithm) else None
        for kind in ("observation_space", "action_space"):
            own, logged = getattr(source, kind, None), getattr(dataset, kind)
            if own is not None and (
                type(own) is not type(logged) or own.shape != logged.shape or _count(own) != _count(logged)
            ):
                raise ValueError(
                    f"The policy's {kind} is {own}, but {dataset.info.dataset_id} holds {logged}: other task's data."
                )
        self._generator = th.Generator().manual_seed(seed)

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.action_space, CHOICE_SPACES)

    @property
    def choices(self) -> Choices:
        """The discrete actions, numbered."""
        return Choices(self.action_space)

    @property
    def n_actions(self) -> int:
        return self.choices.n

    def actions(self, observations: Any) -> np.ndarray:
        """
        What it does there.

        :param observations: rows of a data set, (n, \\*obs_shape), raw; read block by block
        :return: (n, \\*action_shape) in the environment's units
        """
        return np.concatenate([self._act(observations[rows]) for rows in blocks(len(observations), ROWS_AT_ONCE)])

    def _act(self, observations: np.ndarray) -> np.ndarray:
        with th.random.fork_rng(devices=[]):  # SB3's policies draw from torch's global generator
            th.manual_seed(int(th.randint(2**31 - 1, (1,), generator=self._generator)))
            actions, _ = self.policy.predict(self._as_seen(observations), deterministic=self.deterministic)
        shape = (len(observations), *(self.action_space.shape or ()))
        actions = np.asarray(actions)
        if actions.size != math.prod(shape):
            raise ValueError(
                f"predict gave actions of shape {actions.shape} for {len(observations)} observations: not {shape}."
            )
        return actions.reshape(shape).astype(np.int64 if self.is_discrete else np.float32)

    def probabilities(self, observations: Any) -> np.ndarray:
        """
        pi(a|s) of every action, (n, n_actions), where actions are discrete: all on one of them, if it is deterministic.

        :raises ValueError: for a policy that samples but does not say by which probabilities
        """
        return np.concatenate([self._probabilities(observations[rows]) for rows in blocks(len(observations), ROWS_AT_ONCE)])

    def _probabilities(self, observations: np.ndarray) -> np.ndarray:
        if isinstance(self.policy, ActorCriticPolicy) and not self.deterministic:
            with th.no_grad():
                distribution: Any = self.policy.get_distribution(self._tensor(observations)).distribution
            return _joint(distribution).cpu().numpy()
        actor = getattr(self.policy, "actor", None)
        if isinstance(actor, CategoricalActor) and not self.deterministic and not _is_greedy(self.policy):
            with th.no_grad():
                return actor(self._tensor(observations)).exp().cpu().numpy()
        if self.deterministic or isinstance(self.policy, BasePolicy):  # DQN's policy samples nothing
            return np.eye(self.n_actions, dtype=np.float32)[self.choices.numbers(self._act(observations))]
        raise ValueError(
            f"{type(self.policy).__name__} samples, and does not say by which probabilities: evaluate it with "
            "deterministic=True, or give a policy of Stable-Baselines3."
        )

    def log_prob(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """
        log pi(a|s) of logged actions, (n,): a probability where actions are discrete, else the density of the sampling
        policy over actions scaled to [-1, 1].

        :raises ValueError: for a deterministic policy of continuous actions, which has no density
        """
        if self.is_discrete:
            chosen = self.probabilities(observations)[np.arange(len(actions)), self.choices.numbers(actions)]
            with np.errstate(divide="ignore"):
                return np.log(chosen.astype(np.float64))
        parts = [self._log_density(observations[rows], actions[rows]) for rows in blocks(len(observations), ROWS_AT_ONCE)]
        return np.concatenate(parts)

    @th.no_grad()
    def _log_density(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        actor = getattr(self.policy, "actor", None)
        seen: Any = (
            self._tensor(observations) if isinstance(actor, Actor) or isinstance(self.policy, ActorCriticPolicy) else None
        )
        if isinstance(actor, Actor):
            nets = (GaussianNetworks if isinstance(actor, GaussianActor) else SACNetworks)(self.policy, identity)
            scaled = th.as_tensor(scale_actions(actions, self.action_space), device=self.policy.device)
            return nets.log_prob(seen, scaled.unsqueeze(1)).squeeze(1).double().cpu().numpy()
        if isinstance(self.policy, ActorCriticPolicy):
            density = self.policy.get_distribution(seen).log_prob(th.as_tensor(actions, device=self.policy.device))
            space: Any = self.action_space
            return density.double().cpu().numpy() + float(np.log((space.high - space.low) / 2).sum())
        raise ValueError(
            f"{type(self.policy).__name__} has no density of continuous actions to weigh logged ones by: importance weights "
            "need a policy that samples, such as SAC's or PPO's. FQE and ModelBased take any."
        )

    def _as_seen(self, observations: Any) -> Any:
        """Rows as the policy's ``predict`` takes them: fields of a structured array as a dict, normalised where it was so."""
        rows = np.asarray(observations)
        if rows.dtype.names is not None:
            return {key: rows[key] for key in rows.dtype.names}
        return rows if self.normalizer is None else self.normalizer.normalize_obs(rows)

    def _tensor(self, observations: Any) -> Any:
        return self.policy.obs_to_tensor(self._as_seen(observations))[0]


def _is_greedy(policy: Any) -> bool:
    """Whether it acts by Q, and its actor only says what is likely."""
    return getattr(policy, "support_threshold", None) is not None


def _joint(distribution: Any) -> th.Tensor:
    """Probabilities of every combination, (n, n_actions), of one Categorical, of several, or of independent bits."""
    if isinstance(distribution, th.distributions.Bernoulli):
        parts = [th.stack([1 - p, p], dim=1) for p in distribution.probs.unbind(1)]
    else:
        parts = [part.probs for part in (distribution if isinstance(distribution, list) else [distribution])]
    joint = th.ones_like(parts[0][:, :1])
    for part in parts:
        joint = (joint[:, :, None] * part[:, None, :]).flatten(1)
    return joint


def _count(space: spaces.Space) -> str:
    return str(space) if isinstance(space, CHOICE_SPACES) else ""
