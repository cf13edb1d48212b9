"""What every offline algorithm shares, whatever it learns: its constructor, the learn loop, save and load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_offline.arguments import POSITIVE, Interval, check_count, check_flag, check_number
from sb3_offline.buffers.buffers import OfflineDatasetBuffer
from sb3_offline.buffers.returns import unit_scale
from sb3_offline.buffers.storage import Storage, check_storage, make_dataset_buffer
from sb3_offline.common import copies, data_backed, loop, parts, replay_files, saving, signature
from sb3_offline.common.idle import keep_online_options
from sb3_offline.common.policy_options import named_policy_kwargs, whole_policy_kwargs
from sb3_offline.common.signature import (
    check_device,
    check_log_folder,
    check_verbose,
    follow_recipe,
    merge_signature,
)
from sb3_offline.common.validation import HeldOutValues, Validation
from sb3_offline.datasets import DatasetInfo, OfflineDataset
from sb3_offline.datasets.goal_relabelling import Strategy
from sb3_offline.datasets.goals import check_strategy
from sb3_offline.datasets.sources import Source
from sb3_offline.deployment import OODDetector, export_onnx, scoring
from sb3_offline.execution import ranks
from sb3_offline.execution.precision import Precision
from sb3_offline.files.model_file import FilePath
from sb3_offline.networks.choices import CHOICE_SPACES
from sb3_offline.networks.networks import Normalizer, normalizer_of, vec_normalizer
from sb3_offline.networks.observations import check_actions, check_numbers, check_observations, check_policy
from sb3_offline.training.callback_checks import check_evaluation
from sb3_offline.training.log_sums import LogSums
from sb3_offline.training.resume import Continuation, open_checkpoint
from sb3_offline.training.rng import Streams
from sb3_offline.training.run import Run
from sb3_offline.training.schedules import check_rate

SelfOffline = TypeVar("SelfOffline", bound="OfflineAlgorithm")


class OfflineAlgorithm(OffPolicyAlgorithm):
    """
    An SB3 off-policy algorithm that learns from a fixed dataset; one timestep is one gradient step.

    A child says what one gradient step is (:meth:`update`) and may prepare more than the buffer (:meth:`prepare`).

    :param policy: "MlpPolicy", "CnnPolicy" (images), "MultiInputPolicy" (dict observations), or a policy class.
    :param env: A gymnasium env or its id; may be left out when ``dataset`` names its task or its spaces.
    :param dataset: Anything :func:`sb3_offline.load_dataset` takes; not needed if ``env`` carries its own data.
    :param learning_rate: A number or a schedule.
    :param batch_size: Transitions a gradient step.
    :param gamma: Discount factor, in [0, 1).
    :param reward_scale: Learn from ``reward_scale * r + reward_shift``, in logged, imagined and online rewards alike. Data,
        dynamics and evaluation keep the task's own rewards. "auto" makes the root mean square of the data's rewards 1, so that
        weights and temperatures mean the same for every task.
    :param reward_shift: A constant a step: where episodes can terminate it pays for (or against) staying alive.
    :param goal_relabel: Hindsight for data with goals: draw each row with another goal of its episode in ``n_sampled_goal`` of
        ``n_sampled_goal + 1`` cases ("future", "final", "episode"; None keeps the logged goals), and compute its reward by
        the env's ``compute_reward``. Without such an env give ``dataset=relabel_goals(data, compute_reward)``.
    :param n_sampled_goal: Replaced goals for each one that is kept, as in SB3's ``HerReplayBuffer``.
    :param storage: Where the data lie during training: "device", "memory", "mmap" (a folder of .npy files, read row by row)
        or "auto", see :mod:`sb3_offline.buffers.storage`.
    :param check_data: Refuse data that cannot be right, and warn of what looks wrong, before training (the data gate).
    :param tensorboard_log: Folder for TensorBoard.
    :param policy_kwargs: Passed to the policy, as in SB3 (``net_arch``, ``activation_fn``, ...).
    :raises ValueError: if the spaces, the data or an option do not fit.
    """

    supported_spaces: ClassVar[Mapping[str, tuple[type[spaces.Space], ...]]] = {
        "action": (spaces.Box,),
        "observation": (spaces.Box, spaces.Dict, *CHOICE_SPACES),
    }
    default_policy_kwargs: ClassVar[Mapping[str, Any]] = {}  # of our own policies, where policy_kwargs does not say
    recipe: ClassVar[Mapping[str, Any]] = {}  # what a class's options are, where its parents' defaults are others
    left_out: ClassVar[Mapping[str, str]] = {}  # options of its parents that a class does not take, and why
    superseded: ClassVar[Mapping[str, str]] = {}  # options that are not given beside another, if that is
    without_effect: ClassVar[Mapping[str, Any]] = {}  # values of what is left out, as an older file may hold them
    rows_at_once: ClassVar[tuple[tuple[str, ...], ...]] = (("batch_size",),)  # options whose product is rows in memory
    vectors_only: ClassVar[str | None] = None  # why images and dict observations cannot be learned from, if so
    precision: Precision = "float32"  # of matrix products; an instance may have another
    storage: Storage = "auto"  # where the data lie during training; an instance has its own
    check_data: bool = True  # whether learn passes the data through the gate (sb3_offline.datasets.checks)
    fitted_reward_scale: float | None = None  # what reward_scale="auto" came to with the first data
    dataset: Source | None = None  # how to load the data again; kept by save() when it is an id or a path
    dataset_info: DatasetInfo | None = None
    trained_normalized: bool | None = None  # whether VecNormalize's observations were learned from; None before learn
    observation_statistics: dict[str, Any] | None = None  # by which they were normalised: saved with the model
    ood_detector: OODDetector
    has_ood_detector: bool = False  # kept by save(), so that load() knows to expect its tensors
    replay_buffer: OfflineDatasetBuffer  # SB3 declares it optional
    streams: Streams
    log_sums: LogSums
    _parts: parts.Parts
    validation: Validation | None = None  # of the last learn(validation=...)
    _run: Run | None = None  # while learn() runs
    #: What a file neither keeps nor brings.
    of_the_process: ClassVar[tuple[str, ...]] = (
        "_run",
        "_continuation",
        "_loaded",
        "validation",
        "mask_source",
        "_online_options",
    )
    _continuation: Continuation | None = None  # what the next learn() goes on from
    _online_options: dict[str, Any]  # of SB3's collecting loop, as they were last set here
    _loaded: tuple[Source, OfflineDataset] | None = None  # in the constructor, for its actions' bounds; learn() takes it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = merge_signature(cls)  # type: ignore[attr-defined]
        follow_recipe(cls)

    def __new__(cls, *_: Any, **kwargs: Any) -> Any:
        cls.check_arguments(kwargs)  # ahead of every constructor
        return super().__new__(cls)

    @classmethod
    def check_arguments(cls, kwargs: Mapping[str, Any]) -> None:
        """Refuse unknown and online-only arguments (:func:`check_arguments`)."""
        signature.check_arguments(cls, dict(kwargs))

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        dataset: Source | None = None,
        *,
        learning_rate: float | Schedule,
        batch_size: int = 256,
        gamma: float = 0.99,
        reward_scale: float | Literal["auto"] = 1.0,
        reward_shift: float = 0.0,
        goal_relabel: Strategy | None = None,
        n_sampled_goal: int = 4,
        storage: Storage = "auto",
        check_data: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **of_the_sb3_algorithm: Any,
    ):
        self.check_arguments(of_the_sb3_algorithm)
        ranks.join()
        self.reward_scale = "auto" if reward_scale == "auto" else check_number("reward_scale", reward_scale, POSITIVE)
        self.reward_shift = check_number("reward_shift", reward_shift)
        self.goal_relabel = None if goal_relabel is None else check_strategy("goal_relabel", goal_relabel)
        self.n_sampled_goal = check_count("n_sampled_goal", n_sampled_goal)
        self.storage = check_storage(storage)
        self.check_data = check_flag("check_data", check_data)
        check_policy(type(self).__name__, policy, self.policy_aliases)
        policy_kwargs = whole_policy_kwargs(type(self), policy, policy_kwargs)
        env = self._resolve_env(env, dataset, loading=not _init_setup_model)
        if env is not None:  # load() gives none
            check_observations(type(self).__name__, policy, env, policy_kwargs, self.vectors_only)
            check_actions(type(self).__name__, env)
        if _sb3_class(type(self)) is OffPolicyAlgorithm:
            of_the_sb3_algorithm |= {"sde_support": False}
        else:  # SAC, TD3 and DQN would set up at once
            of_the_sb3_algorithm |= {"_init_setup_model": False}
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=check_rate("learning_rate", learning_rate),
            batch_size=check_count("batch_size", batch_size, least=2),
            gamma=check_number("gamma", gamma, Interval(0.0, 1.0, open_high=True)),
            stats_window_size=check_count("stats_window_size", stats_window_size),
            tensorboard_log=check_log_folder(tensorboard_log),
            policy_kwargs=policy_kwargs,
            verbose=check_verbose(verbose),
            seed=ranks.common_seed(None if seed is None else check_count("seed", seed, least=0)),
            device=check_device(device),
            **of_the_sb3_algorithm,
        )
        if _init_setup_model:
            self._setup_model()

    # --- methods that live elsewhere, by what they are about ---

    upgraded = classmethod(signature.upgraded)
    check_options = signature.check_options
    given_options = signature.given_options

    _resolve_env = data_backed.resolve_env
    set_env = data_backed.set_env
    load_dataset = data_backed.load_dataset

    register_state = parts.register_state

    learn = loop.learn
    learning = loop.learning
    dump_logs = loop.dump_logs

    save = saving.save
    check_loaded = saving.check_loaded
    __getstate__ = copies.state_of
    __setstate__ = copies.set_state
    save_replay_buffer = replay_files.save_replay_buffer
    load_replay_buffer = replay_files.load_replay_buffer

    export_onnx = export_onnx
    fit_ood_detector = scoring.fit_ood_detector
    ood_score = scoring.ood_score

    # --- set up ---

    def _setup_model(self) -> None:
        self.check_options()  # load() has put a file's in place of those of the constructor
        self.replay_buffer_class = OfflineDatasetBuffer
        self._parts = parts.Parts()
        with named_policy_kwargs(self):
            super()._setup_model()
        self.register_state("streams", Streams(self.seed, self.device, offset=self.num_timesteps), saved=False)
        self.register_state("log_sums", LogSums(), saved=False)
        if self.has_ood_detector:  # load() fills it
            self.register_state("ood_detector", scoring.make_ood_detector(self))
        keep_online_options(self)

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in SB3; every random stream of this package begins anew from the seed, too."""
        seed = None if seed is None else check_count("seed", seed, least=0)
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "streams"):  # the constructor seeds before there are any
            self.streams.reseed(seed)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        """Everything that must be ready before the first gradient step. Children fit their models here."""
        buffer = make_dataset_buffer(self.storage, dataset, self.observation_space, self.action_space, self.device)
        if self.fitted_reward_scale is None:
            self.fitted_reward_scale = unit_scale(dataset.rewards)
        buffer.transform_rewards(self.reward_factor, self.reward_shift)
        buffer.generator = self.streams["sampling"]
        self.replay_buffer = buffer
        self.trained_normalized = self._vec_normalize_env is not None and self._vec_normalize_env.norm_obs
        data_backed.keep_statistics(self)

    @property
    def reward_factor(self) -> float:
        """What rewards are multiplied by: ``reward_scale``, or what "auto" came to; 1 ahead of the first data."""
        return (self.fitted_reward_scale or 1.0) if self.reward_scale == "auto" else float(self.reward_scale)

    @property
    def normalizer(self) -> Normalizer:
        """Maps raw observations (tensors) to what the policy sees."""
        if self.env is None and self.observation_statistics is not None:  # after load(env=None)
            return normalizer_of(self.observation_statistics, self.device)
        return vec_normalizer(self._vec_normalize_env, self.device)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        As in SB3.

        :raises ValueError: for an observation with NaN or infinite numbers
        """
        check_numbers(observation)
        return super().predict(observation, state, episode_start, deterministic)

    # --- what diagnostics ask ---

    def largest_reward(self) -> float:
        """The largest \\|r\\| that a target may hold: of the data, and what the algorithm adds to it."""
        buffer = self.replay_buffer
        rewards = buffer._rows("rewards", th.arange(buffer.size(), device=self.device))
        return max(float((self.reward_factor * rewards + self.reward_shift).abs().max()), 1e-6)

    def value_bound(self) -> float:
        """The largest \\|Q\\| that the rewards allow, R_max / (1 - gamma)."""
        return self.largest_reward() / (1.0 - self.gamma)

    # --- learning ---

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        check_evaluation(callback, self)
        return total_timesteps, callback

    def update(self) -> None:
        """One gradient step on one batch."""
        raise NotImplementedError

    def held_out_figures(self, rows: Validation) -> dict[str, float]:
        """What held-out rows say of the model, for the logs."""
        return rows.of_critic(self.held_out_values(rows))

    def held_out_values(self, rows: Validation) -> HeldOutValues:
        """
        What the networks make of held-out rows.

        :raises ValueError: for an algorithm that does not say
        """
        raise ValueError(f"{type(self).__name__} has no validation: leave it out.")

    def before_update(self, callback: Any) -> None:
        """Called ahead of every gradient step; model-based algorithms refresh their rollouts here."""

    @property
    def refreshes(self) -> bool:
        """Whether :meth:`before_update` does anything."""
        return type(self).before_update is not OfflineAlgorithm.before_update

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """SB3's own entry point: ``gradient_steps`` updates."""
        for _ in range(gradient_steps):
            self.before_update(CallbackList([]))
            self.policy.set_training_mode(True)
            self.update()

    # --- save and load ---

    @classmethod
    def load(
        cls: type[SelfOffline],
        path: FilePath,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfOffline:
        """
        Read a model as SB3 does, but from plain data: nothing is unpickled, no code of the file is run.

        :param path: what ``save`` wrote
        :param env: a new environment, as in SB3, or an id as in the constructor: one that brings data names ``dataset``, too
        :param custom_objects: hyperparameters in place of the file's, above all those that are not plain data
        :param trust: unpickle what is not plain data, and read files of older versions, which are pickled: only for files
            whose writer you trust, because they can run any code
        :param kwargs: attributes to change, as in SB3
        :raises FileRefused: (a ValueError) if the file is damaged, holds another class, or needs ``custom_objects``
        """
        return saving.load(cls, path, env, device, custom_objects, print_system_info, force_reset, trust, kwargs)

    @classmethod
    def resume(
        cls: type[SelfOffline],
        path: str | Path,
        env: GymEnv | str | None = None,
        dataset: Source | None = None,
        **load_options: Any,
    ) -> SelfOffline:
        """
        The model of an interrupted run, whose ``learn()`` finishes it: on the same machine with the same weights, to the bit,
        as if it had never stopped.

        :param path: A folder, of which the newest undamaged checkpoint is taken; or a ``.resume`` file, or its ``.zip``.
        :param env: As it was; may be left out where the data name their task. An id that brings data names ``dataset``, too.
        :param dataset: The same data; may be left out if they were given by an id or a path.
        :param load_options: Passed to ``load``, such as ``custom_objects``.
        :raises ValueError: if there is no such checkpoint, or it is damaged or of another algorithm; ``learn`` raises it if
            the data are not the same.
        """
        return open_checkpoint(cls, path, env, dataset, **load_options)

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto") -> None:
        """As in SB3; a file's tensors are read, nothing else of it."""
        parameters = saving.read_parameters(self, load_path_or_dict, exact_match, device)
        super().set_parameters(parameters, exact_match, device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        state_dicts, variables = [*state_dicts, *self._parts.state_dicts], [*variables, *self._parts.tensors]
        return [*dict.fromkeys(state_dicts)], [*dict.fromkeys(variables)]  # SB3's classes name some themselves

    def _excluded_save_params(self) -> list[str]:
        excluded = [*super()._excluded_save_params(), *self._parts.names, "_parts", "replay_buffer_class"]
        excluded += self.of_the_process
        excluded += ["lr_schedule"]  # is made from learning_rate
        excluded += [name for name in vars(self) if "batch_norm_stats" in name]  # the networks' own, by another name
        if not isinstance(self.dataset, (str, Path)):
            excluded.append("dataset")  # arrays stay where they are; an id or a path travels with the model
        return excluded


def _sb3_class(cls: type) -> type:
    """SB3's algorithm that a class is one of."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("stable_baselines3"))
