"""Checkpoints that fit their checksum, and no run; and what is on the disk after many calls of learn."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import Logger

from sb3_offline import CQL, MOPO
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.checksum import read_checked, write_checked
from sb3_offline.training.health import TrainingDivergedError, non_finite_parameter
from sb3_offline.training.patient_output import PatientOutput, make_patient
from sb3_offline.training.run import recall_evaluations
from tests.conftest import FAST, FAST_MODEL_BASED, beyond

State = dict[str, Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("run")
    states = rng.normal(size=(1001, 3)).astype(np.float32)
    arrays = {
        "observations": states[:-1],
        "actions": rng.uniform(-2, 2, (1000, 1)).astype(np.float32),
        "rewards": rng.normal(size=1000).astype(np.float32),
        "next_observations": states[1:],
        "terminations": np.arange(1000) % 200 == 199,
        "truncations": np.zeros(1000, dtype=bool),
    }
    model = MOPO("MlpPolicy", "Pendulum-v1", dataset=arrays, check_data=False, **FAST_MODEL_BASED)
    model.learn(4, callback=CheckpointCallback(4, str(folder)))
    (path,) = folder.glob("*.resume")
    return path, arrays


def about(**changed: Any) -> Callable[[State], Any]:
    return lambda state: state.update(about=json.dumps(json.loads(state["about"]) | changed))


def model_of(change: Callable[[State], Any], member: str = "critic.optimizer.pth") -> Callable[[State], Any]:
    """Another member in the model that the checkpoint embeds."""

    def forge(state: State) -> None:
        content = io.BytesIO(state["model"].numpy().tobytes())
        with zipfile.ZipFile(content) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        found = th.load(io.BytesIO(members[member]), weights_only=True)
        change(found)
        written, whole = io.BytesIO(), io.BytesIO()
        th.save(found, written)
        with zipfile.ZipFile(whole, "w") as archive:
            for name, data in (members | {member: written.getvalue()}).items():
                archive.writestr(name, data)
        state["model"] = th.frombuffer(bytearray(whole.getvalue()), dtype=th.uint8)

    return forge


def columns(state: State) -> State:
    found: State = state["buffers"]["model_buffer"]["columns"]
    return found


FORGED: dict[str, Callable[[State], Any]] = {
    "no about": lambda s: s.pop("about"),
    "about of numbers": lambda s: s.update(about=5),
    "about a list": lambda s: s.update(about="[1]"),
    "about without end": lambda s: s.update(about="[" * 10_000),
    "no fingerprint": about(fingerprint=None),
    "rows in text": about(rows="x"),
    "an unknown device": about(device="nonsense:99"),
    "options in a list": about(options=[]),
    "steps in text": about(num_timesteps="4"),
    "no model": lambda s: s.pop("model"),
    "a model of text": lambda s: s.update(model="x"),
    "a model of floats": lambda s: s.update(model=th.zeros(100)),
    "a torn model": lambda s: s.update(model=s["model"][:1000].clone()),
    "an optimiser's larger moment": model_of(lambda m: m["state"][0].update(exp_avg=th.zeros(999, 999))),
    "an optimiser's empty moment": model_of(lambda m: m["state"][0].update(exp_avg=th.zeros(0))),
    "no streams": lambda s: s.pop("streams"),
    "streams of text": lambda s: s.update(streams={"seed": "x", "offset": 0, "generators": {}}),
    "a stream of floats": lambda s: s["streams"]["generators"].update(sampling=th.zeros(3)),
    "a stream that is short": lambda s: s["streams"]["generators"].update(sampling=th.zeros(3, dtype=th.uint8)),
    "no tensors": lambda s: s.pop("tensors"),
    "a tensor that is none of the model's": lambda s: s["tensors"].update(policy=th.zeros(3)),
    "a tensor by a path": lambda s: s["tensors"].update({"policy.actor.__class__": th.zeros(3)}),
    "a tensor of another shape": lambda s: s["tensors"].update(log_ent_coef=th.zeros(1000)),
    "a buffer that there is not": lambda s: s["buffers"].pop("model_buffer"),
    "a buffer's place beyond its end": lambda s: s["buffers"]["model_buffer"].update(pos=10**9),
    "a buffer's place before its begin": lambda s: s["buffers"]["model_buffer"].update(pos=-1),
    "a buffer with a method for a column": lambda s: s["buffers"]["model_buffer"]["columns"].update(sample=th.zeros(3)),
    "a buffer with wide rows": lambda s: s["buffers"]["model_buffer"]["columns"].update(
        observations=th.zeros(len(s["buffers"]["model_buffer"]["columns"]["observations"]), 1000)
    ),
    "a buffer with few rows": lambda s: s["buffers"]["model_buffer"]["columns"].update(rewards=th.zeros(1)),
    "a buffer without rewards": lambda s: columns(s).pop("rewards"),
    "a buffer with empty rewards": lambda s: columns(s).update(rewards=th.zeros(0)),
    "a buffer with rewards in a row": lambda s: columns(s).update(rewards=columns(s)["rewards"][:, None].clone()),
    "a buffer with narrow rows": lambda s: columns(s).update(observations=columns(s)["observations"][:, :1].clone()),
    "a buffer of whole numbers": lambda s: columns(s).update(rewards=columns(s)["rewards"].long()),
    "a buffer of no tensors": lambda s: columns(s).update(rewards=[1.0]),
    "sums of whole numbers": lambda s: s["log_sums"].update({next(iter(s["log_sums"])): th.tensor(1)}),
    "steps that go back": about(start=10**6),
    "an end before its beginning": about(total_timesteps=1),
    "best rewards in text": about(best_mean_rewards=["x"]),
    "a seed below 0": lambda s: s["streams"].update(seed=-1),
    "a stream beyond its numbers": lambda s: s["streams"]["generators"].update(sampling=beyond(s["global_rng"]["torch"])),
    "torch's numbers beyond their end": lambda s: s["global_rng"].update(torch=beyond(s["global_rng"]["torch"])),
    "numpy's numbers beyond their end": lambda s: s["global_rng"]["numpy"].__setitem__(1, 10**9),
    "numpy's numbers before their begin": lambda s: s["global_rng"]["numpy"].__setitem__(1, -5),
    "sums of a shape": lambda s: s["log_sums"].update({next(iter(s["log_sums"])): th.zeros(1000)}),
    "numpy's numbers in text": lambda s: s["global_rng"].update(numpy=["x", 0, 0, 0.0]),
    "python's numbers": lambda s: s["global_rng"].update(python=(3, (1, 2), None)),
    "torch's numbers": lambda s: s["global_rng"].update(torch=th.zeros(3, dtype=th.uint8)),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_checkpoint_is_refused(forge: Callable[[State], Any], checkpoint: Any, tmp_path: Path) -> None:
    path, arrays = checkpoint
    state = read_checked(path)
    forge(state)
    with (tmp_path / "forged.resume").open("w+b") as file:
        write_checked(file, state, "0" * 32 + " 4")
    with pytest.raises(FileRefused, match=r"forged\.resume|critic\.optimizer"):
        MOPO.resume(tmp_path / "forged.resume", dataset=arrays, env="Pendulum-v1").learn(6)


def test_the_genuine_one_goes_on(checkpoint: Any) -> None:
    path, arrays = checkpoint
    assert MOPO.resume(path, dataset=arrays, env="Pendulum-v1").learn(6).num_timesteps == 6


def test_many_calls_of_learn_leave_two_checkpoints(checkpoint: Any, tmp_path: Path) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST)
    for call in range(6):
        model.learn(3, callback=CheckpointCallback(3, str(tmp_path), f"call{call}"), reset_num_timesteps=call % 2 == 0)
    assert sorted(path.name.partition("_")[0] for path in tmp_path.glob("*.resume")) == ["call4", "call5"]
    assert len(list(tmp_path.glob("*.zip"))) == 6
    other = CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST)
    other.learn(3, callback=CheckpointCallback(3, str(tmp_path), "other"))
    assert len(list(tmp_path.glob("*.resume"))) == 3  # another model's are its own


def test_a_resumed_run_keeps_its_evaluations(checkpoint: Any, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        model_env = CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST).get_env()
        evaluate = EvalCallback(model_env, log_path=str(tmp_path), eval_freq=2, n_eval_episodes=1, verbose=0, warn=False)
        return [evaluate, CheckpointCallback(4, str(tmp_path))]

    def make() -> CQL:
        return CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST)

    make().learn(6, callback=callbacks())
    before = np.load(tmp_path / "evaluations.npz")
    assert before["timesteps"].tolist() == [2, 4, 6]
    CQL.resume(tmp_path, dataset=checkpoint[1], env="Pendulum-v1").learn(10, callback=callbacks())
    after = np.load(tmp_path / "evaluations.npz")
    assert after["timesteps"].tolist() == [2, 4, 6, 8, 10]
    np.testing.assert_array_equal(after["results"][:2], before["results"][:2])


def bomb(path: Path) -> None:
    np.savez_compressed(path, timesteps=np.zeros(5 * 10**8, dtype=np.uint8))


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "a single number": lambda path: np.savez(path, timesteps=np.int64(2), results=np.float64(1)),
    "text": lambda path: np.savez(path, timesteps=np.array(["2"]), results=np.zeros((1, 1))),
    "fewer results than steps": lambda path: np.savez(path, timesteps=[2, 4], results=np.zeros((1, 1))),
    "objects": lambda path: np.savez(path, timesteps=np.array([{}], dtype=object)),
    "no zip": lambda path: path.write_bytes(b"PK"),
    "a bomb": bomb,
}


@pytest.mark.parametrize("write", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_evaluations_that_cannot_be_taken_up_are_left_out(
    write: Callable[[Path], Any], checkpoint: Any, tmp_path: Path
) -> None:
    env = CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST).get_env()
    evaluation = EvalCallback(env, log_path=str(tmp_path), warn=False)
    write(tmp_path / "evaluations.npz")
    with pytest.warns(UserWarning, match=r"evaluations\.npz is damaged, and its evaluations are not taken up"):
        recall_evaluations(evaluation, 10)
    assert (evaluation.evaluations_timesteps, evaluation.evaluations_results) == ([], [])


def test_moments_that_are_not_finite_are_not_saved(checkpoint: Any, tmp_path: Path) -> None:
    model = MOPO("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST_MODEL_BASED).learn(2)
    moment = next(iter(model.critic.optimizer.state.values()))["exp_avg_sq"]
    for tensor, name in ((moment, "critic.optimizer"), (model.dynamics.input_std, "dynamics.input_std")):
        kept = tensor.flatten()[0].clone()
        tensor.flatten()[0] = float("nan")
        with pytest.raises(TrainingDivergedError, match=f"Not saved: .*{name}"):
            model.save(tmp_path / "model")
        tensor.flatten()[0] = kept
    assert list(tmp_path.iterdir()) == []
    assert non_finite_parameter(model) is None


class FullOutput:
    """As TensorBoard's on a full disk."""

    calls = 0

    def write(self, *_: Any) -> None:
        self.calls += 1
        raise OSError(28, "No space left on device")

    close = write


def test_a_full_disk_under_tensorboard_is_said_once(checkpoint: Any) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=checkpoint[1], check_data=False, **FAST)
    full = FullOutput()
    model.set_logger(Logger(None, [full]))  # type: ignore[list-item]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert model.learn(6, log_interval=1).num_timesteps == 6
    said = [str(warning.message) for warning in caught if "could not write" in str(warning.message)]
    assert said == ["FullOutput could not write (No space left on device): the run goes on without it."]
    assert full.calls == 1
    make_patient(model.logger)
    assert not isinstance(model.logger.output_formats[0].output, PatientOutput)  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_ends_with_the_status_that_the_shell_expects(times: int) -> None:
    program = (
        "import os, signal, sys, time\n"
        "from sb3_offline.training.interrupt import deferred_interrupts\n"
        "with deferred_interrupts('this') as interrupt:\n"
        f"    for _ in range({times}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "    interrupt.stop('saved')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert ended.returncode == 143, ended.stderr
