"""The shell's commands, on real data; and its errors, which are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from sb3_offline import CQL, load_dataset
from sb3_offline.cli import main
from sb3_offline.shell.card import make_card
from sb3_offline.shell.models import detect_algorithm, load_model

OFFLINE = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}
MODEL_BASED = {
    **OFFLINE,
    "dynamics_cache": False,
    "rollout_batch_size": 16,
    "dynamics_kwargs": {"hidden_sizes": (8,), "n_members": 2, "max_epochs": 1, "weight_decay": 1e-5},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "minari").mkdir()


@pytest.fixture
def cql() -> Path:
    model = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", **OFFLINE).learn(3)
    model.save("cql")
    return Path("cql.zip")


# --- the data card, against numbers made by hand ---


def arrays_of(n: int) -> dict[str, np.ndarray]:
    """Episodes of 10 rows; the action is at its upper bound in every fourth row; the last 20 rows repeat the first 20."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n, 3)) * [1.0, 1.0, 0.0]
    observations[-20:] = observations[:20]
    next_observations = np.roll(observations, -1, axis=0)
    last = rng.normal(size=(n // 10, 3)) * [1.0, 1.0, 0.0]
    last[-2:] = last[:2]
    next_observations[9::10] = last
    return {
        "observations": observations,
        "actions": np.where(np.arange(n) % 4 == 0, 2.0, 0.1)[:, None],
        "rewards": np.ones(n),
        "next_observations": next_observations,
        "terminations": np.arange(n) % 20 == 19,
        "truncations": np.arange(n) % 20 == 9,
    }


def test_card_figures() -> None:
    card = make_card(load_dataset(arrays_of(200), env_id="Pendulum-v1"))
    assert card.summary["episodes"] == 20
    assert card.summary["terminated_episodes"] == card.summary["truncated_episodes"] == 10
    assert card.returns.tolist() == [10.0] * 20
    assert card.histograms["episode length"].counts.sum() == 20
    assert card.statistics.saturation.tolist() == [0.25]
    assert card.duplicates == pytest.approx(0.1)
    assert card.statistics.coverage.tolist() == [2 / 20]
    assert card.effective_dimensions == pytest.approx(2.0, abs=0.1)  # the third never changes
    text = " | ".join(map(str, card.findings))
    for expected in (
        "few transitions (200 of 5,000 rows wanted)",
        "repeat an earlier transition (20 of 200 rows)",
        "observations, dimension 2: never change (1 of 3 dimensions)",
        "actions, dimension 0: stay between 0.1 and 2, a small part of the action space (2 of 20 bins",
    ):
        assert expected in text
    limits = [str(finding) for finding in card.findings if finding.check == "terminated_at_limit"]
    assert "the longest length of all, 10 rows (10 of 10 terminated episodes)" in limits[0]


def test_card_suspects_time_limits_that_are_marked_as_ends() -> None:
    arrays = arrays_of(400)
    arrays["terminations"], arrays["truncations"] = np.arange(400) % 200 == 199, np.zeros(400, dtype=bool)
    card = make_card(load_dataset(arrays, env_id="Pendulum-v1"))
    assert any("at the task's time limit, 200 rows (2 of 2 terminated episodes)" in str(found) for found in card.findings)


def test_packaged_data_give_no_warning() -> None:
    assert make_card(load_dataset("Pendulum-medium-replay-v0")).findings == []


def test_inspect_prints_and_writes_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    card = '{"env_id": "Pendulum-v1", "description": "<script>alert(1)</script> [bold]x[/bold]"}'
    np.savez("log.npz", metadata=card, **arrays_of(200))
    assert main(["inspect", "log.npz", "--html", "card.html"]) == 0
    out = capsys.readouterr().out
    assert "20: 10 terminated, 10 truncated" in out
    assert "[bold]x[/bold]" in out  # text from a file is only text
    page = Path("card.html").read_text()
    assert "<svg" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_inspect_shows_errors_and_says_so_by_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of(200)
    arrays["next_observations"][[3, 17]] += 1.0
    np.savez("log.npz", env_id="Pendulum-v1", **arrays)
    assert main(["inspect", "log.npz", "--html", "card.html"]) == 2
    error = "next_observations, rows 3, 17: not the observation of the following row, inside an episode (2 of 180 rows)"
    assert f"Error: {error}" in capsys.readouterr().out
    assert f'<p class="error">Error: {error}' in Path("card.html").read_text()


# --- collect, convert ---


def test_collect_random_actions() -> None:
    for name in ("a.npz", "b.npz"):
        assert main(["collect", "Pendulum-v1", name, "--steps", "450", "--seed", "3"]) == 0
    data = load_dataset("a.npz")
    assert data.episode_lengths().tolist() == [200, 200, 50]
    assert data.truncations.sum() == 3
    assert not data.terminations.any()
    assert data.env_spec is not None
    assert data.env_spec.id == "Pendulum-v1"
    assert data.fingerprint() == load_dataset("b.npz").fingerprint()

    env = gym.make("Pendulum-v1")  # what was logged is what the task does
    observation, _ = env.reset(seed=3)
    np.testing.assert_allclose(data.observations[0], observation, rtol=1e-6)
    for row in range(5):
        observation, reward, *_ = env.step(data.actions[row])
        np.testing.assert_allclose(data.next_observations[row], observation, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(data.rewards[row], reward, rtol=1e-5)


def test_collect_with_a_model(cql: Path) -> None:
    assert main(["collect", "Pendulum-v1", "a.hdf5", "--model", str(cql), "-n", "20", "--deterministic"]) == 0
    data = load_dataset("a.hdf5")
    model = CQL.load(cql)
    np.testing.assert_allclose(model.predict(data.observations, deterministic=True)[0], data.actions, atol=1e-5)
    assert (
        main(["collect", "Pendulum-v1", "c.npz", "--model", str(cql), "-n", "200", "--deterministic", "--random-share", "1"])
        == 0
    )
    assert load_dataset("c.npz").actions.std() > 0.9  # uniform on [-2, 2] has 1.15


def test_convert_there_and_back_loses_nothing() -> None:
    pytest.importorskip("minari")
    source = load_dataset("Pendulum-medium-v0")
    steps = [("Pendulum-medium-v0", "a.hdf5"), ("a.hdf5", "mine/pendulum-v0"), ("mine/pendulum-v0", "b.npz")]
    for origin, target in steps:
        assert main(["convert", origin, target]) == 0
        assert load_dataset(target).fingerprint() == source.fingerprint()
    last = load_dataset("b.npz").info
    assert last.env_spec is not None
    assert last.env_spec.id == "Pendulum-v1"
    assert (last.reference_min_score, last.reference_max_score) == (
        source.info.reference_min_score,
        source.info.reference_max_score,
    )
    with h5py.File("a.hdf5") as file:
        assert {"terminals", "timeouts"} <= file.keys()


def test_convert_to_minari_cuts_where_rows_are_missing() -> None:
    pytest.importorskip("minari")
    arrays = {name: values[:40] for name, values in arrays_of(60).items()}
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    arrays["next_observations"][4] += 1.0  # the row after row 4 was dropped
    np.savez("log.npz", env_id="Pendulum-v1", **arrays)
    assert main(["convert", "log.npz", "with/gap-v0"]) == 0
    data = load_dataset("with/gap-v0")
    assert data.episode_lengths().tolist() == [5, 5, 10, 10, 10]
    assert not data.terminations[4]
    np.testing.assert_allclose(data.next_observations[4], arrays["next_observations"][4], rtol=1e-6)


@pytest.mark.parametrize("suffix", ["npz", "hdf5", "mmap"])
def test_convert_names_a_target_that_cannot_be_written(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert main(["convert", "Pendulum-medium-v0", f"file/deeper/a.{suffix}"]) == 2
    assert f"convert: file/deeper/a.{suffix} could not be written (Not a directory)" in (text := capsys.readouterr().err)
    assert "a part of the path is a file: take another path." in text
    Path(f"folder.{suffix}").mkdir()
    assert main(["convert", "Pendulum-medium-v0", f"folder.{suffix}", "--force"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["convert", "missing.npz", f"new/a.{suffix}"]) == 2  # nothing is made for what cannot be read
    assert sorted(path.name for path in Path().iterdir()) == ["file", f"folder.{suffix}", "minari"]
    assert main(["convert", "Pendulum-medium-v0", f"new/a.{suffix}"]) == 0
    assert [path.name for path in Path("new").iterdir()] == [f"a.{suffix}"]


def test_convert_scales_rewards() -> None:
    assert main(["convert", "Pendulum-medium-v0", "a.npz", "--reward-scale", "10", "--reward-shift", "-5"]) == 0
    before, after = load_dataset("Pendulum-medium-v0"), load_dataset("a.npz")
    np.testing.assert_allclose(after.rewards, 10 * before.rewards - 5, rtol=1e-5)
    assert "10 r + -5" in after.info.card["rewards"]


@pytest.mark.parametrize("options", [("--reward-scale", "3e38"), ("--reward-scale", "2", "--reward-shift", "1e39")])
def test_convert_refuses_rewards_beyond_float32(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "Pendulum-medium-v0", "a.npz", *options]) == 2
    assert "lead out of float32" in capsys.readouterr().err
    assert not Path("a.npz").exists()


# --- models of any class ---


@pytest.mark.parametrize(("algorithm", "env"), [(SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (PPO, "Pendulum-v1")])
def test_models_of_sb3_are_recognised(algorithm: type, env: str) -> None:
    algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, device="cpu").save("model")
    with pytest.raises(ValueError, match=r"model\.zip is SB3's, whose files are pickled.*--trust"):
        load_model(Path("model.zip"))
    assert type(load_model(Path("model.zip"), trust=True).model) is algorithm


@pytest.mark.parametrize(("algorithm", "name"), [(DQN, "dqn"), (A2C, "a2c")])
def test_models_of_discrete_tasks_are_recognised(algorithm: type, name: str) -> None:
    algorithm("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, device="cpu").save("model")
    assert detect_algorithm(Path("model.zip")) == name


def test_evaluate(cql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(cql), "-n", "2"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("CQL in Pendulum-v1: return -")
    assert "over 2 episodes of 200 steps, normalised score -" in first
    assert main(["evaluate", "cql", "--env", "Pendulum-v1", "--episodes", "2"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("columns", ["40", "200"])
def test_datasets_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # ids and figures are whole, however narrow the terminal
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert "sb3_offline/Pendulum-medium-replay-v0 " in out
    row = next(line for line in out.splitlines() if "Pendulum-medium-v0" in line)
    assert "30,000" in row
    assert "150" in row
    assert "50.4" in row


def test_model_report_of_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "Pendulum-v1", "small.npz", "-n", "1000"]) == 0
    assert main(["model-report", "small.npz", "--max-epochs", "1", "--horizon", "5", "--page", "page.html"]) == 0
    printed = capsys.readouterr().out
    assert "suggested rollout_length" in printed
    assert "one step, against no change" in printed
    assert "<html" in Path("page.html").read_text(encoding="utf-8").lower()


# --- errors ---


@pytest.mark.usefixtures("cql")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["inspect"], "Missing argument"),
        (["inspect", "missing.npz"], "there is no such file"),
        (["inspect", "Pendulum-medum-v0"], "Pendulum-medium-v0"),
        (["collect", "Pendulum-v1", "a.csv"], "is no target"),
        (["collect", "Pendulum-v1", "x/y-v0"], "two letters or more"),
        (["collect", "Pendulum-v9", "a.npz"], "Near it: "),
        (["collect", "Pendulum-v1", "a.npz", "--steps", "0"], "--steps must be at least 1"),
        (["collect", "Pendulum-v1", "a.npz", "--steps", "many"], "--steps"),
        (["collect", "Pendulum-v1", "a.npz", "--random-share", "2"], "must lie in [0, 1]"),
        (["collect", "Hopper-v5", "a.npz", "--model", "cql.zip"], "collect in the task that it was trained on"),
        (["collect", "Pendulum-v1", "a.npz", "--seed", "-1"], "'--seed'"),
        (["collect", "Pendulum-v1", "a.npz", "--seed", str(2**32)], "'--seed'"),
        (["evaluate", "cql.zip", "--seed", "-1"], "'--seed'"),
        (["evaluate", "missing.zip"], "there is no such model"),
        (["evaluate", "cql.zip", "--algo", "cqql"], "Did you mean 'cql'"),
        (["evaluate", "cql.zip", "--episodes", "0"], "--episodes must be at least 1"),
        (["convert", "Pendulum-medium-v0", "cql.npz"], "cql.npz exists"),
        (["convert", "Pendulum-medium-v0", "a.npz", "--reward-scale", "nan"], "--reward-scale nan must be positive"),
        (["convert", "Pendulum-medium-v0", "a.npz", "--reward-scale", "0"], "--reward-scale 0 must be positive"),
        (["convert", "Pendulum-medium-v0", "a.npz", "--reward-shift", "inf"], "--reward-shift inf a finite number"),
        (["demo", "--dataset", "nothing-v0"], "nothing-v0"),
        (["demo", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["demo", "--eval-freq", "0"], "--eval-freq must be at least 1, got 0"),
        (["model-report", "cql.zip"], "learns no dynamics model"),
        (["model-report", "Pendulum-medium-v0", "--page", "a.pdf"], ".html or .png"),
        (["train", "--algo", "nothing", "--env", "Pendulum-v1"], ""),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cql.npz").touch()
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("sb3-offline")
    assert message in captured.err
    assert not Path("a.npz").exists()


@pytest.mark.parametrize(
    "command", ["", "demo", "train", "enjoy", "collect", "datasets", "inspect", "convert", "evaluate", "model-report"]
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"Usage: sb3-offline {command}".strip() in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sb3-offline {metadata.version('sb3-offline')}\n"


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {name: values for name, values in arrays_of(40).items() if name not in ("truncations", "next_observations")}
    np.savez("log.npz", env_id="Pendulum-v1", **arrays)
    assert main(["convert", "log.npz", "a.npz"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "neither truncations" in line]
    assert warnings
    assert all(line.startswith("warning: ") for line in warnings)


def test_as_a_module() -> None:
    call = [sys.executable, "-m", "sb3_offline", "inspect", "missing.npz"]
    done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("sb3-offline inspect: missing.npz: there is no such file")


@pytest.mark.parametrize("words", [[], ["collect"], ["datasets"], ["datasets", "download"]])
def test_help_names_flags_without_a_type(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "--help"])
    text = capsys.readouterr().out
    assert "--help" in text
    assert "bool" not in text.lower()


def test_convert_says_where_minari_keeps_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("minari")
    assert main(["convert", "Pendulum-medium-v0", "mine/pendulum-v0"]) == 0
    folder = tmp_path / "minari" / "mine" / "pendulum-v0"
    assert folder.is_dir()
    assert f"mine/pendulum-v0 (in {folder}): 30,000 transitions" in capsys.readouterr().out.replace("\n", "")


def test_help_version_and_datasets_import_no_torch() -> None:
    """They answer at once: what is heavy is imported by the command that needs it, and Minari if its store is not empty."""
    for words in (["--help"], ["train", "--help"], ["--version"], ["datasets"]):
        code = f"import sys; from sb3_offline.cli import main; main({words}); print({{'torch', 'minari'}} & {{*sys.modules}})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
        assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_data_that_are_installed_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Their returns are not in the metadata: 150 episodes of 200 steps, whose mean return packaged data tell."""
    pytest.importorskip("minari")
    assert main(["convert", "Pendulum-medium-v0", "mine/pendulum-v0"]) == 0
    for words, figures in ((["datasets"], ["-", "-"]), (["datasets", "--full"], ["-655.1", "50.4"])):
        capsys.readouterr()
        assert main(words) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if "mine/pendulum-v0" in line)
        assert row.split()[2:] == ["30,000", "150", *figures]
