"""What TensorBoard finds in a run's files."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.monitor import Monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from sb3_offline import CQL, DROMO, OfflineEvalCallback
from sb3_offline.training.tensorboard import hyperparameters


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """The files of a short run of DROMO with two evaluations."""
    folder = tmp_path_factory.mktemp("tensorboard")
    model = DROMO(
        "MlpPolicy",
        "sb3_offline/Pendulum-medium-v0",
        policy_kwargs={"net_arch": [8]},
        batch_size=16,
        seed=3,
        device="cpu",
        dynamics_cache=False,
        dynamics_kwargs={"hidden_sizes": (8,), "n_members": 2, "max_epochs": 1, "weight_decay": 1e-5},
        behavior_kwargs={"n_steps": 5},
        rollout_batch_size=32,
        tensorboard_log=str(folder),
    )
    callback = OfflineEvalCallback(Monitor(gym.make("Pendulum-v1")), eval_freq=10, n_eval_episodes=1, verbose=0)
    model.learn(20, log_interval=10, callback=callback)
    (run,) = folder.iterdir()
    return EventAccumulator(str(run)).Reload()


def test_every_chart_finds_its_curves(events: EventAccumulator) -> None:
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    assert [category.title for category in layout.category][:2] == ["Is it any good", "Are the values sane"]
    tags = {tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag}
    assert tags - set(events.Tags()["scalars"]) == {"rollout/ep_rew_mean"}  # of online fine-tuning


def test_hyperparameters_are_logged(events: EventAccumulator) -> None:
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    info = plugin_data_pb2.HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert info["algorithm"].string_value == "DROMO"
    assert info["dataset"].string_value == "sb3_offline/Pendulum-medium-v0"
    assert info["robust_weight"].number_value == 0.1
    assert info["seed"].number_value == 3
    assert info["strict"].string_value == "False"  # a number would be shown as 0.0000
    assert "visitation" not in info  # a module, not a number


def test_continuing_a_run_writes_into_it(tmp_path: Path) -> None:
    model = CQL(
        "MlpPolicy",
        "sb3_offline/Pendulum-medium-v0",
        policy_kwargs={"net_arch": [8]},
        batch_size=8,
        device="cpu",
        tensorboard_log=str(tmp_path),
    )
    model.learn(4, log_interval=2).learn(4, log_interval=2, reset_num_timesteps=False)
    (run,) = tmp_path.iterdir()
    # files of one second are read in the order of their names, in which a process's tenth (".10") comes before its ninth
    events = sorted(EventAccumulator(str(run)).Reload().Scalars("train/critic_loss"), key=lambda event: event.wall_time)
    assert [event.step for event in events] == [2, 4, 6, 8]


def test_options_that_are_objects_become_text() -> None:
    model = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", learning_rate=lambda progress: 1e-4 * progress, device="cpu")
    values = hyperparameters(model)
    assert all(isinstance(value, (bool, int, float, str)) for value in values.values())
    assert values["conservative_weight"] == 1.0
