"""The learned end of episodes: against a known rule, in the algorithms, and in the cache."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.dynamics import TerminationHead, fit_termination_head, resolve_termination
from sb3_offline.dynamics.termination_fit import best_threshold
from tests.conftest import FAST_MODEL_BASED


def transitions(n: int, seed: int = 0) -> tuple[th.Tensor, ...]:
    """Four coordinates of very different scales; an episode ends where the third leaves (-20, 25): about 2% of rows."""
    generator = th.Generator().manual_seed(seed)
    scale, offset = th.tensor([1.0, 0.01, 10.0, 100.0]), th.tensor([0.0, 5.0, 0.0, -300.0])
    observations = th.randn(n, 4, generator=generator) * scale + offset
    actions = 2 * th.rand(n, 2, generator=generator) - 1
    next_observations = observations + 0.1 * scale * th.randn(n, 4, generator=generator)
    return observations, actions, next_observations, rule(next_observations)


def rule(next_observations: th.Tensor) -> th.Tensor:
    return (next_observations[:, 2] <= -20) | (next_observations[:, 2] >= 25)


@pytest.fixture(scope="module")
def head() -> TerminationHead:
    head = TerminationHead(4, 2, generator=th.Generator().manual_seed(0))
    fit_termination_head(head, *transitions(20_000), generator=th.Generator().manual_seed(0), n_steps=800)
    return head


def test_it_agrees_with_the_rule_on_new_data(head: TerminationHead) -> None:
    observations, actions, next_observations, ended = transitions(50_000, seed=1)
    called = head(observations, actions, next_observations)
    assert called.dtype == th.bool
    hits = (called & ended).sum().item()
    assert hits / ended.sum().item() >= 0.97
    assert hits / called.sum().item() >= 0.9


def test_it_looks_at_what_matters(head: TerminationHead) -> None:
    """The group lasso finds the third coordinate of s' among ten inputs."""
    assert head.mask.nonzero().flatten().tolist() == [8]


def test_its_report_is_what_new_data_say(head: TerminationHead) -> None:
    report = head.report()
    assert report is not None
    observations, actions, next_observations, ended = transitions(50_000, seed=2)
    probability = head.probability(observations, actions, next_observations)
    assert report.n_rows == pytest.approx(3000, abs=2)
    assert report.recall >= 0.95
    assert report.precision >= 0.85
    assert report.brier == pytest.approx((probability - ended.float()).square().mean().item(), abs=2e-3)
    assert abs(probability.mean().item() - ended.float().mean().item()) < 2e-3  # though a fifth of each batch was terminal
    assert abs(report.calibration_gap) < 3e-3


def test_same_seed_same_head() -> None:
    heads = [TerminationHead(4, 2, generator=th.Generator().manual_seed(0)) for _ in range(2)]
    for one in heads:
        fit_termination_head(one, *transitions(3000), generator=th.Generator().manual_seed(3), n_steps=20)
    for a, b in zip(heads[0].state_dict().values(), heads[1].state_dict().values(), strict=True):
        assert th.equal(a, b)


def test_best_threshold_by_hand() -> None:
    """F2 = 5 TP / (called + 4 P): calling the first two gives 10/10, three 10/11."""
    threshold, score = best_threshold(np.array([0.1, 0.9, 0.5, 0.3]), np.array([False, True, True, False]))
    assert (threshold, score) == (pytest.approx(0.4), pytest.approx(1.0))
    # the first alone has 5/9: a third of precision is paid for the other half of recall
    threshold, score = best_threshold(np.array([0.9, 0.5, 0.3, 0.2]), np.array([True, False, True, False]))
    assert (threshold, score) == (pytest.approx(0.25), pytest.approx(10 / 11))


def test_equal_probabilities_are_not_parted() -> None:
    threshold, score = best_threshold(np.array([0.5, 0.5, 0.1]), np.array([True, False, False]))
    assert (threshold, score) == (pytest.approx(0.3), pytest.approx(5 / 6))


def test_constant_inputs_and_few_terminations() -> None:
    observations, actions, next_observations, _ = transitions(3000)
    observations[:, 1] = next_observations[:, 1] = 7.0
    ended = next_observations[:, 2] > next_observations[:, 2].sort().values[-25]
    head = TerminationHead(4, 2)
    report = fit_termination_head(
        head, observations, actions, next_observations, ended, generator=th.Generator().manual_seed(0), n_steps=50
    )
    assert report.n_terminal == 5  # 24 terminations: 16 fitted, 3 tuned on
    assert head.input_std[1] == 1
    ended[ended.nonzero()[:5]] = False
    with pytest.raises(ValueError, match=r"19 terminal and 2981 other.*20 of each"):
        fit_termination_head(head, observations, actions, next_observations, ended, generator=th.Generator().manual_seed(0))


# --- which termination is chosen ---


def fitted_stub() -> TerminationHead:
    head = TerminationHead(11, 3)
    head.fitted.fill_(True)
    return head


