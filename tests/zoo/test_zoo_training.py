"""RL-Zoo itself, on packaged data: train, continue, enjoy, search, plot, record."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml

from sb3_offline import COMBO, CQL, OfflineSAC, load_dataset
from sb3_offline.cli import main
from sb3_offline.commands import run

pytest.importorskip("rl_zoo3")

from sb3_offline.zoo import algorithms, register
from sb3_offline.zoo.configs import check_hyperparams
from sb3_offline.zoo.enjoy import enjoy
from sb3_offline.zoo.plots import plots
from sb3_offline.zoo.samplers import make_sampler
from sb3_offline.zoo.train import train
from sb3_offline.zoo.trials import share_dynamics
from tests.contract.subjects import Subject

ENV = "sb3_offline/Pendulum-medium-v0"
FOLDER = "sb3_offline-Pendulum-medium-v0"
DYNAMICS = "dynamics_kwargs:dict(hidden_sizes=[16],n_members=2,max_epochs=2,weight_decay=1e-5)"
QUICK = {
    "cql": ["batch_size:16", "n_action_samples:2"],
    "combo": ["batch_size:16", "n_action_samples:2", "rollout_batch_size:64", DYNAMICS],
}


def words(algo: str, logs: Path, steps: int, *more: str) -> list[str]:
    command = ["--algo", algo, "--env", ENV, "-n", str(steps), "--seed", "1", "--device", "cpu", "-f", str(logs)]
    return [*command, "--eval-episodes", "2", "--verbose", "0", *more, "-params", *QUICK[algo]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_OFFLINE_CACHE", str(tmp_path / "cache"))


def test_schedules_by_name() -> None:
    """RL-Zoo's "lin_0.5" decays linearly, "cosine_0.5" by half a cosine: a quarter of the way, .375 and .427."""
    from sb3_offline.zoo.manager import OfflineExperimentManager

    given = {"learning_rate": "cosine_0.5", "qf_learning_rate": "lin_0.5", "gamma": 0.9}
    found = OfflineExperimentManager._preprocess_schedules(given)
    assert found["learning_rate"](0.75) == pytest.approx(0.25 * (1 + 0.5**0.5))
    assert found["qf_learning_rate"](0.75) == pytest.approx(0.375)
    assert found["gamma"] == 0.9
    assert OfflineExperimentManager._preprocess_schedules({"learning_rate": 0.5})["learning_rate"](0.1) == 0.5


@pytest.mark.parametrize("name", ["learning_rate", "qf_learning_rate"])
@pytest.mark.parametrize("text", ["cosine_x", "lin_x", "cosine", "1e-4", "lin_1_2", "cosine_-1", "lin_-1", "lin_nan"])
def test_schedules_that_are_none(name: str, text: str) -> None:
    from sb3_offline.zoo.manager import OfflineExperimentManager

    with pytest.raises(ValueError, match=f"^{name}: '{text}' is no schedule. Write lin_1e-4, .* or cosine_1e-4"):
        OfflineExperimentManager._preprocess_schedules({name: text})


def test_registering_twice_is_registering_once() -> None:
    import rl_zoo3
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    register()
    register()
    for name, algorithm in algorithms().items():
        assert rl_zoo3.ALGOS[name] is algorithm
        assert name in HYPERPARAMS_SAMPLER
        assert HYPERPARAMS_CONVERTER[name]({"learning_rate": 1e-4}) == {"learning_rate": 1e-4}


@pytest.mark.parametrize("algo", algorithms())
def test_what_a_search_samples_is_what_the_constructor_takes(algo: str) -> None:
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask()
        sampled = make_sampler(algorithms()[algo])(trial)
        assert sampled == trial.params  # so a stored trial converts back by itself
        check_hyperparams(algorithms()[algo], {"policy": "MlpPolicy", "n_timesteps": 1, **sampled}, "trial")
        algorithms()[algo]("MlpPolicy", Subject(algo).data, policy_kwargs={"net_arch": [8]}, device="cpu", **sampled)


