"""A run that was stopped and resumed ends as the run that was not, and what cannot be continued is refused."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.kill_and_resume import OPTIONS, digest, fill_disk, measure
from benchmarks.kill_writers import WRITERS, measure_writer
from sb3_offline import COMBO, CQL, OfflineSAC
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import write_checked
from tests.conftest import FAST, FAST_MODEL_BASED, Arrays

NETS: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 16}
MODEL = FAST_MODEL_BASED | NETS | {"rollout_batch_size": 32, "rollout_freq": 3, "rollout_retain": 2}
LEARNED_WEIGHT: dict[str, Any] = FAST | NETS | {"n_action_samples": 2, "target_gap": 1.0}
#: What no algorithm has by default; these the contract resumes.
CASES: list[tuple[type, dict[str, Any]]] = [
    (OfflineSAC, FAST | NETS | {"learning_rate": lambda progress: 1e-3 * progress, "seed": None}),
    (CQL, LEARNED_WEIGHT),
]


def make(algorithm: type, arrays: Arrays, env: Any = "Pendulum-v1", **options: Any) -> Any:
    return algorithm("MlpPolicy", env=env, dataset=arrays, **options)


class StopAfter(BaseCallback):
    """Ends training as a crash does: nothing more is written."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


class Save(BaseCallback):
    """Saves at chosen steps, in a folder."""

    def __init__(self, folder: Path, *steps: int):
        super().__init__()
        self.folder, self.steps = folder, steps

    def _on_step(self) -> bool:
        if self.num_timesteps in self.steps:
            self.model.save(self.folder / f"at_{self.num_timesteps}")
        return True


def interrupted(folder: Path, arrays: Arrays, *steps: int, algorithm: type = CQL, **options: Any) -> Path:
    make(algorithm, arrays, **(options or LEARNED_WEIGHT)).learn(max(steps) + 4, [Save(folder, *steps)], log_interval=4)
    return folder


