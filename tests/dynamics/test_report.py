"""The model report: figures by hand on known dynamics, words, and pages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from rich.console import Console
from stable_baselines3.common.logger import configure

from sb3_offline import COMBO, load_dataset
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import EnsembleDynamics, measures
from sb3_offline.dynamics.report import ModelReport, model_report
from sb3_offline.dynamics.report_dataset import report_dataset
from sb3_offline.dynamics.world import Columns
from tests.conftest import FAST_MODEL_BASED


def walk(n_episodes: int = 10, length: int = 60) -> OfflineDataset:
    """s' = s + 1 in the first coordinate, the second alternates between -1 and 1; the reward is the action."""
    rng = np.random.default_rng(0)
    n = n_episodes * length
    step = np.tile(np.arange(length, dtype=np.float32), n_episodes)
    start = np.repeat(rng.normal(size=n_episodes), length).astype(np.float32)
    observations = np.stack([start + step, (-1.0) ** step], axis=1)
    next_observations = np.stack([start + step + 1, -((-1.0) ** step)], axis=1)
    actions = rng.uniform(-1, 1, size=(n, 1)).astype(np.float32)
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": actions[:, 0],
        "next_observations": next_observations,
        "terminations": np.zeros(n, dtype=bool),
        "truncations": step == length - 1,
    }
    return load_dataset(arrays, observation_space=spaces.Box(-100, 100, (2,)), action_space=spaces.Box(-1, 1, (1,)))


def walker(drift: float = 0.1, std: float = 0.5) -> EnsembleDynamics:
    """Two members, off by +2 and 0 times ``drift`` a step in the first coordinate, exact in the rest."""
    model = EnsembleDynamics(2, 1, n_members=2, n_elites=2, hidden_sizes=())
    with th.no_grad():
        model.max_logvar.fill_(60.0)
        model.min_logvar.fill_(-60.0)
        model.weights[0].zero_()
        model.weights[0][:, 1, 1] = -2.0
        model.weights[0][:, 2, 2] = 1.0
        model.biases[0][:, 0, 0] = th.tensor([1 + 2 * drift, 1.0])
        model.biases[0][:, 0, 3:] = 2 * np.log(std)
    model.fitted.fill_(True)
    return model


def columns(dataset: OfflineDataset) -> Columns:
    return Columns.of(dataset, np.arange(len(dataset)), th.device("cpu"))


