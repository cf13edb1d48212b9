"""Actions of several parts, counted from any number, masked, or without bounds; states that are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_offline import CQL, DiscreteBC, DiscreteCOMBO, DiscreteCQL, DiscreteDROMO, DiscreteIQL, load_dataset
from sb3_offline.common import model_based_dqn
from sb3_offline.cql.conservative import ExactConservative
from sb3_offline.datasets import DatasetError, DatasetSource, DatasetWarning, OfflineDataset, SpacesOnlyEnv
from sb3_offline.evaluation import OfflineEvalCallback
from sb3_offline.networks.choices import Choices
from sb3_offline.networks.networks import Batch
from sb3_offline.ope import FQE
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.shell.writing import write_dataset
from tests.conftest import FAST, fast_options

N = 1000
BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PARTS = [
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiDiscrete([2, 2], start=[1, -1]),
    spaces.MultiDiscrete([[2, 2], [1, 3]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Discrete(3, start=-1),
]
FAMILY = [DiscreteCQL, DiscreteCOMBO, DiscreteDROMO]


def arrays_of(space: spaces.Space, **more: Any) -> dict[str, Any]:
    """A bandit: each row ends, and the reward is 1 for the action of the sampled ones that has the largest numbers."""
    space.seed(0)
    rng = np.random.default_rng(0)
    actions = np.array([space.sample() for _ in range(N)])
    sums = actions.reshape(N, -1).sum(axis=1)
    return {
        "observations": rng.normal(size=(N, 3)).astype(np.float32),
        "actions": actions,
        "rewards": (sums == sums.max()).astype(np.float32),
        "next_observations": rng.normal(size=(N, 3)).astype(np.float32),
        "terminations": np.arange(N) % 10 == 9,
        "truncations": np.zeros(N, bool),
        **more,
    }


def data_of(space: spaces.Space, **more: Any) -> OfflineDataset:
    return load_dataset(arrays_of(space, **more), observation_space=BOX, action_space=space)


# --- numbers of combinations ---


def test_combinations_are_numbered_as_numpy_does() -> None:
    choices = Choices(spaces.MultiDiscrete([2, 3], start=[5, -1]))
    assert choices.n == 6
    assert choices.table().tolist() == [[5, -1], [5, 0], [5, 1], [6, -1], [6, 0], [6, 1]]
    np.testing.assert_array_equal(choices.numbers(np.array([[6, -1], [5, 1]])), [3, 2])


@pytest.mark.parametrize("space", PARTS)
def test_numbers_and_actions_are_inverse(space: spaces.Space) -> None:
    choices = Choices(space)
    table = choices.table()
    assert len(np.unique(table.reshape(choices.n, -1), axis=0)) == choices.n
    assert all(space.contains(action.astype(space.dtype)) if space.shape else space.contains(action) for action in table)
    np.testing.assert_array_equal(choices.numbers(table), np.arange(choices.n))


def test_masks_of_parts_allow_their_combinations() -> None:
    """In sb3-contrib's order: the entries of the first part, then those of the second."""
    masks = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1]])
    allowed = Choices(spaces.MultiDiscrete([3, 2])).allowed(masks)
    assert allowed.tolist() == [[True, False, False, False, True, False], [False, False, True, True, False, False]]


