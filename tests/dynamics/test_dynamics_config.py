"""``dynamics_kwargs``: what is accepted, and what each mistake is told."""

import pytest

from sb3_offline.dynamics import DynamicsConfig


def test_defaults():
    config = DynamicsConfig.from_kwargs(None)
    assert config == DynamicsConfig() == DynamicsConfig.from_kwargs({})
    assert (config.n_members, config.n_elites, config.sizes(n_inputs=14)) == (7, 5, (200, 200, 200, 200))
    assert (config.learning_rate, config.batch_size, config.patience) == (2e-3, None, None)
    assert config.termination == "auto"


def test_sizes_go_by_the_inputs_unless_they_are_given():
    config = DynamicsConfig()
    assert [config.sizes(n)[0] for n in (1, 4, 6, 12, 13, 400)] == [64, 64, 96, 192, 200, 200]
    assert all(len(config.sizes(n)) == 4 for n in (1, 6, 400))
    assert DynamicsConfig(hidden_sizes=(8,)).sizes(14) == (8,)


@pytest.mark.parametrize(
    ("n_rows", "epochs"),
    [
        (600, 500),  # 4 batches of 150 an epoch: 2,000 steps
        (100_000, 26),  # 391 batches of 256: 10,000 steps
        (256 * 50, 40),
        (256 * 100, 30),
        (256 * 400, 25),  # 10,000 steps
        (256 * 100_000, 1),
    ],
)
def test_epochs_go_by_the_rows_unless_they_are_given(n_rows, epochs):
    assert DynamicsConfig().epochs(n_rows) == epochs
    assert DynamicsConfig(max_epochs=7).epochs(n_rows) == 7


@pytest.mark.parametrize(("n_rows", "size"), [(3, 1), (146, 36), (600, 150), (1023, 255), (1024, 256), (10**6, 256)])
def test_batches_go_by_the_rows_unless_they_are_given(n_rows, size):
    assert DynamicsConfig().rows_a_step(n_rows) == size
    assert DynamicsConfig(batch_size=64).rows_a_step(n_rows) == 64


def test_lists_from_yaml_become_tuples():
    config = DynamicsConfig.from_kwargs({"hidden_sizes": [64, 64], "weight_decay": [0, 1e-5, 1e-4]})
    assert config.hidden_sizes == (64, 64)
    assert config.weight_decay == (0, 1e-5, 1e-4)


def test_few_members_are_all_elites_unless_said_otherwise():
    assert DynamicsConfig.from_kwargs({"n_members": 3}).n_elites == 3
    assert DynamicsConfig.from_kwargs({"n_members": 9}).n_elites == 5
    with pytest.raises(ValueError, match=r"n_elites.*=4 exceeds n_members=3"):
        DynamicsConfig.from_kwargs({"n_members": 3, "n_elites": 4})


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"n_member": 3}, TypeError, "no option 'n_member': did you mean 'n_members'"),
        ({"xyz": 3}, TypeError, "no option 'xyz'.*Options: n_members, n_elites"),
        ({"n_members": 0}, ValueError, "n_members.*at least 1"),
        ({"n_members": 2.5}, TypeError, "n_members.*whole number"),
        ({"n_members": True}, TypeError, "n_members"),
        ({"hidden_sizes": 200}, TypeError, "hidden_sizes.*list"),
        ({"hidden_sizes": "200"}, TypeError, "hidden_sizes.*list"),
        ({"hidden_sizes": (200, -1)}, ValueError, "hidden_sizes"),
        ({"weight_decay": [1e-4]}, ValueError, "weight_decay.*5 layers"),
        ({"weight_decay": -1e-4}, ValueError, "weight_decay"),
        ({"weight_decay": "1e-4"}, TypeError, "weight_decay"),
        ({"learning_rate": 0}, ValueError, "learning_rate.*positive"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate.*number"),
        ({"holdout_fraction": 1.0}, ValueError, "holdout_fraction.*\\(0, 1\\)"),
        ({"holdout_fraction": 0.0}, ValueError, "holdout_fraction"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"patience": 0}, ValueError, "patience"),
        ({"patience": 1.5}, TypeError, "patience"),
        ({"hidden_sizes": None, "weight_decay": [1e-4] * 4}, ValueError, "weight_decay.*5 layers"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"logvar_loss_weight": -1}, ValueError, "logvar_loss_weight"),
        ({"termination": "nver"}, ValueError, "Did you mean 'never'"),
        ({"termination": "learnt"}, ValueError, "Did you mean 'learned'"),
        ({"calibration": "isotone"}, ValueError, "calibration.*none, std, isotonic, scaling-binning.*mean 'isotonic'"),
        ({"calibration_fraction": 0.0}, ValueError, "calibration_fraction.*\\(0, 1\\)"),
        ({"test_fraction": 0.6}, ValueError, "test_fraction.*\\[0, 0.5\\]"),
        ({"termination": 1}, TypeError, "termination"),
    ],
)
def test_mistakes_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        DynamicsConfig.from_kwargs(kwargs)


def test_a_callable_termination_is_accepted():
    def function(_obs, _act, next_obs):
        return next_obs[:, 0] > 1

    assert DynamicsConfig.from_kwargs({"termination": function}).termination is function