@pytest.mark.parametrize(("algorithm", "options"), CASES)
def test_resumed_is_uninterrupted(algorithm: type, options: dict[str, Any], pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """Interrupted at step 7 of 12, between two rollouts and two log lines."""
    th.manual_seed(3)  # a model without a seed draws one
    whole = make(algorithm, pendulum_arrays, **options).learn(12, log_interval=5)
    th.manual_seed(3)
    make(algorithm, pendulum_arrays, **options).learn(12, [Save(tmp_path, 7), StopAfter(8)], log_interval=5)
    functions = {name: value for name, value in options.items() if callable(value)}
    resumed = algorithm.resume(  # type: ignore[attr-defined]
        tmp_path, dataset=pendulum_arrays, env="Pendulum-v1", custom_objects=functions
    )
    assert resumed.num_timesteps == 7
    resumed.learn(log_interval=5)
    assert resumed.num_timesteps == whole.num_timesteps == 12
    assert digest(resumed) == digest(whole)
    assert digest(whole) != digest(make(algorithm, pendulum_arrays, **options).learn(1))  # the digest sees something


def test_the_same_script_may_say_the_steps_again(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """The run learned 4 steps, then learn(8, reset_num_timesteps=False) was interrupted at 9 of 12."""
    options = LEARNED_WEIGHT
    whole = make(CQL, pendulum_arrays, **options).learn(4).learn(8, reset_num_timesteps=False)
    first = make(CQL, pendulum_arrays, **options).learn(4)
    first.learn(8, [Save(tmp_path, 9), StopAfter(10)], reset_num_timesteps=False)
    resumed = CQL.resume(tmp_path / "at_9.zip", dataset=pendulum_arrays).learn(8, reset_num_timesteps=False)
    assert resumed.num_timesteps == 12
    assert all(th.equal(a, b) for a, b in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True))
    assert resumed.learn(3).num_timesteps == 3  # the next call is an ordinary one


def test_a_number_below_the_interrupted_calls_is_warned_of(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """The steps that remain, as one goes on in SB3, are not the whole call's."""
    make(CQL, pendulum_arrays, **FAST | NETS).learn(12, callback=[Save(tmp_path, 5), StopAfter(7)])
    model = CQL.resume(tmp_path, dataset=pendulum_arrays)
    with pytest.warns(UserWarning, match=r"learn\(7\) of a resumed run .* its 12 steps, of which 5 are done") as seen:
        model.learn(12 - 5)
    assert [w.filename for w in seen if "resumed run" in str(w.message)] == [__file__]
    assert model.num_timesteps == 7


class Calls(BaseCallback):
    """When it was called for the third, sixth, ... time."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def _on_step(self) -> bool:
        if self.n_calls % 3 == 0:
            self.steps.append(self.num_timesteps)
        return True


def test_callbacks_go_on_counting(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """No evaluation is better than the first: the third after it ends the run, wherever it was interrupted."""

    def callbacks(folder: Path) -> list[BaseCallback]:
        stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=0)
        evaluation = EvalCallback(Monitor(gym.make("Pendulum-v1", max_episode_steps=2)), eval_freq=2, callback_after_eval=stop)
        evaluation.best_mean_reward = 0.0  # of Pendulum none is better
        return [Save(folder, 3), evaluation, Calls()]

    whole = callbacks(tmp_path / "whole")
    ends = make(CQL, pendulum_arrays, **FAST | NETS).learn(30, whole).num_timesteps
    make(CQL, pendulum_arrays, **FAST | NETS).learn(30, [*callbacks(tmp_path / "parts"), StopAfter(4)])
    parts = callbacks(tmp_path / "parts")
    resumed = CQL.resume(tmp_path / "parts", dataset=pendulum_arrays)
    assert resumed.num_timesteps == 3
    assert resumed.learn(callback=[*parts, StopAfter(99)]).num_timesteps == ends < 30
    assert parts[2].steps == [step for step in whole[2].steps if step > 3]  # type: ignore[attr-defined]


def test_resumed_twice(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    whole = make(COMBO, pendulum_arrays, **MODEL).learn(14)
    make(COMBO, pendulum_arrays, **MODEL).learn(14, [Save(tmp_path, 4), StopAfter(5)])
    COMBO.resume(tmp_path, dataset=pendulum_arrays).learn(callback=[Save(tmp_path, 8), StopAfter(10)])
    resumed = COMBO.resume(tmp_path, dataset=pendulum_arrays)
    assert resumed.num_timesteps == 8
    assert digest(resumed.learn(14)) == digest(whole)


def test_global_generators_and_normalisation_go_on(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """A callback that draws from python, numpy and torch; an env whose statistics come from the data."""

    class Draw(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.drawn: dict[int, tuple[float, ...]] = {}

        def _on_step(self) -> bool:
            self.drawn[self.num_timesteps] = (random.random(), float(np.random.rand()), float(th.rand(1)))  # noqa: NPY002
            return True

    def env() -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)

    whole, before, after = Draw(), Draw(), Draw()
    options = FAST | NETS
    expected = make(OfflineSAC, pendulum_arrays, env(), **options).learn(9, whole)
    make(OfflineSAC, pendulum_arrays, env(), **options).learn(9, [Save(tmp_path, 5), before, StopAfter(5)])
    with pytest.raises(ValueError, match=r"was trained with env=VecNormalize\(\.\.\.\): resume it with"):
        OfflineSAC.resume(tmp_path, env="Pendulum-v1", dataset=pendulum_arrays)
    other = env()
    other.obs_rms.mean += 1.0  # type: ignore[union-attr]
    other.obs_rms.count += 10  # type: ignore[union-attr]
    resumed = OfflineSAC.resume(tmp_path, env=other, dataset=pendulum_arrays).learn(callback=after)
    assert before.drawn | after.drawn == whole.drawn
    assert digest(resumed) == digest(expected)


def test_two_checkpoints_are_kept_of_each_run(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    interrupted(tmp_path, pendulum_arrays, 2, 3, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "at_2.zip",
        "at_3.resume",
        "at_3.zip",
        "at_5.resume",
        "at_5.zip",
    ]
    callbacks = [CheckpointCallback(7, str(tmp_path)), Save(tmp_path, 7)]  # another run, two files of one step
    model = make(CQL, pendulum_arrays, **LEARNED_WEIGHT).learn(7, callbacks)
    names = {path.name for path in tmp_path.glob("*.resume")}
    assert names == {"at_3.resume", "at_5.resume", "at_7.resume", "rl_model_7_steps.resume"}
    model.save(tmp_path / "after")  # nothing is running any more
    assert not (tmp_path / "after.resume").exists()


def test_a_damaged_checkpoint_is_skipped(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    interrupted(tmp_path, pendulum_arrays, 2, 3)
    newest = tmp_path / "at_3.resume"
    whole = newest.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"at_3\.resume is .*: it is skipped"):
            assert CQL.resume(tmp_path, dataset=pendulum_arrays).num_timesteps == 2
    with pytest.raises(ValueError, match=r"at_3\.resume is damaged"):
        CQL.resume(newest, dataset=pendulum_arrays)
    (tmp_path / "at_2.resume").write_bytes(whole[:500])
    with (
        pytest.warns(UserWarning, match="it is skipped"),
        pytest.raises(ValueError, match=r"holds only damaged \(2\) \.resume files"),
    ):
        CQL.resume(tmp_path, dataset=pendulum_arrays)


def test_an_id_of_other_data_is_refused(tmp_path: Path) -> None:
    trained, other = "sb3_offline/Pendulum-medium-v0", "sb3_offline/Pendulum-medium-replay-v0"
    CQL("MlpPolicy", trained, **LEARNED_WEIGHT).learn(7, [Save(tmp_path, 3)])
    for env_id in (other, "Pendulum-medium-replay-v0"):
        with pytest.raises(ValueError, match=rf"was trained on other data: {trained}, .*; given are {other}, "):
            CQL.resume(tmp_path, env=env_id).learn()
    assert CQL.resume(tmp_path, env=trained).learn().num_timesteps == 7
    assert CQL.resume(tmp_path, env=other, dataset=trained).learn().num_timesteps == 7  # said so


def test_what_cannot_be_continued_is_refused(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.resume files, which save"):
        CQL.resume(tmp_path)
    with pytest.raises(ValueError, match=r"There is no .*missing\.resume"):
        CQL.resume(tmp_path / "missing.zip")
    interrupted(tmp_path, pendulum_arrays, 3)
    with pytest.raises(ValueError, match=r"is a run of CQL: CQL\.resume"):
        OfflineSAC.resume(tmp_path)
    other = pendulum_arrays | {"rewards": pendulum_arrays["rewards"] + 1e-3}
    model = CQL.resume(tmp_path, dataset=other)
    with pytest.raises(ValueError, match="was trained on other data: arrays, 1,000 transitions, fingerprint"):
        model.learn()
    model.dataset = pendulum_arrays
    assert model.learn().num_timesteps == 7  # it is still a resumed run
    with pytest.raises(ValueError, match=r"other options: tau=0\.5 \(was 0\.02\)"):
        CQL.resume(tmp_path, dataset=pendulum_arrays, custom_objects={"tau": 0.5})
    with pytest.raises(ValueError, match="No data to learn from"):
        CQL.resume(tmp_path).learn()
    write_atomically(tmp_path / "key.fit.resume", lambda file: write_checked(file, {"epoch": 1}))
    with pytest.raises(ValueError, match=r"key\.fit\.resume is no checkpoint of a run"):
        CQL.resume(tmp_path / "key.fit.resume")


def test_another_machine_is_warned_of(pendulum_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, pendulum_arrays, 3)
    monkeypatch.setattr(th, "__version__", "0.1")
    with pytest.warns(UserWarning, match=r"last bits may differ .* torch: .*, now 0\.1"):
        CQL.resume(tmp_path, dataset=pendulum_arrays)


def test_the_best_model_stays_the_best(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    def evaluation() -> EvalCallback:
        return EvalCallback(Monitor(gym.make("Pendulum-v1", max_episode_steps=3)), eval_freq=4, n_eval_episodes=1, verbose=0)

    first = evaluation()
    first.best_mean_reward = 1.0  # better than Pendulum can be
    make(CQL, pendulum_arrays, **LEARNED_WEIGHT).learn(9, [first, Save(tmp_path, 6), StopAfter(7)])
    second = evaluation()
    CQL.resume(tmp_path, dataset=pendulum_arrays).learn(callback=second)
    assert second.best_mean_reward == 1.0


def test_the_portable_file_is_written_whole(pendulum_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the second save: the run ends with its reason, and the first checkpoint resumes."""
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 4:  # a file and its folder, twice
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"at_3\.zip could not be written \(No space left on device\)"):
        interrupted(tmp_path, pendulum_arrays, 2, 3)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at_2.resume", "at_2.zip"]
    assert CQL.resume(tmp_path, dataset=pendulum_arrays).learn().num_timesteps == 7


@pytest.mark.parametrize("name", ["CQL", "COMBO"])
def test_killed_at_a_random_moment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full version is benchmarks.kill_and_resume."""
    quick = OPTIONS[name] | {"dynamics_kwargs": MODEL["dynamics_kwargs"]} if name == "COMBO" else OPTIONS[name]
    monkeypatch.setitem(OPTIONS, name, quick)
    assert all(trial.identical for trial in measure(name, kills=1, steps=40, save_freq=10, seed=0))


@pytest.mark.slow
def test_a_run_that_filled_the_disk_goes_on() -> None:
    outcome = fill_disk("CQL", steps=60, save_freq=10)
    if outcome is None:
        pytest.skip("file systems may not be mounted here")
    assert outcome


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_killed_writers_leave_the_old_one_or_the_new_one(kind: str) -> None:
    assert all(trial.whole and trial.whole_again for trial in measure_writer(kind, kills=3, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CQL", "COMBO", "DROMO", "MOPO"])
def test_killed_at_random_moments(name: str) -> None:
    assert all(trial.identical for trial in measure(name, kills=8, steps=300, save_freq=30, seed=1))
