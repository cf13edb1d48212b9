"""Ctrl-C: the step is finished, the model saved, and the second one does not wait."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EveryNTimesteps, ProgressBarCallback

from sb3_offline import COMBO, CQL
from sb3_offline.training.interrupt import deferred_interrupts
from tests.conftest import FAST, FAST_MODEL_BASED, Arrays, maker

OPTIONS: dict[str, Any] = FAST | {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "n_action_samples": 2}


make = maker(CQL, **OPTIONS)


class Press(BaseCallback):
    """Ctrl-C (or another signal) while a step, or a rollout, is running."""

    def __init__(self, step: int, number: int = signal.SIGINT, in_rollout: bool = False):
        super().__init__()
        self.step, self.number, self.in_rollout = step, number, in_rollout

    def _on_step(self) -> bool:
        if not self.in_rollout and self.num_timesteps == self.step:
            os.kill(os.getpid(), self.number)
        return True

    def _on_rollout_start(self) -> None:
        if self.in_rollout and self.num_timesteps == self.step:
            os.kill(os.getpid(), self.number)


def test_first_sets_a_flag_second_raises() -> None:
    with deferred_interrupts("a test") as interrupt:
        assert not interrupt
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_users_own_is_left_alone() -> None:
    seen: list[int] = []
    old = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with deferred_interrupts("a test") as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, old)


def test_whatever_ends_training_closes_its_bar(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """An open bar of rich hides the terminal's cursor, also when the program has ended."""
    bar = ProgressBarCallback()
    with pytest.raises(KeyboardInterrupt):
        make(pendulum_arrays).learn(12, [bar, Press(3), CheckpointCallback(100, str(tmp_path))])
    assert not bar.pbar._prog.live.is_started


def test_training_saves_beside_its_checkpoints(
    pendulum_arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make(pendulum_arrays).learn(12)
    checkpoints = EveryNTimesteps(100, CheckpointCallback(1, str(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        make(pendulum_arrays).learn(12, [Press(7), checkpoints])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rl_model_7_steps.resume", "rl_model_7_steps.zip"]
    said = capsys.readouterr().out
    assert f"CQL stopped at step 7 and is saved: {tmp_path / 'rl_model_7_steps.zip'}." in said
    assert f'CQL.resume("{tmp_path / "rl_model_7_steps.resume"}"' in said
    resumed = CQL.resume(tmp_path, dataset=pendulum_arrays).learn()
    assert all(th.equal(a, b) for a, b in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True))


def test_without_a_folder_it_saves_in_interrupted(
    pendulum_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        make(pendulum_arrays).learn(12, Press(7, signal.SIGTERM))  # a cluster's scheduler
    assert error.value.code == 128 + signal.SIGTERM
    assert {path.name for path in Path("interrupted").iterdir()} == {"CQL_7_steps.zip", "CQL_7_steps.resume"}


def test_in_a_rollout(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    options: dict[str, Any] = FAST_MODEL_BASED | {"rollout_freq": 4}
    callbacks = [Press(4, in_rollout=True), CheckpointCallback(100, str(tmp_path))]
    with pytest.raises(KeyboardInterrupt):
        COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(12, callbacks)
    assert (tmp_path / "rl_model_5_steps.resume").exists()  # the step that began with the rollout


def test_a_second_one_aborts_at_once(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(pendulum_arrays).learn(12, [Press(7), Press(7), CheckpointCallback(100, str(tmp_path))])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
