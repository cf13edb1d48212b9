"""Command lines: what is translated, what is given, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_offline.registry import names
from sb3_offline.zoo import config_path
from sb3_offline.zoo.arguments import play_arguments, train_arguments
from sb3_offline.zoo.enjoy import enjoy
from sb3_offline.zoo.plots import _folder_names, plots
from sb3_offline.zoo.record_video import record_video
from sb3_offline.zoo.train import train

PENDULUM = ["--algo", "cql", "--env", "sb3_offline/Pendulum-medium-v0"]


def test_the_packaged_configuration_is_given() -> None:
    assert train_arguments(PENDULUM) == [*PENDULUM, "-conf", str(config_path("cql"))]


def test_a_configuration_of_ones_own_is_kept(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    mine.write_text("default: {}")
    assert train_arguments([*PENDULUM, "-conf", str(mine)]) == [*PENDULUM, "-conf", str(mine)]


def test_names_of_data_become_gymnasium_ids() -> None:
    assert train_arguments(["--algo=cql", "--env=Pendulum-medium-v0"])[3] == "sb3_offline/Pendulum-medium-v0"


def test_dataset_becomes_a_hyperparameter() -> None:
    words = train_arguments(["--algo", "cql", "--env", "Pendulum-v1", "--dataset", "my log.npz"])
    assert words[-2:] == ["-params", "dataset:'my log.npz'"]
    words = train_arguments([*PENDULUM, "-params", "batch_size:8", "gamma:0.9", "--dataset", "log.npz", "-P"])
    at = words.index("-params")
    assert words[at : at + 5] == ["-params", "batch_size:8", "gamma:0.9", "dataset:'log.npz'", "-P"]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("conservative:logsumexp", "conservative:'logsumexp'"),
        ("learning_rate:lin_1e-4", "learning_rate:'lin_1e-4'"),
        ("dataset:a/b.npz", "dataset:'a/b.npz'"),
        ("conservative:'logsumexp'", "conservative:'logsumexp'"),
        ("gamma:0.9", "gamma:0.9"),
        ("strict:True", "strict:True"),
        ("policy_kwargs:dict(net_arch=[8])", "policy_kwargs:dict(net_arch=[8])"),
    ],
)
def test_text_among_hyperparameters_is_quoted(given: str, passed: str) -> None:
    assert train_arguments([*PENDULUM, "-params", given])[5] == passed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "Pendulum-v1"], "--algo is missing; one of"),
        (["--algo", "drom", "--env", "Pendulum-v1"], "Did you mean 'dromo'"),
        (["--algo", "ppo", "--env", "Pendulum-v1"], "Offline ones are"),
        (["--algo", "cql"], "--env is missing"),
        (["--algo", "cql", "--env"], "--env needs a value"),
        (["--algo", "cql", "--env", "Pendulm-medium-v0"], "Near it: .*Pendulum-medium-v0"),
        (["--algo", "cql", "--env", "mujoco/nothing/medium-v0"], "minari download mujoco/nothing/medium-v0"),
        ([*PENDULUM, "--save-replay-buffer"], "the buffer is the dataset"),
        ([*PENDULUM, "--vec-env", "subproc"], "nothing is collected"),
        ([*PENDULUM, "--vec-env=subproc"], "nothing is collected"),
        ([*PENDULUM, "-conf", "missing.yml"], "no such file"),
        ([*PENDULUM, "-i", "missing.zip"], "no such .zip file"),
        ([*PENDULUM, "-params", "batch_size"], "must read name:value"),
        (
            [*PENDULUM, "-params", "policy_kwargs:dict(net_arch=[8)"],
            r"'policy_kwargs:dict\(net_arch=\[8\)' is no Python.*Write",
        ),
        ([*PENDULUM, "-params", "policy_kwargs:{net_arch:[8]}"], "is no Python: name 'net_arch' is not defined"),
        ([*PENDULUM, "-params", "policy_kwargs:dict(activation_fn=nn.Nope)"], "is no Python.*has no attribute 'Nope'"),
        ([*PENDULUM, "--device", "gpu"], "^--device gpu: PyTorch has no such device here"),
        ([*PENDULUM, "--device=meta"], "^--device meta: PyTorch has no such device here"),
    ],
)
def test_what_cannot_apply_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_arguments(words)


def test_a_pickled_buffer_is_not_loaded(tmp_path: Path) -> None:
    model = tmp_path / "model.zip"
    model.touch()
    train_arguments([*PENDULUM, "-i", str(model)])
    (tmp_path / "replay_buffer.pkl").touch()
    with pytest.raises(ValueError, match="would unpickle"):
        train_arguments([*PENDULUM, "-i", str(model)])


def test_enjoy_looks_where_train_saves() -> None:
    assert play_arguments(PENDULUM)[-2:] == ["-f", "logs"]
    assert play_arguments([*PENDULUM, "-f", "mine"]) == [*PENDULUM, "-f", "mine"]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_devices_pass(device: str) -> None:
    """SB3 takes the CPU for cuda where there is none."""
    words = [*PENDULUM, "--device", device]
    assert train_arguments(words)[: len(words)] == words
    with pytest.raises(ValueError, match="--device gpu"):
        play_arguments([*PENDULUM, "--device", "gpu"])


def test_plots_name_folders_as_rl_zoo_does() -> None:
    words = ["-a", "cql", "-e", "sb3_offline/Pendulum-medium-v0", "Hopper-v5", "-f", "a/logs"]
    assert _folder_names(words) == ["-a", "cql", "-e", "sb3_offline-Pendulum-medium-v0", "Hopper-v5", "-f", "a/logs"]


@pytest.mark.parametrize(("words", "message"), [(["train"], "nothing is collected"), ([], "which plots"), (["pie"], "'pie'")])
def test_plots_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots(words)


@pytest.mark.parametrize("command", [enjoy, record_video, train])
def test_help_offers_our_algorithms_alone(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0
    choices = re.search(r"--algo \{([^}]*)\}", "".join(capsys.readouterr().out.split()).replace("--algo{", "--algo {"))
    assert choices is not None
    assert choices[1].split(",") == names()
    from rl_zoo3 import ALGOS

    assert "ppo" in ALGOS  # for whoever calls RL-Zoo afterwards


def evaluations(folder: Path, *returns: float) -> None:
    folder.mkdir(parents=True)
    steps = np.arange(1, len(returns) + 1) * 10
    np.savez(folder / "evaluations.npz", timesteps=steps, results=np.array(returns)[:, None] + [-1.0, 1.0], ep_lengths=0)


@pytest.mark.parametrize("words", [["--help"], ["all", "--help"], ["from-file", "--help"]])
def test_plots_help_is_no_error(words: list[str]) -> None:
    pytest.importorskip("seaborn")
    call = [sys.executable, "-m", "sb3_offline.zoo.plots", *words]
    assert subprocess.run(call, capture_output=True, timeout=300).returncode == 0


def test_plots_of_one_short_run_and_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("seaborn")
    monkeypatch.setenv("MPLBACKEND", "agg")
    evaluations(tmp_path / "cql" / "sb3_offline-Pendulum-medium-v0_1", -900.0, -500.0, -300.0)
    words = ["-e", "sb3_offline/Pendulum-medium-v0", "-f", str(tmp_path), "--no-display", "-o", str(tmp_path / "result")]
    plots(["all", "-a", "cql", *words])
    plots(["from-file", "--trust", "-i", str(tmp_path / "result"), "-b", "-o", str(tmp_path / "picture")])
    assert list(tmp_path.glob("picture*"))
    with pytest.warns(UserWarning, match="No evaluations of combo in sb3_offline-Pendulum-medium-v0: .* is no result"):
        plots(["all", "-a", "cql", "combo", *words])
    with pytest.raises(ValueError, match=f"no evaluations of combo in .* under {tmp_path}"):
        plots(["all", "-a", "combo", *words])