def test_train_continue_enjoy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the contract does not look at: the entry of the data, TensorBoard's files, dynamics that come along."""
    algo = "combo"
    train(words(algo, tmp_path, 200, "--eval-freq", "100", "--save-freq", "100", "-tb", str(tmp_path / "tb")))
    folder = tmp_path / algo / f"{FOLDER}_1"
    saved = folder / f"{FOLDER}.zip"
    assert {path.name for path in folder.glob("*.zip")} == {
        saved.name,
        "best_model.zip",
        "rl_model_100_steps.zip",
        "rl_model_200_steps.zip",
    }
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [100, 200]
    config = yaml.load((folder / FOLDER / "config.yml").read_text(), Loader=yaml.UnsafeLoader)  # RL-Zoo's own tags
    assert config["batch_size"] == 16
    assert config["gamma"] == 0.98  # the packaged entry of this data, not "default"
    assert list((tmp_path / "tb").rglob("events*"))

    before = algorithms()[algo].load(saved)
    assert before.num_timesteps == 200
    train(words(algo, tmp_path, 10, "--eval-freq", "-1", "-i", str(saved)))
    after = algorithms()[algo].load(tmp_path / algo / f"{FOLDER}_2" / saved.name)
    assert after.num_timesteps == 10
    assert after._n_updates == 210  # it went on from what was learned
    for name, value in before.dynamics.state_dict().items():  # they came along and were not fitted again
        th.testing.assert_close(value, after.dynamics.state_dict()[name])

    capsys.readouterr()
    enjoy(["--algo", algo, "--env", ENV, "-f", str(tmp_path), "-n", "400", "--no-render", "--device", "cpu"])
    assert "2 Episodes" in capsys.readouterr().out


def test_normalised_observations_are_saved_and_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words("cql", tmp_path, 10, "--eval-freq", "10")
    train([*command, "normalize:dict(norm_obs=True,norm_reward=False)"])
    assert (tmp_path / "cql" / f"{FOLDER}_1" / FOLDER / "vecnormalize.json").is_file()
    assert not list(tmp_path.rglob("*.pkl"))
    enjoy(["--algo", "cql", "--env", ENV, "-f", str(tmp_path), "-n", "200", "--no-render", "--device", "cpu"])
    assert "Loading running average" in capsys.readouterr().out


