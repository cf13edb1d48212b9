"""What every offline algorithm shares, whatever it learns: where the data comes from, the learn loop, save and load."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

import sb3_offline
from sb3_offline.common.atomic import write_atomically
from sb3_offline.common.buffers import OfflineDatasetBuffer
from sb3_offline.common.health import LossWatch, TrainingDivergedError, non_finite_parameter
from sb3_offline.common.networks import Normalizer, vec_normalizer
from sb3_offline.common.observations import check_observations, has_images
from sb3_offline.common.resume import Continuation, open_checkpoint
from sb3_offline.common.rng import Streams
from sb3_offline.common.run import Run
from sb3_offline.common.saving import SafeFiles
from sb3_offline.common.signature import check_arguments, merge_signature
from sb3_offline.common.storage import Storage, make_dataset_buffer
from sb3_offline.common.tensorboard import open_run
from sb3_offline.common.updates import Precision
from sb3_offline.datasets import DatasetInfo, OfflineDataset, SpacesOnlyEnv, open_dataset
from sb3_offline.datasets.checks import pass_gate
from sb3_offline.datasets.envs import task_of
from sb3_offline.datasets.mapped import blocks
from sb3_offline.datasets.sources import Source
from sb3_offline.deployment import Deployable

SelfOffline = TypeVar("SelfOffline", bound="OfflineAlgorithm")

DEFAULT_TIMESTEPS = 100_000
_NO_DATA = (
    "No data to learn from. Give one of: dataset=... (a packaged or Minari id, an .hdf5 or .npz file, a dict of arrays, a "
    "filled SB3 ReplayBuffer); an env whose unwrapped.get_dataset() returns its data, such as "
    'gym.make("sb3_offline/Pendulum-medium-replay-v0"); or a dataset\'s id as env.'
)


class OfflineAlgorithm(Deployable, SafeFiles):
    """
    An SB3 off-policy algorithm that learns from a fixed dataset; one timestep is one gradient step.

    A child says what one gradient step is (:meth:`update`) and may prepare more than the buffer (:meth:`prepare`).

    :param reward_scale: Learn from ``reward_scale * r + reward_shift``, in logged, imagined and online rewards alike. Data,
        dynamics and evaluation keep the task's own rewards.
    :param reward_shift: A constant a step: where episodes can terminate it pays for (or against) staying alive.
    """

    supported_spaces: ClassVar[Mapping[str, tuple[type[spaces.Space], ...]]] = {
        "action": (spaces.Box,),
        "observation": (spaces.Box, spaces.Dict),
    }
    vectors_only: ClassVar[str | None] = None  # why images and dict observations cannot be learned from, if so
    dataset: Source | None = None  # how to load the data again; kept by save() when it is an id or a path
    dataset_info: DatasetInfo | None = None
    precision: Precision = "float32"  # of matrix products; an instance may have another
    storage: Storage = "auto"  # where the data lie during training; an instance has its own
    check_data: bool = True  # whether learn passes the data through the gate (sb3_offline.datasets.checks)
    replay_buffer: OfflineDatasetBuffer  # SB3 declares it optional
    _run: Run | None = None  # while learn() runs
    _continuation: Continuation | None = None  # what the next learn() goes on from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = merge_signature(cls)  # type: ignore[attr-defined]

    @classmethod
    def check_arguments(cls, kwargs: Mapping[str, Any]) -> None:
        """Refuse unknown and online-only arguments (:func:`check_arguments`)."""
        check_arguments(cls, dict(kwargs))

    def __init__(self, *args: Any, reward_scale: float = 1.0, reward_shift: float = 0.0, **kwargs: Any):
        if not (0 < reward_scale < math.inf and math.isfinite(reward_shift)):
            raise ValueError(f"reward_scale={reward_scale} must be positive, reward_shift={reward_shift} a finite number.")
        self.reward_scale = reward_scale
        self.reward_shift = reward_shift
        policy, env = args[:2]
        if env is not None:  # load() gives none
            check_observations(type(self).__name__, policy, env, kwargs.get("policy_kwargs") or {}, self.vectors_only)
        super().__init__(*args, **kwargs)

    # --- where the data and the spaces come from ---

    def _resolve_env(self, env: GymEnv | str | None, dataset: Source | None, loading: bool) -> GymEnv:
        """
        Find the spaces, the task and the data: explicit ``dataset``, else the env's own, else the env as a dataset's id.

        :param loading: True inside SB3's ``load``, which knows the spaces already and may have no env.
        :raises ValueError: if neither gives spaces, or if they do not fit each other or this algorithm.
        """
        if loading and env is None:
            return None  # type: ignore[return-value]
        env = self._find_env(env, dataset)
        for kind, space in (("action", env.action_space), ("observation", env.observation_space)):
            if not isinstance(space, self.supported_spaces[kind]):
                names = " or ".join(supported.__name__ for supported in self.supported_spaces[kind])
                others = ", ".join(_algorithms_for(kind, space))
                hint = f" {others} can learn from it." if others else ""
                raise ValueError(f"{type(self).__name__} needs {kind}s in a {names} space; this task has {space}.{hint}")
        return env

    def _find_env(self, env: GymEnv | str | None, dataset: Source | None) -> GymEnv:
        if isinstance(env, str) and env not in gym.registry and dataset is None:
            env, dataset = None, env  # a dataset's id given as env
        if isinstance(env, str):
            name, env = env, gym.make(env)
            if dataset is None and hasattr(env.unwrapped, "get_dataset"):
                dataset = name  # remembered by save(), as any id
        if isinstance(env, VecEnv) and env.num_envs != 1:
            raise ValueError(
                f"{type(self).__name__} got {env.num_envs} environments. Give one: offline training never steps it."
            )
        normalizer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
        if normalizer is not None and normalizer.norm_reward:
            raise ValueError(
                "VecNormalize(norm_reward=True) would change the logged rewards' meaning offline. Use norm_reward=False "
                '(RL-Zoo: normalize: "dict(norm_obs=True, norm_reward=False)").'
            )
        if normalizer is not None and normalizer.norm_obs:
            space = normalizer.venv.observation_space
            if isinstance(space, spaces.Dict) or has_images(space):
                raise ValueError(
                    f"VecNormalize(norm_obs=True) is for vectors here; this task has {space}. Use norm_obs=False: the policy "
                    "divides images by 255 itself; scale the vectors of a Dict in the data and in an env wrapper."
                )
        self.dataset = dataset
        if dataset is None:
            if env is None:
                raise ValueError(_NO_DATA)
            return env
        info = open_dataset(
            dataset,
            observation_space=None if env is None else env.observation_space,
            action_space=None if env is None else env.action_space,
            env_spec=None if env is None else task_of(env),
        ).info
        self.dataset_info = info
        return self._env_of(info) if env is None else env

    def _env_of(self, info: DatasetInfo) -> gym.Env:
        """The dataset's own task where it can be made here, else an env that only has its spaces."""
        if info.env_spec is not None:
            try:
                return info.make_env()
            except Exception as error:
                print(f"{type(self).__name__}: training without a simulator ({info.env_spec.id} cannot be made: {error})")
        return SpacesOnlyEnv(info.observation_space, info.action_space)

    def load_dataset(self) -> OfflineDataset:
        """
        Read the data that this model was given, or that its env offers.

        :raises ValueError: if there is none (after ``load`` from a file, pass ``env=`` or set ``model.dataset``).
        """
        source = self.dataset
        if source is None and self.env is not None and self.env.has_attr("get_dataset"):
            source = self.env.env_method("get_dataset")[0]
        if source is None:
            raise ValueError(_NO_DATA)
        task = None if self.env is None else task_of(self.env)
        if task is None and self.dataset_info is not None:
            task = self.dataset_info.env_spec
        dataset = open_dataset(
            source, observation_space=self.observation_space, action_space=self.action_space, env_spec=task
        ).load()
        self.dataset_info = dataset.info
        return dataset

    # --- set up ---

    def _setup_model(self) -> None:
        self.replay_buffer_class = OfflineDatasetBuffer
        super()._setup_model()
        self.streams = Streams(self.seed, self.device, offset=self.num_timesteps)
        self._log_sums: dict[str, th.Tensor] = {}
        self._log_count = 0
        self._loss_watch = LossWatch()
        if self.has_ood_detector:  # load() fills it
            self.ood_detector = self.make_ood_detector()

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        """Everything that must be ready before the first gradient step. Children fit their models here."""
        buffer = make_dataset_buffer(self.storage, dataset, self.observation_space, self.action_space, self.device)
        buffer.transform_rewards(self.reward_scale, self.reward_shift)
        buffer.generator = self.streams["sampling"]
        self.replay_buffer = buffer

    def _prepare_vec_normalize(self, dataset: OfflineDataset) -> None:
        """An env that is never stepped cannot gather statistics: take them from the data, unless they were loaded."""
        normalizer = self._vec_normalize_env
        if normalizer is None:
            return
        normalizer.training = False
        if normalizer.norm_obs and normalizer.obs_rms.count < 2:  # type: ignore[attr-defined]  # fresh, or reset once
            statistics = RunningMeanStd(shape=self.observation_space.shape)  # type: ignore[arg-type]
            for rows in blocks(len(dataset)):
                statistics.update(dataset.observations[rows].astype(np.float64))
            normalizer.obs_rms = statistics  # type: ignore[assignment]

    def _check_tensorboard_log(self) -> None:
        try:
            if self.tensorboard_log is not None:
                Path(self.tensorboard_log).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"tensorboard_log={self.tensorboard_log!r} cannot be written: {error}. Name another folder."
            ) from error

    @property
    def normalizer(self) -> Normalizer:
        """Maps raw observations (tensors) to what the policy sees."""
        return vec_normalizer(self._vec_normalize_env, self.device)

    # --- learning ---

    def update(self) -> None:
        """One gradient step on one batch."""
        raise NotImplementedError

    def before_update(self, callback: Any) -> None:
        """Called ahead of every gradient step; model-based algorithms refresh their rollouts here."""

    def learn(
        self: SelfOffline,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffline:
        """
        Train on the dataset. One timestep is one gradient step; nothing is collected. A model of :meth:`resume` finishes the
        interrupted call: ``total_timesteps`` is that call's, and may be left out.

        :param total_timesteps: Number of gradient steps; 100,000 if not given.
        :param callback: Any SB3 callback(s).
        :param log_interval: Gradient steps between log lines; ``None`` logs nothing.
        :param tb_log_name: Name of the TensorBoard run; the class's name if not given.
        :param reset_num_timesteps: ``False`` continues the count of an earlier call.
        :param progress_bar: Show a progress bar, also while models are fitted.
        :return: The trained model.
        :raises ValueError: if there is no data, it does not fit this model, it cannot be right (unless ``check_data`` is
            False), or it is not that of the resumed run.
        :raises TrainingDivergedError: if a loss or a parameter becomes NaN or infinite.
        :raises KeyboardInterrupt: after Ctrl-C, once the step is finished and the model is saved.
        """
        if total_timesteps is not None and (total_timesteps < 1 or total_timesteps != int(total_timesteps)):
            raise ValueError(f"total_timesteps must be a whole number of gradient steps, at least 1; got {total_timesteps}.")
        announce = total_timesteps is None or self.verbose > 0
        self._check_tensorboard_log()
        dataset = self.load_dataset()
        continuation = self._continuation
        if continuation is not None:
            continuation.check_dataset(dataset)
            total_timesteps, reset_num_timesteps = continuation.remaining(total_timesteps), False
        if self.check_data:
            pass_gate(dataset)
        if self.env is None:  # after load(env=None)
            self.set_env(self._env_of(dataset.info))
        self._prepare_vec_normalize(dataset)
        total_timesteps, callback = self._setup_learn(
            DEFAULT_TIMESTEPS if total_timesteps is None else total_timesteps,
            callback,
            reset_num_timesteps,
            tb_log_name or type(self).__name__,
            progress_bar,
        )
        open_run(self, dataset.info.dataset_id)
        self.prepare(dataset, progress_bar)

        # SB3's callbacks read these names from the loop's locals
        dones, infos = np.zeros(1, dtype=bool), [{}]  # type: ignore[var-annotated]
        self.policy.set_training_mode(True)
        callback.on_training_start(locals(), globals())
        estimate = _TimeEstimate(type(self).__name__, total_timesteps - self.num_timesteps) if announce else None
        with Run(self, dataset, callback, continuation) as run:
            while self.num_timesteps < total_timesteps:
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self.before_update(callback)
                self.update()
                self.num_timesteps += 1
                callback.update_locals(locals())
                proceed = callback.on_step()
                if proceed and log_interval is not None and self.num_timesteps % log_interval == 0:
                    self.dump_logs()
                run.after_step()
                if not proceed:
                    break
                if estimate is not None and estimate.print_once():
                    estimate = None
            run.check_health()
        callback.on_training_end()
        return self

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """SB3's own entry point: ``gradient_steps`` updates."""
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            self.before_update(CallbackList([]))
            self.update()

    # --- logging: sums stay on the device until they are written ---

    @th.no_grad()
    def _accumulate(self, logs: Mapping[str, th.Tensor]) -> None:
        seen = [name for name in logs if name in self._log_sums]
        if seen:
            th._foreach_add_([self._log_sums[name] for name in seen], [logs[name] for name in seen])
        self._log_sums |= {name: value.detach().clone() for name, value in logs.items() if name not in self._log_sums}
        self._log_count += 1
        self._loss_watch.step(self._log_sums)

    def forget_logs(self) -> None:
        """Start the sums anew."""
        self._log_sums, self._log_count = {}, 0
        self._loss_watch.reset()

    def dump_logs(self) -> None:
        """Write the means since the last call to the logger (``train/*``, ``time/*``)."""
        if self._run is not None:
            self._run.check_health()
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        if self._run is None and (failure := self._loss_watch.first_failure()) is not None:  # no learn() looks, online
            raise TrainingDivergedError(f"{type(self).__name__} diverged: {failure[0]} is NaN or infinite. Lower the rates.")
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        sums = th.stack([total.mean() for total in self._log_sums.values()]).tolist() if self._log_sums else []
        for name, total in zip(self._log_sums, sums, strict=True):
            self.logger.record(f"train/{name}", total / self._log_count)
        self.forget_logs()
        self.logger.dump(step=self.num_timesteps)

    # --- save and load ---

    def save(
        self, path: str | Path | io.BufferedIOBase, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """
        As SB3's, but written whole or not at all. While ``learn`` runs, a ``.resume`` file follows at the end of the gradient
        step, from which :meth:`resume` goes on exactly; a folder keeps a run's last two.

        :raises TrainingDivergedError: if the model holds NaN or infinite numbers; no file is touched.
        :raises OSError: if the file cannot be written; what was there before stays.
        """
        if self._run is not None:
            self._run.check_health()
        parameter = non_finite_parameter(self)
        if parameter is not None:
            raise TrainingDivergedError(f"Not saved: the parameter {parameter} holds NaN or infinite numbers.")
        if not isinstance(path, (str, Path)):
            super().save(path, exclude, include)
            return
        archive = io.BytesIO()
        super().save(archive, exclude, include)
        file = Path(path) if Path(path).suffix else Path(f"{path}.zip")
        write_atomically(file, lambda stream: stream.write(archive.getbuffer()))
        if self._run is not None:
            self._run.saved(file)

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
        :param env: As it was; may be left out where the data name their task.
        :param dataset: The same data; may be left out if they were given by an id or a path.
        :param load_options: Passed to ``load``, such as ``custom_objects``.
        :raises ValueError: if there is no such checkpoint, or it is damaged or of another algorithm; ``learn`` raises it if
            the data are not the same.
        """
        return open_checkpoint(cls, path, env, dataset, **load_options)  # type: ignore[return-value]

    def _excluded_save_params(self) -> list[str]:
        excluded = [*super()._excluded_save_params(), "streams", "_log_sums", "_log_count", "replay_buffer_class"]
        excluded += ["_loss_watch", "_run", "_continuation"]
        excluded.append("lr_schedule")  # made from learning_rate
        if not isinstance(self.dataset, (str, Path)):
            excluded.append("dataset")  # arrays stay where they are; an id or a path travels with the model
        return excluded


def _algorithms_for(kind: str, space: spaces.Space) -> list[str]:
    """The names of the library's algorithms whose actions or observations (``kind``) may live in ``space``."""
    exported = (getattr(sb3_offline, name) for name in sb3_offline.__all__)
    algorithms = (item for item in exported if isinstance(item, type) and issubclass(item, OfflineAlgorithm))
    return sorted(cls.__name__ for cls in algorithms if isinstance(space, cls.supported_spaces[kind]))


class _TimeEstimate:
    """Says once, when the first updates have been timed, how long training will take."""

    def __init__(self, name: str, steps: int, after: int = 100):
        self.name, self.steps, self.after = name, steps, after
        self.done, self.start = 0, time.perf_counter()

    def print_once(self) -> bool:
        self.done += 1
        if self.done == 10:  # the first updates pay for allocations
            self.start = time.perf_counter()
        if self.done < min(self.after, self.steps):
            return False
        rate = (self.done - 10) / max(time.perf_counter() - self.start, 1e-9)
        if self.done > 10:
            minutes = self.steps / rate / 60
            print(f"{self.name}: {self.steps:,} gradient steps at {rate:.0f} a second, about {minutes:.1f} minutes.")
        return True
