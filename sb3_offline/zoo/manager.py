"""RL-Zoo's experiment manager for logged data: which entry is taken, what is refused, and how trials share their work."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import rl_zoo3.exp_manager
import rl_zoo3.train
from huggingface_sb3 import EnvironmentName
from rl_zoo3.callbacks import SaveVecNormalizeCallback, TrialEvalCallback
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback, ProgressBarCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.buffers.statistics import load_statistics, save_statistics
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import OfflineDataset, open_dataset
from sb3_offline.datasets.envs import task_of
from sb3_offline.evaluation import OfflineEvalCallback
from sb3_offline.files.plain_yaml import read_yaml
from sb3_offline.files.trust import is_trusted
from sb3_offline.registry import find_algorithm
from sb3_offline.training.schedules import check_rate, parse_schedule
from sb3_offline.zoo.configs import check_hyperparams, find_recipe
from sb3_offline.zoo.entries import check_entry
from sb3_offline.zoo.objectives import HELD_OUT, Judge, TrialEstimateCallback, check_objective, make_judge
from sb3_offline.zoo.seeds import Waiting
from sb3_offline.zoo.trials import share_dynamics


class OfflineExperimentManager(ExperimentManager):
    """RL-Zoo's manager; everything that is not said here is its own."""

    env_name: EnvironmentName

    def __init__(self, *args: Any, search_objective: str = "simulator", waiting: Waiting | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.waiting = waiting  # until all seeds are set up
        self.search_objective = check_objective(search_objective)
        if self.n_timesteps == 0 or self.n_timesteps < -1:
            raise ValueError(f"-n must be at least 1, got {self.n_timesteps}; without it the configuration's number is taken.")
        for option, number in (("--eval-episodes", self.n_eval_episodes), ("--n-eval-envs", self.n_eval_envs)):
            if number < 1:
                raise ValueError(f"{option} must be at least 1, got {number}. --eval-freq -1 evaluates nothing.")
        if self.log_interval == 0:
            raise ValueError("--log-interval must be at least 1, got 0. -1 is the usual one, -2 logs nothing.")
        if waiting is not None and (cut := waiting.folder_of(self)) is not None:
            self.save_path, self.params_path = str(cut), str(cut / self.env_name)
        self._made: list[Path] = []  # folders that were not there before
        self._lock = threading.Lock()  # trials may run in several threads

    # --- a refused run leaves nothing behind, which enjoy would take for the latest one ---

    def create_log_folder(self) -> None:
        paths = [Path(path) for path in (self.params_path, self.tensorboard_log) if path is not None]
        self._made += [folder for path in paths for folder in (path, *path.parents) if not folder.exists()]
        super().create_log_folder()

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        with self._removed_if_refused():
            return super().setup_experiment()

    def learn(self, model: BaseAlgorithm) -> None:
        if self.waiting is not None:
            self.waiting.runs.append((self, model))
            return
        with self._removed_if_refused(model):
            super().learn(model)

    @contextmanager
    def _removed_if_refused(self, model: Any = None) -> Iterator[None]:
        """Remove the run's folders when something is raised ahead of the model's first gradient step."""
        updates = None if model is None else model._n_updates
        try:
            yield
        except BaseException:
            if model is None or model._n_updates == updates:
                if Path(self.save_path) in self._made:
                    shutil.rmtree(self.save_path, ignore_errors=True)
                for folder in self._made:
                    with suppress(OSError):  # it is gone, or holds something else
                        folder.rmdir()
            raise

    # --- hyperparameters ---

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        recipe = self._find_recipe()
        name = self.env_name
        if recipe is not None:
            print(f"Hyperparameters of {recipe!r}")
            self.env_name = EnvironmentName(recipe)  # the key that is looked up
        try:
            hyperparams, _ = super().read_hyperparameters()
        finally:
            self.env_name = name
        if self.n_timesteps > 0:
            hyperparams.setdefault("n_timesteps", self.n_timesteps)
        where = f"{self.config} ({recipe or name.gym_id})"
        own = self.custom_hyperparams or {}
        if self.config.endswith((".yml", ".yaml")) and not is_trusted():
            check_entry({key: value for key, value in hyperparams.items() if key not in own}, where)
        check_hyperparams(find_algorithm(self.algo), hyperparams, where)
        self._check_data(hyperparams)
        return hyperparams, dict(sorted(hyperparams.items()))

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        """RL-Zoo's, which takes any text for a linear decay; ``cosine_1e-4`` and ``held_1e-4`` are ours."""
        schedules = {}
        for name in ("learning_rate", "qf_learning_rate"):
            if isinstance(text := hyperparams.get(name), str):
                schedules[name] = _schedule(name, text)
        others = {name: value for name, value in hyperparams.items() if name not in schedules}
        return ExperimentManager._preprocess_schedules(others) | schedules

    def _find_recipe(self) -> str | None:
        """The entry for the data, where the env's id has none of its own."""
        if not self.config.endswith((".yml", ".yaml")):
            return None
        try:
            entries = read_yaml(Path(self.config).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.config} is no YAML: {error}") from error
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise ValueError(f"{self.config} holds no entries: each is an env's id, or 'default', with its hyperparameters.")
        own, recipe = self.env_name.gym_id, None
        if own not in entries:
            dataset = (self.custom_hyperparams or {}).get("dataset")
            recipe = find_recipe(entries, str(dataset or own))
        taken = own if own in entries else recipe or "default"
        entry = entries.get(taken, {})
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
            raise ValueError(f"{self.config}: {taken!r} holds no hyperparameters by name, such as policy: MlpPolicy.")
        return recipe

    def _check_data(self, hyperparams: dict[str, Any]) -> None:
        if hyperparams.get("dataset") is not None or "env_wrapper" in hyperparams:
            return
        env = gym.make(self.env_name.gym_id, **{**hyperparams.get("env_kwargs", {}), **self.env_kwargs})
        has_data = hasattr(env.unwrapped, "get_dataset")
        env.close()
        if not has_data:
            raise ValueError(
                f"{self.env_name.gym_id} has no data of its own: name data by --dataset (an id or a file), or by 'dataset:' "
                "in the YAML file, or take an --env that is data. `sb3-offline datasets` lists what there is."
            )

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """With the suffix, which SB3 leaves out if there is a dot in the name (``minari-mujoco.hopper.medium-v0``)."""
        if self.waiting is not None and model.num_timesteps == 0:
            return
        print(f"Saving to {self.save_path}")
        model.save(f"{self.save_path}/{self.env_name}.zip")
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            save_statistics(normalizer, Path(self.params_path))

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """With the statistics beside the model that is continued, if it has any."""
        saved = load_statistics(Path(self.trained_agent).parent / self.env_name, env)
        return super()._maybe_normalize(env, eval_env) if saved is None else saved

    # --- trials: the data are read once a process, the dynamics model is fitted once for all ---

    def hyperparameters_optimization(self) -> None:
        algorithm = find_algorithm(self.algo)
        table: dict[str, Any] = rl_zoo3.ALGOS
        table[self.algo] = functools.partial(self._make_trial_model, algorithm)
        try:
            with self._removed_if_refused():
                super().hyperparameters_optimization()
        finally:
            table[self.algo] = algorithm
            vars(rl_zoo3.exp_manager)["TrialEvalCallback"] = TrialEvalCallback

    def objective(self, trial: optuna.Trial) -> float:
        with self._lock:
            self._hyperparams["dataset"] = self._dataset
        if self.search_objective == "simulator":
            return super().objective(trial)

        def watch(_env: VecEnv, trial: optuna.Trial, *, eval_freq: int, **_: Any) -> TrialEstimateCallback:
            return TrialEstimateCallback(trial, self._judge, eval_freq)

        module = vars(rl_zoo3.exp_manager)
        with self._lock:  # trials in other threads ask for the same
            module["TrialEvalCallback"] = watch
        return super().objective(trial)

    @functools.cached_property
    def _judge(self) -> Judge:
        return make_judge(self.search_objective, self._parts[1])

    @property
    def _dataset(self) -> OfflineDataset:
        """What trials learn from."""
        return self._parts[0]

    @functools.cached_property
    def _parts(self) -> tuple[OfflineDataset, OfflineDataset]:
        """What trials learn from, and what judges them: the same, where the simulator does."""
        data = self._all_data()
        return (data, data) if self.search_objective == "simulator" else data.split(HELD_OUT, seed=max(self.seed, 0))

    def _all_data(self) -> OfflineDataset:
        env = self.create_envs(1, no_log=True)
        try:
            source = self._hyperparams.get("dataset")
            return open_dataset(
                env.env_method("get_dataset")[0] if source is None else source,
                observation_space=env.observation_space,
                action_space=env.action_space,
                env_spec=task_of(env),
            ).load()
        finally:
            env.close()

    def _make_trial_model(self, algorithm: type[OfflineAlgorithm], **kwargs: Any) -> OfflineAlgorithm:
        model = algorithm(**kwargs)
        try:
            with self._lock:
                share_dynamics(model, self._dataset, Path(self.log_folder) / "dynamics", self.seed)
        except ValueError as error:
            raise optuna.exceptions.TrialPruned(str(error)) from error
        return model


def _schedule(name: str, text: str) -> Schedule:
    try:
        schedule: Schedule = (
            parse_schedule(text) or ExperimentManager._preprocess_schedules({"learning_rate": text})["learning_rate"]
        )
        check_rate(name, schedule(1.0))
    except ValueError as error:
        raise ValueError(
            f"{name}: {text!r} is no schedule. Write lin_1e-4, which falls linearly from 1e-4 to 0, or cosine_1e-4, by half a "
            "cosine, or held_1e-4, linearly in the second half, or a number (1.0e-4 in YAML, for which 1e-4 is text); none is "
            "negative."
        ) from error
    return schedule


class SaveStatistics(SaveVecNormalizeCallback):
    """RL-Zoo's callback, with our file of statistics."""

    def _on_step(self) -> bool:
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None and self.n_calls % self.save_freq == 0:
            save_statistics(normalizer, Path(self.save_path))
        return True


class ProgressBar(ProgressBarCallback):
    """SB3's, which RL-Zoo also ends where a refusal came before its start."""

    def _on_training_end(self) -> None:
        if hasattr(self, "pbar"):
            super()._on_training_end()


@contextmanager
def offline_manager(objective: str = "simulator", waiting: Waiting | None = None) -> Iterator[None]:
    """
    Let RL-Zoo's ``train`` use this manager, and our callbacks.

    :param objective: of a search, one of :data:`~sb3_offline.zoo.objectives.OBJECTIVES`
    :param waiting: where runs wait, in place of learning
    """
    manager = functools.partial(OfflineExperimentManager, search_objective=objective, waiting=waiting)
    vars(rl_zoo3.train)["ExperimentManager"] = manager
    vars(rl_zoo3.exp_manager)["EvalCallback"] = OfflineEvalCallback
    vars(rl_zoo3.exp_manager)["SaveVecNormalizeCallback"] = SaveStatistics
    vars(rl_zoo3.exp_manager)["ProgressBarCallback"] = ProgressBar
    try:
        yield
    finally:
        vars(rl_zoo3.train)["ExperimentManager"] = ExperimentManager
        vars(rl_zoo3.exp_manager)["EvalCallback"] = EvalCallback
        vars(rl_zoo3.exp_manager)["SaveVecNormalizeCallback"] = SaveVecNormalizeCallback
        vars(rl_zoo3.exp_manager)["ProgressBarCallback"] = ProgressBarCallback