def test_a_file_of_data_and_the_entry_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "hopper_medium-v2.npz"
    rng = np.random.default_rng(0)
    np.savez(
        data,
        observations=rng.normal(size=(60, 3)),
        actions=rng.uniform(-2, 2, size=(60, 1)),
        rewards=rng.normal(size=60),
        terminations=np.zeros(60, dtype=bool),
        truncations=np.arange(60) % 20 == 19,
    )
    command = ["--algo", "cql", "--env", "Pendulum-v1", "--dataset", str(data), "-n", "3", "--eval-freq", "-1"]
    train([*command, "-f", str(tmp_path), "-params", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"])
    assert "Hyperparameters of 'hopper-medium-v2'" in capsys.readouterr().out
    model = CQL.load(tmp_path / "cql" / "Pendulum-v1_1" / "Pendulum-v1.zip")
    assert model.conservative_weight == 2.5
    assert model.dataset == str(data)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-params", "conservativ_weight:1"], "Did you mean 'conservative_weight'"),
        (["-params", "n_envs:4"], "n_envs=4 cannot apply"),
        (["-params", "normalize:True"], "norm_reward=False"),
        (["--env", "Pendulum-v1"], "Pendulum-v1 has no data of its own"),
        (["--env", "CartPole-v1", "--dataset", "Pendulum-medium-v0"], "does not match that of the data"),
        (["-conf", "bad.yml"], "has no 'n_timesteps'"),
        (["--device", "gpu"], "--device gpu"),
        (["-n", "0"], "-n must be at least 1, got 0"),
        (["-n0"], "-n must be at least 1, got 0"),
        (["--n-timesteps=-7"], "-n must be at least 1, got -7"),
        (["--eval-episodes", "0"], "--eval-episodes must be at least 1, got 0"),
        (["--n-eval-envs", "0"], "--n-eval-envs must be at least 1, got 0"),
        (["--log-interval", "0"], "--log-interval must be at least 1, got 0"),
        (["-params", "learning_rate:cosine_x"], "learning_rate: 'cosine_x' is no schedule"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yml").write_text("default:\n  policy: MlpPolicy\n")
    command = ["--algo", "cql", *([] if "--env" in more else ["--env", ENV]), "-f", str(tmp_path), *more]
    assert run("train", train, command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("train: ")
    assert message in error
    assert not Path("cql").exists()  # no folder, which enjoy would take for the latest run


def test_the_page_from_logs_to_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands with fewer steps, and evaluations as often among them: they write the file that it evaluates."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "from_logs_to_policy.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})
    Path("held_out.npz").write_bytes(Path("log.npz").read_bytes())  # "a log as in step 1"
    commands = re.findall(r"^sb3-offline (train .*--algo cql.*|evaluate .*|select .*|certify .*)$", page, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "evaluate", "select", "certify"]
    quick = {"train": ["--eval-episodes", "1"], "select": ["--fit-steps", "20"], "certify": ["--fit-steps", "20"]}
    for command in commands:
        words = re.sub(r"(?<= )(20|2)000\b", r"\g<1>", command).replace("--episodes 50", "--episodes 2").split()
        assert main([*words, *quick.get(words[0], [])]) == (1 if words[0] == "certify" else 0)  # nothing was learned
    assert "<svg" in Path("policies.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-params", "gamma:2"], "gamma must lie in"),  # by the constructor
        (["--dataset", "bad.npz"], "NaN"),  # by learn
        (["--dataset", "bad.npz", "-P"], "NaN"),
        (["--dataset", "bad.npz", "-optimize", "--n-trials", "1"], "NaN"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rewards = np.zeros(60)
    rewards[7] = np.nan
    data = load_dataset(ENV)
    names = ("observations", "actions", "terminations", "truncations")
    np.savez("bad.npz", rewards=rewards, **{name: getattr(data, name)[:60] for name in names})
    before = set(tmp_path.rglob("*"))
    command = ["--algo", "cql", "--env", ENV, "-f", "logs", "-tb", "tb", *more]
    assert run("train", train, command) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert set(tmp_path.rglob("*")) == before


def test_a_run_that_fails_while_it_learns_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: CQL) -> None:
        if model.num_timesteps == 3:
            raise ValueError("at the fourth step")
        update(model)

    update = CQL.update
    monkeypatch.setattr(CQL, "update", fail)
    with pytest.raises(ValueError, match="fourth"):
        train(words("cql", tmp_path, 10, "--eval-freq", "-1", "--save-freq", "2"))
    assert (tmp_path / "cql" / f"{FOLDER}_1" / "rl_model_2_steps.zip").is_file()


def test_nan_ends_a_trial() -> None:
    model = CQL("MlpPolicy", ENV, policy_kwargs={"net_arch": [8]}, batch_size=8, seed=0, device="cpu")
    with th.no_grad():
        next(model.critic.parameters()).fill_(th.nan)
    with pytest.raises(ValueError, match="critic_loss became NaN at step 1"):  # what RL-Zoo prunes on
        model.learn(3)


def test_trials_share_one_fit_and_refuse_a_useless_one(tmp_path: Path) -> None:
    data = load_dataset(ENV)
    options = {"hidden_sizes": (16,), "n_members": 2, "max_epochs": 2, "weight_decay": 1e-5}

    def model(seed: int, **more: object) -> COMBO:
        settings = {
            "dynamics_kwargs": options | more,
            "policy_kwargs": {"net_arch": [8]},
            "device": "cpu",
            "check_data": False,
        }
        return COMBO("MlpPolicy", ENV, seed=seed, dynamics_cache=False, **settings)  # type: ignore[arg-type]

    first, second, other = model(0), model(1), model(2, batch_size=128)
    for one in (first, second, other):
        share_dynamics(one, data, tmp_path, seed=0)
    for name, value in first.dynamics.state_dict().items():
        th.testing.assert_close(value, second.dynamics.state_dict()[name])
    assert len(list(tmp_path.glob("*.pt"))) == 2
    assert not th.equal(first.dynamics.weights[0], other.dynamics.weights[0])

    noise = np.random.default_rng(0).normal(size=data.next_observations.shape).astype(np.float32)
    data.next_observations[:] = data.observations + noise  # nothing can be predicted
    data.rewards[:] = noise[:, 0]
    with pytest.raises(ValueError, match="explains nothing"):
        share_dynamics(model(0, learning_rate=0.01, max_epochs=1), data, tmp_path, seed=0)


def test_objectives_of_a_search_without_a_simulator() -> None:
    """What is judged is what Optuna hears and prunes by; an unknown objective is refused."""
    from types import SimpleNamespace

    from sb3_offline.zoo.objectives import TrialEstimateCallback, check_objective, make_judge

    heard: list[tuple[float, int]] = []
    trial: Any = SimpleNamespace(report=lambda *what: heard.append(what), should_prune=lambda: len(heard) == 3)
    callback = TrialEstimateCallback(trial, judge=lambda _: 10.0 - len(heard), eval_freq=2)
    callback.model = SimpleNamespace(num_timesteps=0)  # type: ignore[assignment]
    steps = [callback.on_step() for _ in range(6)]
    assert heard == [(10.0, 1), (9.0, 2), (8.0, 3)]
    assert steps == [True] * 5 + [False]
    assert callback.is_pruned
    assert callback.last_mean_reward == 8.0
    with pytest.raises(ValueError, match="fqe"):
        check_objective("best")
    data = load_dataset(ENV)[:600]
    model = OfflineSAC("MlpPolicy", dataset=data, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    assert make_judge("validation", data)(model) < 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["validation", "fqe", "model"])
def test_a_search_by_held_out_episodes(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_offline.ope import FQE, ModelBased
    from sb3_offline.zoo import objectives

    quick_world = {"hidden_sizes": (8,), "n_members": 2, "n_elites": 1, "max_epochs": 1}
    monkeypatch.setattr(objectives, "FQE", lambda **_: FQE(n_steps=20))
    monkeypatch.setattr(objectives, "ModelBased", lambda: ModelBased(n_starts=3, horizon=5, dynamics_kwargs=quick_world))
    storage = tmp_path / "journal.log"
    search = ["-optimize", "--n-trials", "1", "--n-evaluations", "2", "--no-optim-plots", "--objective", objective]
    train(words("cql", tmp_path, 40, *search, "--storage", str(storage), "--study-name", "s"))

    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(storage))
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert study.best_value < 0  # minus the held-out error, or a return of Pendulum's
    assert len(study.trials[0].intermediate_values) == 2


@pytest.mark.slow
def test_a_search_in_two_processes(tmp_path: Path) -> None:
    storage = tmp_path / "journal.log"
    command = words("combo", tmp_path, 40, "-optimize", "--n-trials", "2", "--n-evaluations", "2", "--no-optim-plots")
    command = [*command[:-5], "--storage", str(storage), "--study-name", "s", *command[-5:]]
    call = [sys.executable, "-m", "sb3_offline.zoo.train", *command]
    processes = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs

    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(storage))
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert len(study.trials) == 4
    assert study.best_value < 0
    assert len(list((tmp_path / "dynamics").glob("*.pt"))) == 1


@pytest.mark.slow
def test_plots_and_video_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("seaborn")
    monkeypatch.setenv("MPLBACKEND", "agg")
    train(words("cql", tmp_path, 20, "--eval-freq", "10"))
    plots(["all", "-a", "cql", "-e", ENV, "-f", str(tmp_path), "--no-display", "-o", str(tmp_path / "result")])
    assert (tmp_path / "result.pkl").is_file()

    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    command = ["--algo", "cql", "--env", ENV, "-f", str(tmp_path), "-n", "20", "-o", str(tmp_path / "videos")]
    subprocess.run([sys.executable, "-m", "sb3_offline.zoo.record_video", *command], check=True, timeout=300)
    assert list((tmp_path / "videos").glob("*.mp4"))
