"""A fixed batch of transitions on which a running SB3 model is examined, without touching its random streams."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from torch import nn

from sb3_offline.linearization.q_function import as_float64, evaluation_mode
from sb3_offline.linearization.td_linearization import Transitions
from sb3_offline.networks.observations import take_rows

Samples = ReplayBufferSamples | DictReplayBufferSamples


@runtime_checkable
class OwnTargets(Protocol):
    """An algorithm that says itself what its critic's target is, see :class:`~sb3_offline.common.GradientAlgorithm`."""

    def bootstrap(self, samples: Any, seed: int = 0, index: int = 0) -> tuple[th.Tensor, th.Tensor]: ...


QLearner: TypeAlias = Any  # one of SB3's DQN, SAC and TD3, a child of these, or OwnTargets with a critic


@contextmanager
def preserved_rng(*owners: object) -> Iterator[None]:
    """Restore the global random states, and those of every generator that is an attribute of ``owners``."""
    generators = [g for owner in owners for g in vars(owner).values()]
    torch_states = [(g, g.get_state()) for g in generators if isinstance(g, th.Generator)]
    numpy_states = [(g, g.bit_generator.state) for g in generators if isinstance(g, np.random.Generator)]
    # SB3's buffers draw from NumPy's global stream, which has no other interface
    python_state, global_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        # states of GPUs that this process has not used need no saving
        devices = range(th.cuda.device_count()) if th.cuda.is_initialized() else ()
        with th.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(global_state)  # noqa: NPY002
        for generator, state in torch_states:
            generator.set_state(state)
        for numpy_generator, numpy_state in numpy_states:
            numpy_generator.bit_generator.state = numpy_state


@dataclass(frozen=True)
class Probe:
    """
    Distinct pairs (s, a) with one of their successors each, and how often each pair occurs.

    :param samples: M transitions, observations normalised as in training
    :param rho: (M,), float64, sums to 1
    """

    samples: Samples
    rho: th.Tensor


def merge_repeats(samples: Samples) -> Probe:
    """
    One row for each distinct (s, a), weighted by its count; the first successor stands for all.

    A pair listed twice would make the kernel singular whatever the network.
    """
    rows: dict[bytes, int] = {}
    counts: dict[bytes, int] = {}
    arrays = [x.cpu().numpy() for x in [*_leaves(samples.observations), samples.actions]]
    for row in range(len(samples.actions)):
        pair = b"".join(array[row].tobytes() for array in arrays)
        rows.setdefault(pair, row)
        counts[pair] = counts.get(pair, 0) + 1
    device = samples.actions.device
    kept = th.tensor(list(rows.values()), device=device)
    fields: dict[str, Any] = {name: take_rows(field, kept) for name, field in samples._asdict().items() if field is not None}
    rho = as_float64(np.array(list(counts.values())) / len(samples.actions))
    return Probe(samples._replace(**fields), rho)


def draw_probe(model: OffPolicyAlgorithm, batch_size: int) -> Probe | None:
    """
    A probe of ``batch_size`` draws from the model's replay buffer.

    :return: None while the buffer holds fewer than ``batch_size`` transitions
    """
    buffer = model.replay_buffer
    if buffer is None or buffer.size() * buffer.n_envs < batch_size:
        return None
    with preserved_rng(model, buffer):
        return merge_repeats(buffer.sample(batch_size, env=model.get_vec_normalize_env()))


def _leaves(observations: th.Tensor | Mapping[str, th.Tensor]) -> list[th.Tensor]:
    return list(observations.values()) if isinstance(observations, Mapping) else [observations]


def q_learner(model: BaseAlgorithm) -> QLearner:
    """
    :return: the model itself
    :raises TypeError: if it is not one of SB3's SAC, TD3, DDPG or DQN, or a child of these, nor says its own targets
    """
    if isinstance(model, DQN | SAC | TD3 | OwnTargets) and getattr(model, "has_critic", True):
        return model
    if not isinstance(model, OffPolicyAlgorithm):
        raise TypeError(f"{type(model).__name__} is on-policy: it has no Q-function and no replay buffer.")
    raise TypeError(f"{type(model).__name__} has no critic known here: SAC, TD3, DDPG, DQN and their children have.")


def trained_critic(model: QLearner) -> nn.Module:
    """:return: the critic that the TD loss trains"""
    return model.q_net if isinstance(model, DQN) else model.critic


def target_critic(model: QLearner) -> nn.Module:
    """:return: what makes the targets of :func:`trained_critic`: its target network, or itself where the algorithm has none"""
    if getattr(model, "bootstraps_itself", False):
        return trained_critic(model)
    return model.q_net_target if isinstance(model, DQN) else model.critic_target


def critic_learning_rate(model: QLearner) -> float:
    """:return: the present learning rate of the critic's optimiser"""
    optimizer = model.policy.optimizer if isinstance(model, DQN) else model.critic.optimizer
    return float(optimizer.param_groups[0]["lr"])


def bootstrap(model: QLearner, samples: Samples, seed: int = 0, index: int = 0) -> tuple[Transitions, th.Tensor]:
    """
    The transitions with the next actions that the algorithm would take, and its own targets y, shape (M,).

    This package's algorithms are asked (``bootstrap``), with the noise of ``seed``. Of SB3's own, DQN takes the target
    network's greedy action, TD3 the target actor's (without smoothing noise), SAC a sample of the actor's; y is of the target
    networks, the smallest of a pair.

    :param index: which Q of a critic that makes its own targets
    """
    discounts = samples.discounts if samples.discounts is not None else model.gamma
    discounts = ((1 - samples.dones) * discounts).flatten()
    rewards = samples.rewards.flatten()
    with th.no_grad(), evaluation_mode(model.policy), preserved_rng(model):
        if isinstance(model, OwnTargets):
            next_actions, y = model.bootstrap(samples, seed, index)
        else:
            th.manual_seed(seed)
            next_actions, values = _sb3_value(model, samples.next_observations)
            y = rewards + discounts * values
    return Transitions(samples.observations, samples.actions, rewards, discounts, samples.next_observations, next_actions), y


def _sb3_value(model: QLearner, successors: Any) -> tuple[th.Tensor, th.Tensor]:
    """The next actions of SB3's own algorithms, and what their targets make of them: (M,)."""
    critic = target_critic(model)
    if isinstance(model, DQN):
        q = critic(successors)
        next_actions = q.argmax(dim=1, keepdim=True)
        return next_actions, q.gather(1, next_actions).flatten()
    if not isinstance(model, SAC):
        next_actions = model.actor_target(successors)
        return next_actions, th.cat(critic(successors, next_actions), dim=1).amin(dim=1)
    next_actions, log_prob = model.actor.action_log_prob(successors)
    temperature = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
    return next_actions, th.cat(critic(successors, next_actions), dim=1).amin(dim=1) - temperature * log_prob.flatten()
