import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_offline import load_dataset
from sb3_offline.buffers.buffers import ModelRolloutBuffer, OfflineDatasetBuffer, scale_actions, unscale_actions

OBS, ACT = spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(-2.0, 2.0, (1,))


def rows(first: int, n: int) -> dict[str, th.Tensor]:
    values = th.arange(first, first + n, dtype=th.float32)
    column = values.unsqueeze(1)
    return dict(observations=column, actions=column, next_observations=column, rewards=values, dones=th.zeros(n))


def test_rollout_buffer_rotates() -> None:
    """The newest rows overwrite the oldest, also across the end; nothing stays zero."""
    buffer = ModelRolloutBuffer(5, OBS, ACT, "cpu")
    assert isinstance(buffer, ReplayBuffer)
    buffer.write(**rows(1, 3))
    assert buffer.size() == 3
    assert not buffer.full
    buffer.write(**rows(4, 4))  # 1..7, capacity 5: 3..7 remain
    assert buffer.full
    assert buffer.size() == 5
    assert sorted(buffer.rewards.tolist()) == [3, 4, 5, 6, 7]
    buffer.write(**rows(10, 12))  # more than fits: only the newest five
    assert sorted(buffer.rewards.tolist()) == [17, 18, 19, 20, 21]
    assert (buffer.observations[:, 0] == buffer.rewards).all()


def test_filling_exactly_makes_it_full() -> None:
    buffer = ModelRolloutBuffer(4, OBS, ACT, "cpu")
    buffer.write(**rows(0, 4))
    assert buffer.full
    assert buffer.pos == 0
    assert buffer.size() == 4


def test_sampling_comes_from_its_own_generator() -> None:
    buffer = ModelRolloutBuffer(100, OBS, ACT, "cpu")
    buffer.write(**rows(0, 100))
    buffer.generator = th.Generator().manual_seed(1)
    before = th.get_rng_state()
    first = buffer.sample(50)
    assert th.equal(before, th.get_rng_state())
    buffer.generator.manual_seed(1)
    assert th.equal(first.rewards, buffer.sample(50).rewards)
    assert first.rewards.shape == (50, 1)
    assert len(first.rewards.unique()) > 20


def test_an_empty_buffer_says_so() -> None:
    with pytest.raises(ValueError, match="ModelRolloutBuffer is empty"):
        ModelRolloutBuffer(4, OBS, ACT, "cpu").sample(1)


def test_actions_are_scaled_to_unit_range() -> None:
    """Pendulum's bounds are +-2: tasks with bounds +-1 would hide a missing scaling."""
    actions = np.array([[-2.0], [-1.0], [0.5], [2.0]], dtype=np.float32)
    np.testing.assert_allclose(scale_actions(actions, ACT), [[-1.0], [-0.5], [0.25], [1.0]])
    back = unscale_actions(th.as_tensor(scale_actions(actions, ACT)), th.tensor([-2.0]), th.tensor([2.0]))
    np.testing.assert_allclose(back.numpy(), actions)
    lopsided = spaces.Box(np.array([0.0]), np.array([10.0]), dtype=np.float64)
    np.testing.assert_allclose(scale_actions(np.array([[2.5]]), lopsided), [[-0.5]])


def test_dones_are_terminations_only() -> None:
    """A time-out goes on bootstrapping, a termination does not."""
    data = load_dataset(
        {
            "observations": np.arange(4.0).reshape(4, 1),
            "actions": np.array([[-2.0], [0.0], [1.0], [2.0]]),
            "rewards": np.ones(4),
            "next_observations": np.arange(1.0, 5.0).reshape(4, 1),
            "terminations": np.array([False, True, False, False]),
            "truncations": np.array([False, False, False, True]),
        },
        observation_space=OBS,
        action_space=ACT,
    )
    buffer = OfflineDatasetBuffer(1, OBS, ACT, "cpu")
    buffer.load(data)
    assert buffer.size() == 4
    assert buffer.dones.tolist() == [0, 1, 0, 0]
    assert buffer.actions.flatten().tolist() == [-1, 0, 0.5, 1]
    assert buffer.observations.dtype == th.float32
    with pytest.raises(RuntimeError, match="fixed"):
        buffer.add()