def test_order_of_auto() -> None:
    """A callable, a known rule, the head, never."""
    head, rows = fitted_stub(), th.zeros(2, 11)
    hopper = gym.spec("Hopper-v5")

    def mine(_obs: Any, _act: Any, next_obs: th.Tensor) -> th.Tensor:
        return next_obs[:, 0] > 1

    assert not resolve_termination(mine, None, True, head)(rows, rows[:, :3], rows).any()
    assert resolve_termination("auto", hopper, True, head) is not head
    assert resolve_termination("auto", hopper, True, head)(rows, rows[:, :3], rows).all()  # z = 0: fallen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_termination("auto", None, True, head) is head
        assert resolve_termination("learned", hopper, True, head) is head
        assert not resolve_termination("auto", None, False, head)(rows, rows[:, :3], rows).any()
        assert not resolve_termination("learned", None, False, head)(rows, rows[:, :3], rows).any()
    with pytest.raises(ValueError, match="no fitted classifier"):
        resolve_termination("learned", None, True, TerminationHead(11, 3))


# --- in the algorithms ---


@pytest.fixture
def ending_arrays(pendulum_arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pendulum's random steps, where episodes are said to end by a swing faster than 5.5."""
    ended = np.abs(pendulum_arrays["next_observations"][:, 2]) > 5.5
    assert 20 < ended.sum() < 300
    return pendulum_arrays | {"terminations": ended, "truncations": pendulum_arrays["truncations"] & ~ended}


def make(arrays: dict[str, np.ndarray], **options: Any) -> COMBO:
    kwargs = FAST_MODEL_BASED | {"dynamics_cache": True} | options
    kwargs["dynamics_kwargs"] = FAST_MODEL_BASED["dynamics_kwargs"] | options.get("dynamics_kwargs", {})
    return COMBO("MlpPolicy", dataset=arrays, **{"env": "Pendulum-v1", **kwargs})


def test_learned_ends_imagined_episodes(ending_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = make(ending_arrays, dynamics_kwargs={"termination": "learned"}, rollout_length=20).learn(1)
    assert model.termination is model.dynamics.termination_head
    buffer = model.model_buffer
    rows = buffer.size()
    dones, speed = buffer.dones[:rows].bool(), buffer.next_observations[:rows, 2].abs()
    assert 20 < dones.sum() < rows / 2
    assert ((speed > 5.5) == dones).float().mean() > 0.97
    model.save(tmp_path / "model")
    loaded = COMBO.load(tmp_path / "model", device="cpu")
    assert loaded.dynamics.termination_head.report() == model.dynamics.termination_head.report()


def test_learned_is_the_default_without_a_rule(ending_arrays: dict[str, np.ndarray]) -> None:
    """Neither the arrays nor an env that only has spaces name a task."""
    task = gym.make("Pendulum-v1")
    model = make(ending_arrays, env=SpacesOnlyEnv(task.observation_space, task.action_space)).learn(1)
    assert model.termination is model.dynamics.termination_head


def test_learned_without_terminations_never_ends(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, dynamics_kwargs={"termination": "learned"}).learn(1)
    assert not bool(model.dynamics.termination_head.fitted)
    assert not model.model_buffer.dones.any()


def test_learned_with_too_few_terminations_is_refused_before_the_fit(ending_arrays: dict[str, np.ndarray]) -> None:
    ended = ending_arrays["terminations"].copy()
    ended[np.flatnonzero(ended)[3:]] = False
    model = make(ending_arrays | {"terminations": ended}, dynamics_kwargs={"termination": "learned"})
    with pytest.raises(ValueError, match="holds 3 terminal"):
        model.learn(1)
    assert not bool(model.dynamics.fitted)


def test_cache_hit_equals_miss(ending_arrays: dict[str, np.ndarray]) -> None:
    """With head and calibration; and a model that needs no head shares no file with one that does."""
    kwargs = {"termination": "learned", "calibration": "isotonic", "test_fraction": 0.05}
    folder = Path(os.environ["SB3_OFFLINE_CACHE"])
    miss = make(ending_arrays, dynamics_kwargs=kwargs).learn(5)
    hit = make(ending_arrays, dynamics_kwargs=kwargs)
    hit._log_dynamics = None  # type: ignore[assignment,method-assign]  # a fit would call it
    hit.learn(5)
    none = make(ending_arrays, dynamics_kwargs=kwargs, dynamics_cache=False).learn(5)
    assert len(list(folder.iterdir())) == 1
    assert bool(miss.dynamics.calibration.active)
    for other in (hit, none):
        for (name, a), b in zip(miss.dynamics.state_dict().items(), other.dynamics.state_dict().values(), strict=True):
            assert th.equal(a, b), name
        for a, b in zip(miss.policy.parameters(), other.policy.parameters(), strict=True):
            assert th.equal(a, b)
    make(ending_arrays, dynamics_kwargs=kwargs | {"termination": "never"}).fit_dynamics()
    assert len(list(folder.iterdir())) == 2


def test_a_head_is_added_to_dynamics_that_came_without(ending_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Its stream is its own: the ensemble of a run without a head, with the head of a run that fitted both."""
    first = make(ending_arrays, dynamics_kwargs={"termination": "never"}).learn(1)
    assert not bool(first.dynamics.termination_head.fitted)
    first.save_dynamics(tmp_path / "dynamics.pt")
    second = make(ending_arrays, dynamics_kwargs={"termination": "learned"})
    second.load_dynamics(tmp_path / "dynamics.pt")
    second.learn(1)
    both = make(ending_arrays, dynamics_kwargs={"termination": "learned"}, dynamics_cache=False).learn(1)
    for (name, a), b in zip(second.dynamics.state_dict().items(), both.dynamics.state_dict().values(), strict=True):
        assert th.equal(a, b), name