@pytest.mark.parametrize(("masks", "message"), [(np.ones((2, 4)), r"\(2, 5\)"), (np.array([[1, 1, 1, 0, 0]]), "row 0")])
def test_masks_that_do_not_fit(masks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choices(spaces.MultiDiscrete([3, 2])).allowed(masks, len(masks) if masks.shape[1] == 5 else 2)


def test_too_many_combinations_are_refused() -> None:
    space = spaces.MultiBinary(13)
    env = SpacesOnlyEnv(BOX, space)
    with pytest.raises(ValueError, match="8,192 combinations"):
        DiscreteCQL("MlpPolicy", env, dataset=arrays_of(space))


# --- learning ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("space", PARTS)
def test_predict_speaks_the_environments_language(space: spaces.Space, tmp_path: Path) -> None:
    data = data_of(space)
    model = DiscreteCQL("MlpPolicy", dataset=data, gamma=0.0, learning_rate=1e-2, conservative_weight=0.0, **FAST)
    model.learn(150)
    best = data.actions[int(data.rewards.argmax())]
    actions, _ = model.predict(data.observations)
    assert actions.shape == data.actions.shape
    assert (actions.reshape(N, -1) == np.ravel(best)).all(axis=1).mean() > 0.9
    one, _ = model.predict(data.observations[0])
    assert one.shape == space.shape
    np.testing.assert_array_equal(load_dataset(model.replay_buffer).actions, data.actions)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(DiscreteCQL.load(tmp_path / "model").predict(data.observations)[0], actions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", FAMILY[1:])
def test_model_based_ones_take_parts_too(algorithm: type[Any]) -> None:
    data = data_of(PARTS[0])
    model = algorithm("MlpPolicy", dataset=data, **fast_options(algorithm)).learn(3)
    assert model.model_buffer.actions.max() < 6
    assert model.predict(data.observations)[0].shape == (N, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("space", [PARTS[0], PARTS[3], PARTS[5]])
def test_export_gives_the_environments_actions(space: spaces.Space, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = DiscreteCQL("MlpPolicy", dataset=data_of(space), **FAST).learn(5)
    session = onnxruntime.InferenceSession(str(model.export_onnx(tmp_path / "policy")), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run(None, {"observation": rows})[0], model.predict(rows)[0])


@pytest.mark.filterwarnings("ignore")
def test_fqe_takes_parts() -> None:
    """Every row ends with its reward at once, so Q of the policy that takes the best action is 1."""
    data = data_of(PARTS[0], terminations=np.ones(N, bool))

    class Best:
        def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
            return np.tile([2, 1], (len(observations), 1)), None

    estimator = FQE(gamma=0.0, n_steps=300, n_critics=2, batch_size=None, net_arch=(), learning_rate=0.05)
    values = estimator.fit(EvaluatedPolicy(Best(), data), data).v(data.observations)
    np.testing.assert_allclose(values.mean(), 1.0, atol=0.05)


def test_sb3s_own_policy_class_is_taken() -> None:
    from stable_baselines3.dqn import MlpPolicy

    model = DiscreteCQL(MlpPolicy, dataset=data_of(PARTS[0]), **FAST)
    assert model.q_net.q_net[-1].out_features == 6


# --- masks ---


def masked_arrays(**more: Any) -> dict[str, Any]:
    """Three actions, of which the third is never allowed in even rows."""
    arrays = arrays_of(spaces.Discrete(3))
    arrays["actions"][::2] = arrays["actions"][::2] % 2
    masks = np.ones((N, 3), bool)
    masks[::2, 2] = False
    return {**arrays, "action_masks": masks, **more}


def masked_data(**more: Any) -> OfflineDataset:
    return load_dataset(masked_arrays(**more), observation_space=BOX, action_space=spaces.Discrete(3))


def test_next_masks_are_those_of_the_following_row() -> None:
    data = masked_data()
    inside = ~data.terminations[:-1]
    np.testing.assert_array_equal(data.next_action_masks[:-1][inside], data.action_masks[1:][inside])
    assert data.next_action_masks[data.terminations].all()


def test_a_cut_episodes_last_row_without_next_masks_is_dropped() -> None:
    cut = np.arange(N) % 10 == 4
    assert len(masked_data(truncations=cut)) == N - 100
    known = np.roll(masked_arrays()["action_masks"], -1, axis=0)
    assert len(masked_data(truncations=cut, next_action_masks=known)) == N


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_masks": np.ones((N, 2), bool)}, r"\(1000, 3\) is needed"),
        ({"action_masks": np.zeros((N, 3), bool)}, "allow no action in 1000 of 1000 rows"),
        ({"action_masks": np.tile([False, True, True], (N, 1))}, "forbid the logged action"),
        ({"action_masks": np.full((N, 3), 2)}, "neither 0 nor 1"),
        ({"next_action_masks": np.zeros((N, 3), bool)}, "next_action_masks allow no action in 900"),
    ],
)
def test_masks_that_cannot_be_right_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        masked_data(**change)


def test_masks_belong_to_choices() -> None:
    arrays = arrays_of(spaces.Box(-1, 1, (2,))) | {"action_masks": np.ones((N, 2), bool)}
    with pytest.raises(DatasetError, match="action_masks are for actions that are chosen"):
        load_dataset(arrays, observation_space=BOX, action_space=spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize("name", ["log.npz", "log.hdf5", "log.parquet", "log.mmap"])
def test_masks_survive_files_to_the_bit(name: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    data = masked_data()
    write_dataset(data, str(tmp_path / name))
    assert load_dataset(tmp_path / name).fingerprint() == data.fingerprint()


def test_parts_of_masked_data_keep_their_masks() -> None:
    data = masked_data()
    train, held_out = data.split(0.2)
    assert len(train.action_masks) == len(train)
    np.testing.assert_array_equal(load_dataset([train, held_out]).action_masks[: len(train)], train.action_masks)
    with pytest.raises(DatasetError, match="only some of the sources have action_masks"):
        load_dataset([data, data_of(spaces.Discrete(3))])


def test_tables_name_a_column_or_several_as_masks() -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    arrays = masked_arrays()
    frame = pd.DataFrame(arrays["observations"], columns=["o0", "o1", "o2"])
    for name in ("actions", "rewards", "terminations"):
        frame[name] = arrays[name]
    frame["may"] = arrays["action_masks"].tolist()
    for i in range(3):
        frame[f"may_{i}"] = arrays["action_masks"][:, i].astype(int)
    roles = {"observations": ["o*"], "actions": "actions", "rewards": "rewards", "terminations": "terminations"}
    found = [
        load_dataset(frame, columns={**roles, "action_masks": masks}, observation_space=BOX, action_space=spaces.Discrete(3))
        for masks in ("may", ["may_0", "may_1", "may_2"])
    ]
    for data in found:
        np.testing.assert_array_equal(data.action_masks, arrays["action_masks"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", ["device", "mmap"])
def test_targets_and_the_soft_maximum_leave_forbidden_actions_out(storage: Any, tmp_path: Path) -> None:
    """Q = (1, 2, 50): the third action counts where it is allowed, and nowhere else."""
    write_dataset(masked_data(), str(tmp_path / "log.mmap"))
    model = DiscreteCQL("MlpPolicy", dataset=str(tmp_path / "log.mmap"), storage=storage, gamma=0.5, **FAST).learn(1)
    for network in (model.q_net, model.q_net_target):
        for parameter in network.parameters():
            parameter.data.zero_()
        network.q_net[-1].bias.data = th.tensor([1.0, 2.0, 50.0])
    batch, nets = model.sample_batch(), model.networks()
    going = 1.0 - batch.dones
    best = th.where(batch.next_masks[:, 2], 50.0, 2.0)
    th.testing.assert_close(model.td_target(nets, batch), batch.rewards + 0.5 * going * best)
    soft = np.log(np.exp(1.0) + np.exp(2.0))
    expected = th.where(batch.masks[:, 2], 50.0, soft).float()
    th.testing.assert_close(ExactConservative(model).out_of_data_value(nets, batch, None)[0], expected)
    assert batch.masks[:, 2].any()
    assert not batch.masks[:, 2].all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", [*FAMILY, DiscreteBC, DiscreteIQL])
def test_the_family_learns_from_masks_and_predicts_by_them(
    algorithm: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FAST if algorithm in (DiscreteBC, DiscreteIQL) else fast_options(algorithm)
    monkeypatch.setattr(model_based_dqn, "LEGAL_FIT_STEPS", 20)
    data = masked_data()
    model = algorithm("MlpPolicy", dataset=data, **options).learn(3, validation=0.2)
    batch: Batch = model.sample_batch()
    assert batch.masks.shape == batch.next_masks.shape == (len(batch.rewards), 3)
    assert batch.masks.any(dim=1).all()
    model.save(tmp_path / "model")
    model = algorithm.load(tmp_path / "model")
    for only in range(3):
        masks = np.tile(np.arange(3) == only, (N, 1))
        assert (model.predict(data.observations, action_masks=masks)[0] == only).all()
        assert model.predict(data.observations[0], action_masks=masks[0])[0] == only
    with pytest.raises(ValueError, match=r"\(1000, 3\) is needed"):
        model.predict(data.observations, action_masks=masks[:5])


@pytest.mark.filterwarnings("ignore")
def test_masks_of_imagined_states_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third action is allowed where the first observation is positive."""
    arrays = arrays_of(spaces.Discrete(3))
    masks = np.ones((N, 3), bool)
    masks[:, 2] = arrays["observations"][:, 0] > 0
    arrays["actions"] = np.where(masks[:, 2], arrays["actions"], arrays["actions"] % 2)
    data = load_dataset(arrays | {"action_masks": masks}, observation_space=BOX, action_space=spaces.Discrete(3))
    monkeypatch.setattr(model_based_dqn, "LEGAL_FIT_STEPS", 500)
    model = DiscreteCOMBO("MlpPolicy", dataset=data, **fast_options(DiscreteCOMBO)).learn(1)
    states = th.randn(500, 3, generator=th.Generator().manual_seed(1))
    learned = model.legal_actions.masks(states)
    assert learned[:, :2].all()
    assert (learned[:, 2] == (states[:, 0] > 0)).float().mean() > 0.9


@pytest.mark.filterwarnings("ignore")
def test_a_masked_model_is_exported_with_masks(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = DiscreteCQL("MlpPolicy", dataset=masked_data(), **FAST).learn(2)
    session = onnxruntime.InferenceSession(str(model.export_onnx(tmp_path / "policy")), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    rows, masks = rng.normal(size=(20, 3)).astype(np.float32), rng.random((20, 3)) < 0.5
    masks[:, 1] = True
    actions = session.run(None, {"observation": rows, "action_masks": masks})[0]
    np.testing.assert_array_equal(actions, model.predict(rows, action_masks=masks)[0])
    assert masks[np.arange(20), actions].all()


class Corridor(gym.Env):
    """Ten steps; one random action of three is allowed at each, and any other ends the episode with -100."""

    observation_space = BOX
    action_space = spaces.Discrete(3)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**options)
        self.steps, self.only = 0, int(self.np_random.integers(3))
        return np.zeros(3, np.float32), {}

    def action_masks(self) -> np.ndarray:
        return np.arange(3) == self.only

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        allowed = int(action) == self.only
        self.steps, self.only = self.steps + 1, int(self.np_random.integers(3))
        return np.zeros(3, np.float32), 1.0 if allowed else -100.0, not allowed or self.steps == 10, False, {}


@pytest.mark.filterwarnings("ignore")
def test_evaluation_asks_the_environment_for_its_masks(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(Corridor())])
    callback = OfflineEvalCallback(env, eval_freq=2, n_eval_episodes=3, verbose=0, best_model_save_path=str(tmp_path))
    model = DiscreteCQL("MlpPolicy", Corridor(), dataset=masked_data(), **FAST).learn(2, callback=callback)
    assert callback.last_mean_reward == 10.0
    assert model.mask_source is None
    assert evaluate_policy(model, env, n_eval_episodes=3)[0] < 0  # SB3's own asks for none
    assert DiscreteCQL.load(tmp_path / "best_model").uses_action_masks


@pytest.mark.filterwarnings("ignore")
def test_sb3_contribs_evaluation_takes_the_models() -> None:
    maskable = pytest.importorskip("sb3_contrib.common.maskable.evaluation")
    model: Any = DiscreteCQL("MlpPolicy", Corridor(), dataset=masked_data(), **FAST).learn(2)
    assert maskable.evaluate_policy(model, Monitor(Corridor()), n_eval_episodes=3)[0] == 10.0


def test_estimators_refuse_masked_data() -> None:
    with pytest.raises(ValueError, match="has action_masks"):
        FQE(n_steps=1).estimate(DiscreteCQL("MlpPolicy", dataset=masked_data(), **FAST), masked_data())


@pytest.mark.filterwarnings("ignore")
def test_cloning_weighs_allowed_actions_alone() -> None:
    """A uniform actor gives each of two allowed actions one half, and each of three one third."""
    model = DiscreteBC("MlpPolicy", dataset=masked_data(), **FAST).learn(1)
    for parameter in model.actor.logits.parameters():
        parameter.data.zero_()
    batch = model.sample_batch()
    expected = batch.masks.sum(dim=1).float().log()
    th.testing.assert_close(model.imitation(model.networks(), batch), expected)
    drawn, _ = model.predict(batch.observations.numpy(), action_masks=batch.masks.numpy())
    assert batch.masks[th.arange(len(drawn)), th.as_tensor(drawn)].all()
    assert len(set(drawn.tolist())) == 3


# --- states that are counted ---

COUNTED = [spaces.Discrete(4), spaces.MultiDiscrete([4, 3]), spaces.MultiBinary(3)]


def counted(space: spaces.Space, actions: spaces.Space) -> OfflineDataset:
    space.seed(1)
    states = {name: np.array([space.sample() for _ in range(N)]) for name in ("observations", "next_observations")}
    arrays = arrays_of(actions) | states | {"rewards": np.ravel(states["observations"].reshape(N, -1)[:, 0])}
    return load_dataset(arrays, observation_space=space, action_space=actions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("space", COUNTED)
def test_counted_states_are_one_hot(space: spaces.Space, tmp_path: Path) -> None:
    """With gamma 0 Q is the reward, the state's first number, which a linear Q of one-hot states can hold."""
    data = counted(space, spaces.Discrete(2))
    options: dict[str, Any] = FAST | {"policy_kwargs": {"net_arch": []}, "learning_rate": 3e-2}
    model = DiscreteCQL("MlpPolicy", dataset=data, gamma=0.0, conservative_weight=0.0, **options).learn(400)
    with th.no_grad():
        q = model.q_net(th.as_tensor(data.observations))[np.arange(N), data.actions]
    np.testing.assert_allclose(q, data.rewards, atol=0.1)
    actions, _ = model.predict(data.observations)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(DiscreteCQL.load(tmp_path / "model").predict(data.observations)[0], actions)


@pytest.mark.filterwarnings("ignore")
def test_continuous_actions_in_counted_states() -> None:
    data = counted(COUNTED[0], spaces.Box(-1, 1, (2,)))
    model = CQL("MlpPolicy", dataset=data, **(FAST | {"n_action_samples": 2})).learn(2)
    assert model.predict(np.array([0, 3]))[0].shape == (2, 2)
    assert np.isfinite(FQE(n_steps=20, n_critics=2).estimate(model, data).value)


def test_a_model_of_the_world_takes_no_counted_states() -> None:
    with pytest.raises(ValueError, match=r"DiscreteCQL, DiscreteIQL can learn from it.*FlattenObservation"):
        DiscreteCOMBO("MlpPolicy", dataset=counted(COUNTED[0], spaces.Discrete(2)))


def test_states_that_do_not_count_from_zero() -> None:
    data = counted(spaces.Discrete(4, start=1), spaces.Discrete(2))
    with pytest.raises(ValueError, match="subtract the start"):
        DiscreteCQL("MlpPolicy", dataset=data)


# --- actions without bounds ---


class Unbounded(SpacesOnlyEnv):
    """Its actions may be anything."""

    def __init__(self) -> None:
        super().__init__(BOX, spaces.Box(np.array([-np.inf, 0.0]), np.inf, (2,), np.float64))


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: DummyVecEnv([lambda: env])], ids=["env", "vector"])
def test_actions_without_bounds_stay_within_the_data(wrap: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    actions = np.stack([rng.uniform(-7, 3, N), rng.uniform(1, 2, N)], axis=1).astype(np.float32)
    arrays = arrays_of(spaces.Discrete(2)) | {"actions": actions}
    with pytest.warns(DatasetWarning, match="without bounds; those of the data are taken"):
        model = CQL("MlpPolicy", wrap(Unbounded()), dataset=arrays, **(FAST | {"n_action_samples": 2}))
    np.testing.assert_array_equal(model.action_space.low, [actions[:, 0].min(), 0.0])  # a bound that there is stays
    np.testing.assert_array_equal(model.action_space.high, actions.max(axis=0))
    model.learn(2)
    chosen, _ = model.predict(arrays["observations"])
    assert (chosen >= model.action_space.low).all()
    assert (chosen <= model.action_space.high).all()
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", env=wrap(Unbounded()))
    assert loaded.action_space == model.action_space
    loaded.set_env(wrap(Unbounded()))


def test_data_that_were_read_for_their_bounds_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = arrays_of(spaces.Box(np.array([-9.0, 1.0]), 9.0, (2,)))
    np.savez(tmp_path / "log.npz", **arrays)
    reads: list[DatasetSource] = []
    monkeypatch.setattr(DatasetSource, "load", lambda source, load=DatasetSource.load: (reads.append(source), load(source))[1])
    with pytest.warns(DatasetWarning, match="without bounds"):
        model = CQL("MlpPolicy", Unbounded(), dataset=str(tmp_path / "log.npz"), **(FAST | {"n_action_samples": 2}))
    model.learn(1)
    assert len(reads) == 1
    assert model._loaded is None  # and let go of
    np.savez(tmp_path / "other.npz", **(arrays | {"rewards": arrays["rewards"] + 1}))
    model.dataset = str(tmp_path / "other.npz")
    model.learn(1)
    assert len(reads) == 2


def test_bounds_come_before_none() -> None:
    box = spaces.Box(-9.0, 9.0, (2,))
    data = load_dataset(arrays_of(box), observation_space=BOX, action_space=box)
    model = CQL("MlpPolicy", Unbounded.__base__(BOX, spaces.Box(-np.inf, np.inf, (2,))), dataset=data, **FAST)
    assert model.action_space == box