def never(_obs: th.Tensor, _act: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
    return th.zeros(len(next_obs), dtype=th.bool)


def test_one_step_errors_by_hand() -> None:
    """The elites' mean is off by drift; no change is off by 1 and by 2; the reward is exact."""
    data = walk()
    result = measures.one_step(walker(0.1), columns(data))
    assert result.error == pytest.approx([0.1, 0.0, 0.0], abs=1e-5)
    assert result.no_change == pytest.approx([1.0, 2.0, data.rewards.std()], abs=1e-5)
    scale = data.observations.std(axis=0)
    expected = np.sqrt((1 / scale[0] ** 2 + 4 / scale[1] ** 2) / (0.01 / scale[0] ** 2))
    assert result.gain == pytest.approx(expected, rel=1e-3)
    assert result.reward_explained == pytest.approx(1.0)


def test_open_loop_error_grows_by_the_drift() -> None:
    """After k steps: error k drift, spread k drift, no change k; in the data's std, over two coordinates."""
    data = walk()
    result = measures.open_loop(walker(0.1), data, np.arange(len(data)), 20, np.random.default_rng(0))
    assert result.steps == tuple(range(1, 21))
    scale = data.observations.std(axis=0)
    for k in (1, 7, 20):
        assert result.error[k - 1] == pytest.approx(0.1 * k / scale[0] / np.sqrt(2), rel=1e-3)
        assert result.spread[k - 1] == pytest.approx(0.1 * k / scale[0] / np.sqrt(2), rel=1e-3)
        turned = 2 / scale[1] if k % 2 else 0.0
        assert result.no_change[k - 1] == pytest.approx(np.sqrt(((k / scale[0]) ** 2 + turned**2) / 2), rel=1e-3)


def test_open_loop_never_crosses_an_episodes_end() -> None:
    """A perfect model stays perfect, though episodes start anew."""
    data = walk(n_episodes=40, length=7)
    result = measures.open_loop(walker(0.0), data, np.arange(len(data)), 50, np.random.default_rng(0))
    assert len(result.steps) <= 7
    assert max(result.error) < 1e-5


def test_open_loop_leaves_out_unknown_ends() -> None:
    """A terminal row whose next observation was not logged holds a copy of its own: no outcome to be judged by."""
    data = walk(n_episodes=40, length=7)
    terminations, valid_next, following = data.truncations.copy(), ~data.truncations, data.next_observations.copy()
    following[~valid_next] = data.observations[~valid_next]
    nowhere = np.zeros(len(data), dtype=bool)
    columns_of = {
        "terminations": terminations,
        "truncations": nowhere,
        "valid_next": valid_next,
        "next_observations": following,
    }
    data = dataclasses.replace(data, **columns_of)
    result = measures.open_loop(walker(0.0), data, np.arange(len(data)), 50, np.random.default_rng(0))
    assert len(result.steps) == 6
    assert max(result.error) < 1e-5


def test_coverage_finds_where_rollouts_leave() -> None:
    """From a start in 0..59 the walk passes the largest logged state, and goes on by 1 a step."""
    data = walk()
    observations = th.as_tensor(data.observations)
    model = walker(0.0, std=1e-3)
    policy = measures.neighbour_policy(observations, th.as_tensor(data.actions))
    result = measures.coverage(model, observations, policy, never, 50, th.Generator().manual_seed(0))
    assert result.steps == tuple(range(1, 51))
    assert result.outside[0] < 0.06
    beyond = (data.observations[:, 0] + 50 > 1.01 * data.observations[:, 0].max()).mean()
    assert result.outside[49] == pytest.approx(beyond, abs=0.1)
    assert result.distance_95[49] > 10 * result.data_95
    assert result.data_median > 0


def test_neighbour_policy_repeats_the_data() -> None:
    observations, actions = th.randn(50, 2), th.randn(50, 1)
    policy = measures.neighbour_policy(observations, actions)
    assert th.equal(policy(observations + 1e-4), actions)


def test_penalty_correlation_of_a_model_that_knows_its_errors() -> None:
    """The error grows with |s_1| as the predicted std does, or the other way round."""
    generator = th.Generator().manual_seed(0)
    s = th.rand(2000, 2, generator=generator)
    noise = (0.01 + s[:, :1]) * th.tensor([[1.0, 0.0]])
    data = Columns(s, s[:, :1], s + noise, th.zeros(2000), th.zeros(2000, dtype=th.bool))
    for sign in (1.0, -1.0):
        model = walker(0.0)
        with th.no_grad():
            model.weights[0].zero_()
            model.biases[0][:, 0, :3] = 0.0
            model.weights[0][:, 0, 3] = 4.0 * sign
        found = measures.penalty_correlations(model, data)
        assert found["max_std"] == pytest.approx(sign, abs=1e-3)
        assert found["entropy"] == pytest.approx(sign, abs=1e-3)
        assert found["pairwise_diff"] == 0.0  # a constant ranks nothing


def test_ranks_share_ties() -> None:
    assert measures._ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_termination_agreement_by_hand() -> None:
    data = columns(walk(n_episodes=1, length=10))
    truth = th.zeros(10, dtype=th.bool)
    assert measures.termination_agreement(never, data) is None
    truth[[2, 5, 7]] = True
    data = dataclasses.replace(data, terminations=truth)

    def called(_obs: th.Tensor, _act: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        result = th.zeros(len(next_obs), dtype=th.bool)
        result[[2, 5, 6, 9]] = True
        return result

    agreement = measures.termination_agreement(called, data)
    assert agreement is not None
    assert (agreement.precision, agreement.recall, agreement.n_terminal) == (0.5, pytest.approx(2 / 3), 3)


@pytest.fixture(scope="module")
def report() -> ModelReport:
    return model_report(walker(0.1), walk(), never)


def test_steps_and_suggestion(report: ModelReport) -> None:
    """Accuracy ends where an error reaches .5, coverage where 5% are outside; the suggestion is the smaller, at least 1."""
    curve = dataclasses.replace(report.open_loop, error=(0.1, 0.3, 0.49, 0.5, 0.2), no_change=(1.0,) * 5)
    inside = dataclasses.replace(
        report.coverage, outside=(0.0, 0.05, 0.06, 0.0), distance_median=(0.1,) * 4, data_95=0.2, steps=(1, 2, 3, 4)
    )
    changed = dataclasses.replace(report, open_loop=curve, coverage=inside)
    assert (changed.accurate_steps, changed.covered_steps, changed.rollout_length) == (3, 2, 2)
    far = dataclasses.replace(inside, distance_median=(0.3,) * 4)
    assert dataclasses.replace(changed, coverage=far).rollout_length == 1
    still = dataclasses.replace(curve, no_change=(1.0, 0.2, 1.0, 1.0, 1.0))
    assert dataclasses.replace(changed, open_loop=still).accurate_steps == 1


def test_dangers_are_named(report: ModelReport) -> None:
    inside = dataclasses.replace(report.coverage, outside=(0.0,) * 8 + (0.07,) * 42, distance_median=(0.0,) * 50)
    words = " ".join(dataclasses.replace(report, coverage=inside).dangers())
    assert "Rollouts beyond 8 steps leave the data (7.0% of states out of its range)" in words
    at_once = dataclasses.replace(inside, outside=(0.07,) * 50)
    assert "Even the first step" in " ".join(dataclasses.replace(report, coverage=at_once).dangers())
    assert "Forecasts are too wide" in words  # sigma .5 for an error of .1
    assert "test_fraction" in words
    narrow = dataclasses.replace(report.calibration, observed=(0.3, 0.7))
    assert "overconfident: 90% intervals hold 40%" in " ".join(dataclasses.replace(report, calibration=narrow).dangers())
    poor = dataclasses.replace(report.one_step, gain=2.0, reward_explained=0.5, error=(0.9, 0.0, 0.0))
    words = " ".join(dataclasses.replace(report, one_step=poor).dangers())
    assert "only 2.0 times better" in words
    assert "Coordinate 0 of the observation" in words
    assert "Only 50% of the reward's variance" in words


def test_table_and_pages(report: ModelReport, tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(report.to_table())
    text = console.export_text()
    assert "suggested rollout_length" in text
    report.to_png(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "http" not in page.replace("data:image", "")  # self-contained


def test_tensorboard(report: ModelReport, tmp_path: Path) -> None:
    report.log(configure(str(tmp_path), ["tensorboard", "csv"]), step=3)
    assert list(tmp_path.glob("events*"))
    assert "model_report/suggested_rollout_length" in (tmp_path / "progress.csv").read_text()


@pytest.mark.parametrize("test_fraction", [0.0, 0.4])
def test_of_an_algorithm(pendulum_arrays: dict[str, np.ndarray], test_fraction: float) -> None:
    options: dict[str, Any] = FAST_MODEL_BASED | {
        "dynamics_kwargs": FAST_MODEL_BASED["dynamics_kwargs"] | {"test_fraction": test_fraction, "batch_size": 64}
    }
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options)
    with pytest.raises(ValueError, match="not fitted yet"):
        model.dynamics_report()
    model.fit_dynamics()
    weights = [p.clone() for p in model.policy.parameters()]
    one, other = model.dynamics_report(horizon=10), model.dynamics_report(horizon=10)
    assert one == other
    assert one.held_out == ("test episodes" if test_fraction else "held-out rows")
    assert one.n_rows == (600 if test_fraction else 200)
    assert len(one.coverage.steps) == len(one.open_loop.steps) == 10
    assert 1 <= one.rollout_length <= 10
    assert all(th.equal(a, b) for a, b in zip(weights, model.policy.parameters(), strict=True))
    model.learn(1)  # and a report before learn() does not shift its streams
    again = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(1)
    assert th.equal(model.model_buffer.observations, again.model_buffer.observations)


def test_of_data_alone(pendulum_arrays: dict[str, np.ndarray]) -> None:
    kwargs = FAST_MODEL_BASED["dynamics_kwargs"] | {"test_fraction": 0.4, "batch_size": 64}
    data = load_dataset(pendulum_arrays, env_id="Pendulum-v1")
    one = report_dataset(data, kwargs, horizon=5, device="cpu")
    assert one == report_dataset(data, kwargs, horizon=5, device="cpu")
    assert one.held_out == "test episodes"
    assert one.dataset_id == data.info.dataset_id
