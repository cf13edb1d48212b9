"""Termination rules against Gymnasium's own environments, and what a user's callable may return."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_offline.dynamics import TERMINATION_RULES, resolve_termination

INF, NAN = float("inf"), float("nan")


def rule_of(env_id: str, **kwargs):
    """The rule that "auto" finds, as a function of next observations alone."""
    spec = copy.deepcopy(gym.spec(env_id))
    spec.kwargs.update(kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        termination = resolve_termination("auto", spec, has_terminations=False)
    return lambda next_obs: termination(th.zeros(len(next_obs), 1), th.zeros(len(next_obs), 1), th.as_tensor(next_obs))


def hopper(**changes) -> list[float]:
    observation = [1.25] + [0.0] * 10
    for index, value in changes.items():
        observation[int(index[1:])] = value
    return observation


HOPPER_CASES = [
    (hopper(), False),
    (hopper(_0=0.7), True),  # bounds are open
    (hopper(_0=0.7001), False),
    (hopper(_0=0.6999), True),
    (hopper(_1=0.2), True),
    (hopper(_1=0.1999), False),
    (hopper(_1=-0.2), True),
    (hopper(_1=-0.1999), False),
    (hopper(_4=150.0), True),
    (hopper(_4=-150.0), True),  # np.abs(x < 100) never sees this one
    (hopper(_4=-99.0), False),
    (hopper(_10=100.0), True),
    (hopper(_0=150.0), False),  # the height has no upper bound: the range is about s_1:
    (hopper(_0=INF), True),
    (hopper(_0=NAN), True),
    (hopper(_7=NAN), True),
    (hopper(_7=-INF), True),
]


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_hopper_boundaries(dtype):
    observations, expected = zip(*HOPPER_CASES, strict=True)
    assert rule_of("Hopper-v5")(th.tensor(observations, dtype=dtype)).tolist() == list(expected)


def states_of(env: gym.Env, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """States around and on the bounds of the height and the angle, and with single large entries."""
    states = []
    for z in (0.2, 0.7, 0.7001, 0.8, 1.0, 1.25, 1.9999, 2.0, 3.0, *rng.uniform(0, 2.5, 30)):
        for angle in (0.0, 0.2, -0.2, 1.0, -1.0, *rng.uniform(-1.2, 1.2, 4)):
            qpos, qvel = env.unwrapped.init_qpos.copy(), env.unwrapped.init_qvel.copy()
            free_body = env.unwrapped.model.nq > 20 or "Ant" in env.spec.id
            qpos[2 if free_body else 1] = z
            if not free_body:
                qpos[2] = angle
            states.append((qpos, qvel))
    for index in range(3):
        for value in (150.0, -150.0, 100.0, -100.0):
            qpos, qvel = env.unwrapped.init_qpos.copy(), env.unwrapped.init_qvel.copy()
            qvel[index] = value
            states.append((qpos, qvel))
    return states


@pytest.mark.parametrize("exclude_positions", [True, False])
@pytest.mark.parametrize(("env_id", "n_hidden"), [("Hopper-v5", 1), ("Walker2d-v5", 1), ("Ant-v5", 2), ("Humanoid-v5", 2)])
def test_rules_equal_is_healthy_of_the_real_env(env_id, n_hidden, exclude_positions):
    pytest.importorskip("mujoco")
    env = gym.make(env_id, exclude_current_positions_from_observation=exclude_positions)
    env.reset(seed=0)
    observations, expected = [], []
    for qpos, qvel in states_of(env, np.random.default_rng(0)):
        env.unwrapped.set_state(qpos, qvel)
        observations.append(np.concatenate([qpos[n_hidden if exclude_positions else 0 :], qvel]))
        expected.append(not env.unwrapped.is_healthy)
    ended = rule_of(env_id, **env.spec.kwargs)(np.stack(observations))
    assert ended.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def random_episodes(env: gym.Env, n_steps: int) -> tuple[np.ndarray, list[bool]]:
    """Next observations of random actions, and whether the env ended there."""
    env.reset(seed=0)
    env.action_space.seed(0)
    observations, terminations = [], []
    for _ in range(n_steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(observation)
        terminations.append(bool(terminated))
        if terminated or truncated:
            env.reset()
    return np.stack(observations), terminations


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("name", sorted(TERMINATION_RULES.keys() - {"CartPole", "MountainCarContinuous"}))
def test_rules_follow_random_episodes(name, version):
    pytest.importorskip("mujoco")
    env_id = "Pendulum-v1" if name == "Pendulum" else f"{name}-{version}"
    if env_id == "Pusher-v4":
        pytest.skip("Gymnasium supports it with old MuJoCo only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # v4 is out of date
        env = gym.make(env_id, disable_env_checker=True)
    observations, terminations = random_episodes(env, 150)
    assert rule_of(env_id)(observations).tolist() == terminations
    never_ends = {"HalfCheetah", "HumanoidStandup", "Pendulum", "Pusher", "Reacher", "Swimmer"}
    assert any(terminations) == (name not in never_ends)


def test_cart_pole_follows_random_episodes():
    observations, terminations = random_episodes(gym.make("CartPole-v1"), 300)
    assert rule_of("CartPole-v1")(observations).tolist() == terminations
    assert any(terminations)
    assert rule_of("CartPole-v1")(np.array([[2.41, 0, 0, 0], [-2.41, 0, 0, 0], [0, 9, -0.21, 0]])).all()


def test_mountain_car_reaches_its_goal():
    observations = np.array([[0.46, 0.01], [0.46, -0.01], [0.44, 0.01], [0.46, 0.05]])
    assert rule_of("MountainCarContinuous-v0")(observations).tolist() == [True, False, False, True]
    assert rule_of("MountainCarContinuous-v0", goal_velocity=0.03)(observations).tolist() == [False, False, False, True]


def test_keyword_arguments_of_the_env_change_the_rule():
    tall = rule_of("Hopper-v5", healthy_z_range=(1.3, 2.0))
    assert tall(np.array([hopper(), hopper(_0=1.4), hopper(_0=2.1)])).tolist() == [True, False, True]
    assert not rule_of("Hopper-v5", terminate_when_unhealthy=False)(np.array([hopper(_0=0.1)])).any()
    spec = copy.deepcopy(gym.spec("InvertedDoublePendulum-v5"))
    spec.kwargs["xml_file"] = "other.xml"
    with pytest.warns(UserWarning, match="no rule is known for InvertedDoublePendulum-v5"):
        resolve_termination("auto", spec, has_terminations=True)


def test_auto_knows_no_rule_for_other_envs_or_changed_observations():
    other, foreign, changed = (copy.deepcopy(gym.spec("Hopper-v5")) for _ in range(3))
    other.id = "mine/Hopper-v5"
    foreign.entry_point = "my_package.envs:Hopper"
    changed.additional_wrappers = (gym.envs.registration.WrapperSpec("NormalizeObservation", "x:y", {}),)
    for spec in (None, other, foreign, changed):
        with pytest.warns(UserWarning, match="data holds terminations, but no rule is known"):
            termination = resolve_termination("auto", spec, has_terminations=True)
        fallen = th.tensor([hopper(_0=0.1)])
        assert not termination(fallen, fallen, fallen).any()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resolve_termination("auto", spec, has_terminations=False)


def test_auto_warns_when_the_data_contradicts_a_rule_that_never_ends():
    with pytest.warns(UserWarning, match="HalfCheetah-v5 never ends"):
        resolve_termination("auto", gym.spec("HalfCheetah-v5"), has_terminations=True)


def test_never_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        termination = resolve_termination("never", gym.spec("Hopper-v5"), has_terminations=True)
    rows = th.full((3, 11), NAN)
    result = termination(rows, rows, rows)
    assert result.dtype == th.bool
    assert result.tolist() == [False] * 3


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'never'"):
        resolve_termination("nevr", None, False)
    with pytest.raises(TypeError, match="callable"):
        resolve_termination(3, None, False)


def call(function, n=4):
    termination = resolve_termination(function, None, has_terminations=True)
    return termination(th.zeros(n, 2), th.ones(n, 1), th.arange(2.0 * n).reshape(n, 2))


def numpy_only(_obs, act, next_obs):
    if not isinstance(next_obs, np.ndarray):
        raise TypeError("arrays, please")
    return next_obs[:, 0] + act[:, 0] > 4


@pytest.mark.parametrize(
    "function",
    [
        lambda _obs, _act, next_obs: next_obs[:, 0] > 3,
        lambda _obs, _act, next_obs: next_obs[:, :1] > 3,  # (B, 1)
        lambda _obs, _act, next_obs: np.greater(next_obs[:, 0].numpy(), 3),
        numpy_only,
    ],
)
def test_a_callable_may_use_torch_or_numpy(function):
    result = call(function)
    assert isinstance(result, th.Tensor)
    assert result.dtype == th.bool
    assert result.tolist() == [False, False, True, True]


def test_the_kind_of_arrays_is_found_once():
    seen = []

    def function(obs, act, next_obs):
        seen.append(type(next_obs))
        return numpy_only(obs, act, next_obs)

    termination = resolve_termination(function, None, has_terminations=True)
    for _ in range(2):
        termination(th.zeros(4, 2), th.ones(4, 1), th.zeros(4, 2))
    assert seen == [th.Tensor, np.ndarray, np.ndarray]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda _obs, _act, next_obs: next_obs > 3, ValueError, r"must return shape \(4,\).*returned \(4, 2\)"),
        (lambda _obs, _act, next_obs: (next_obs > 3).any(), ValueError, r"returned \(\)"),
        (lambda _obs, _act, next_obs: next_obs[:, 0], TypeError, "bool.*float32"),
        (lambda _obs, _act, next_obs: next_obs.numpy()[:, 0], TypeError, "bool.*float32"),
        (lambda *_: True, TypeError, "bool"),
        (lambda *_: None, TypeError, "NoneType"),
    ],
)
def test_a_wrong_return_value_is_explained(function, error, message):
    with pytest.raises(error, match=message):
        call(function)


def test_an_exception_in_the_callable_keeps_its_traceback():
    def broken(*_):
        raise ZeroDivisionError("mine")

    with pytest.raises(ValueError, match=r"broken.*raised ZeroDivisionError: mine") as raised:
        call(broken)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert raised.value.__cause__.__traceback__ is not None
