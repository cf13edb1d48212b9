"""An offline algorithm whose update is a gradient step on one batch: tensors in, tensors out, run in the way asked for."""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.buffers.goal_buffer import GoalDatasetBuffer
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.buffers.storage import HostDatasetBuffer
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.common.terms import Term
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution import ranks
from sb3_offline.execution.optimizers import on_its_own, plain_optimizer_state, polyak, set_learning_rate
from sb3_offline.execution.precision import Precision
from sb3_offline.execution.updates import Call, Execution, UpdateRunner, call_plainly, check_execution
from sb3_offline.networks.networks import Batch, Logs, identity
from sb3_offline.networks.policies import ActorPolicy, unfitted_normalizers
from sb3_offline.training.schedules import ScaledSchedule, check_rate


class GradientAlgorithm(OfflineAlgorithm):
    """
    A child says what one gradient step is (:meth:`gradient_step`), on which batch and with which noise.

    :param execution: How an update is run: "eager", "compile" (torch.compile), "cuda_graph" (captured once, then replayed), or
        "auto": cuda_graph on a GPU, else eager. The numbers agree to rounding (see :mod:`sb3_offline.execution.updates`).
    :param precision: Of the networks' matrix products: "float32", "tf32" (GPUs) or "bf16"; weights stay float32.
    """

    #: The options that hold a learning rate, the actor's first; ``qf_learning_rate`` has its ``qf_lr_schedule``.
    rates: ClassVar[tuple[str, ...]] = ("learning_rate",)
    #: Which of them is the critic's.
    critic_rate: ClassVar[str] = "learning_rate"
    #: Whether a critic's target is made of its own present Q, not of a target network's.
    bootstraps_itself: bool = False
    #: Whether there is a critic, for diagnostics to look at.
    has_critic: ClassVar[bool] = True
    #: Whether vectors are standardised by the data inside the policy, where ``policy_kwargs`` do not say.
    standardizes: ClassVar[bool] = False
    #: Whether batches have the logged actions at the next observations, too.
    uses_next_actions: ClassVar[bool] = False

    terms: Sequence[Term] = ()  # of the critics' loss, see make_terms
    tau: float
    _runner: Callable[[], Logs] | None  # an UpdateRunner, or what runs it for several models at once
    _scheduled: dict[str, float | Schedule]  # the options that the present schedules were made from
    _last_rates: dict[str, float]  # what the optimisers were last given

    def __init__(self, *args: Any, execution: Execution = "auto", precision: Precision = "float32", **kwargs: Any):
        self.execution: Execution = execution
        self.precision: Precision = precision
        for rate in self.rates:
            if rate in kwargs:
                kwargs[rate] = check_rate(rate, kwargs[rate])
        for rate in self.rates[1:]:  # SB3 keeps learning_rate itself
            setattr(self, rate, kwargs.pop(rate))
        super().__init__(*args, **kwargs)
        check_execution(execution, precision, self.device, self.capture_obstacle())
        if kwargs.get("_init_setup_model", True):
            self._last_rates = self._optimizer_rates()

    def _setup_model(self) -> None:
        if self.standardizes and issubclass(self.policy_class, ActorPolicy):
            self.policy_kwargs.setdefault("normalize_observations", self._can_standardize())
        super()._setup_model()
        normalizer = self._vec_normalize_env
        if normalizer is not None and normalizer.norm_obs and getattr(self.policy, "normalize_observations", False):
            raise ValueError("VecNormalize(norm_obs=True) and normalize_observations normalise twice: drop one of them.")
        self.register_state("_runner", None, saved=False)
        self._setup_schedules()
        self.register_state("_last_rates", {}, saved=False)
        self.register_state("terms", self.make_terms(), saved=False)
        for term in self.terms:
            term.setup()

    def make_terms(self) -> Sequence[Term]:
        """What is added to the critics' TD loss, in this order; nothing here."""
        return ()

    def _can_standardize(self) -> bool:
        space, normalizer = self.observation_space, self._vec_normalize_env
        floats = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        taken = "features_extractor_class" in self.policy_kwargs or (normalizer is not None and normalizer.norm_obs)
        return floats and not taken and self.policy_class is self.policy_aliases["MlpPolicy"]

    def _setup_schedules(self) -> None:
        for rate in self.rates[1:]:
            self.register_state(_schedule_name(rate), FloatSchedule(getattr(self, rate)), saved=False)
        self.register_state("_scheduled", {rate: getattr(self, rate) for rate in self.rates}, saved=False)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._take_up_rates()
        return super()._setup_learn(*args, **kwargs)

    def _take_up_rates(self) -> None:
        """A rate that was assigned to its option has its schedule from now on; warns of one that was put into an optimiser."""
        for rate, before in self._scheduled.items():
            if getattr(self, rate) != before:
                setattr(self, _schedule_name(rate), FloatSchedule(getattr(self, rate)))
                self._scheduled[rate] = getattr(self, rate)
        for path, found in self._optimizer_rates().items():
            if not math.isclose(found, self._last_rates.get(path, found), rel_tol=1e-6):
                option = self._parts.rates[path]
                warnings.warn(
                    f"The learning rate {found:g} that was put into {path} does not last: learn() takes it from {option}, as "
                    f"SB3's does. Assign model.{option} = {found:g} instead.",
                    stacklevel=5,
                )

    def _optimizer_rates(self) -> dict[str, float]:
        """What each optimiser holds whose rate is one of :attr:`rates`, by its path."""
        each = zip(self._parts.rates.items(), self.optimizers(), strict=True)
        return {path: float(optimizer.param_groups[0]["lr"]) for (path, rate), optimizer in each if rate is not None}

    def check_loaded(self) -> None:
        super().check_loaded()
        self._last_rates = self._optimizer_rates()

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto") -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        if not isinstance(load_path_or_dict, dict):  # a file's rates are where its training was, not what is wanted
            self._last_rates = self._optimizer_rates()

    def schedule(self, rate: str) -> Schedule:
        """The schedule of one of :attr:`rates`: progress that remains -> rate."""
        return getattr(self, _schedule_name(rate))

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        self._runner = None  # of other data, or other statistics
        if self.uses_next_actions:
            goes_on = np.ones(len(dataset), dtype=bool)
            goes_on[dataset.episode_ends] = False
            self.replay_buffer.goes_on = th.as_tensor(goes_on, device=self.device)
        normalizers = unfitted_normalizers(self.policy)
        if normalizers:
            observations: Any = self.replay_buffer.observations
            moments = observation_moments(observations)
            for normalizer in normalizers:
                normalizer.fit(*moments)
        for term in self.terms:
            if term.active:
                term.prepare(dataset, progress_bar)

    # --- one update ---

    @abstractmethod
    def networks(self) -> Any:
        """The view of the networks that the losses get."""

    def sample_batch(self) -> Batch:
        """A batch of d_f; without a model, of the data."""
        return self.batch_of(self.sampled_rows())

    def sampled_rows(self) -> th.Tensor:
        """The rows of the data that are drawn for a batch, (B,)."""
        return self.replay_buffer.sample_index(self.batch_size)

    def batch_of(self, rows: th.Tensor) -> Batch:
        """These rows of the data, (B,), with all that the algorithm asks of them."""
        batch = Batch.of(self.replay_buffer._get_samples(rows))
        if not self.uses_next_actions:
            return batch
        next_actions, has_next = self.replay_buffer.next_actions(rows)
        return batch._replace(next_actions=next_actions, has_next=has_next)

    def normals(self, *shape: int, stream: str = "policy") -> th.Tensor:
        """Standard normals from a named stream, on the device."""
        return th.randn(*shape, generator=self.streams[stream], device=self.device)

    def draw_noise(self, batch: Batch) -> Any:
        """All the randomness of one update, so that the losses have none of their own; here there is none."""
        return None

    def update(self) -> None:
        """One gradient step, by eager execution, torch.compile or a CUDA graph."""
        if self._runner is None:
            self._runner = UpdateRunner(self)
        self._update_learning_rates()
        with ranks.updating():
            self.log_sums.add(self._runner())
        self._n_updates += 1

    @abstractmethod
    def gradient_step(self, nets: Any, batch: Batch, noise: Any, call: Call = call_plainly) -> Logs:
        """
        One step of everything that is due: tensors in, tensors out, nothing that waits for the device.

        :param call: How a loss is called; here is where torch.compile comes in.
        :return: What was computed in this step, detached scalars.
        """

    @property
    def phase(self) -> Hashable:
        """Which kind of step is next, where they differ, as with a delayed actor: each is captured on its own."""
        return None

    def critic_loss(self, nets: Any, batch: Batch, noise: Any) -> tuple[th.Tensor, Logs]:
        """What the critics descend: a scalar, and what to log."""
        raise NotImplementedError

    def critic_penalty(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """
        What is added to the TD loss, already weighted and summed over the critics: the :attr:`terms`.

        :param q: Q of the batch's own actions, (n_critics, B).
        """
        penalty = q.new_zeros(())
        logs: Logs = {}  # written out, as torch.compile traces no call of an alias
        for term in self.terms:
            if term.active:
                loss, more = term.loss(nets, batch, noise, q)
                penalty, logs = penalty + loss, {**logs, **more}
        return penalty, logs

    def td_target(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """y, towards which Q(s, a) is trained: (B,)."""
        raise NotImplementedError

    def critic_step(self, nets: Any, batch: Batch, noise: Any, call: Call) -> Logs:
        """One step of the critics, and of what is learned beside them."""
        raise NotImplementedError

    def after_critic_step(self, logs: Logs) -> None:
        """Called with the critics' logs; what is learned beside the critics takes its step here."""
        for term in self.terms:
            term.after_critic_step(logs)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """All that take a step in an update."""
        return [recursive_getattr(self, path) for path in self._parts.rates]

    def update_targets(self) -> None:
        """Polyak step of every target network: theta' <- tau theta + (1 - tau) theta'."""
        for target, source in self._parts.targets.items():
            polyak(getattr(self, source), getattr(self, target), self.tau)

    def _update_learning_rates(self) -> None:
        progress = self._current_progress_remaining
        values = {rate: self.schedule(rate)(progress) for rate in self.rates}
        for optimizer, (path, rate) in zip(self.optimizers(), self._parts.rates.items(), strict=True):
            if rate is not None:
                set_learning_rate(optimizer, values[rate])
                self._last_rates[path] = values[rate]

    # --- how it is run ---

    def capture_obstacle(self) -> str | None:
        """Why this update can be neither compiled nor captured, if so."""
        if ranks.size() > 1:
            return "several processes average their gradients"
        if isinstance(self.replay_buffer, HostDatasetBuffer):
            return "the batches are read from host memory or files (storage)"
        if isinstance(self.replay_buffer, GoalDatasetBuffer):
            return "the rewards of replaced goals are computed on the host"
        if isinstance(self.replay_buffer, OfflineOnlineBuffer):
            return "rows keep arriving from the environment"
        return next((reason for term in self.terms if (reason := term.capture_obstacle())), None)

    def baked_in(self) -> tuple[Any, ...]:
        """What a captured update holds as constants: when it changes, the update is captured again."""
        values = (getattr(self, name, None) for name in inspect.signature(type(self)).parameters)
        options = (value for value in values if isinstance(value, int | float | str) or dataclasses.is_dataclass(value))
        return (self.replay_buffer.size(), self.replay_buffer.address, *options)

    # --- what diagnostics ask ---

    def largest_reward(self) -> float:
        return super().largest_reward() + sum(term.largest_reward() for term in self.terms)

    @th.no_grad()
    def bootstrap(self, samples: ReplayBufferSamples, seed: int = 0, index: int = 0) -> tuple[th.Tensor, th.Tensor]:
        """
        The next actions, as the critic takes them (B, ...), and the target y (B,), by noise of its own.

        :param samples: Transitions whose observations are normalised already.
        :param seed: Of the noise.
        :param index: Which critic's target, where each has its own.
        """
        nets, batch = self.networks(), Batch.of(samples)
        nets.normalize = identity
        with self.streams.aside(seed):
            noise = self.draw_noise(batch)
        y = self.own_target(nets, batch, noise, index) if self.bootstraps_itself else self.td_target(nets, batch, noise)
        return self.next_actions(nets, batch, noise), y

    def next_actions(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """The actions at s' that :meth:`td_target` takes (or where it takes none, the policy's), as the critic takes them."""
        raise NotImplementedError

    def own_target(self, nets: Any, batch: Batch, noise: Any, index: int) -> th.Tensor:
        """y (B,) of one critic where :attr:`bootstraps_itself`."""
        raise NotImplementedError

    def watched_values(self, observations: Any, actions: th.Tensor, generator: th.Generator) -> tuple[th.Tensor, th.Tensor]:
        """
        Q at the data's own actions, (n_critics, B), and at an action of the policy and a uniform one, (n_critics, B, 2).

        :param observations: Raw.
        :param actions: As the replay buffer keeps them.
        :param generator: Of the drawn actions.
        """
        raise NotImplementedError

    def scale_learning_rates(self, factor: float) -> None:
        """Multiply all rates from now on; saved with the model."""
        for rate in self.rates:
            value = getattr(self, rate)
            setattr(self, rate, ScaledSchedule(value, factor) if callable(value) else factor * value)
        self._setup_lr_schedule()
        self._setup_schedules()
        for optimizer, scheduled in zip(self.optimizers(), self._parts.rates.values(), strict=True):
            if scheduled is None:
                for group in optimizer.param_groups:
                    group["lr"] *= factor

    # --- logging, saving ---

    def dump_logs(self) -> None:
        for rate in self.rates:
            self.logger.record(f"train/{rate}", self.schedule(rate)(self._current_progress_remaining))
        super().dump_logs()

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As in SB3; the optimisers' states say nothing of how they were run, so any device can take them over."""
        return {name: on_its_own(plain_optimizer_state(state)) for name, state in super().get_parameters().items()}


def _schedule_name(rate: str) -> str:
    """qf_learning_rate -> qf_lr_schedule."""
    return rate.replace("learning_rate", "lr_schedule")
