"""Every option that cannot be is refused by its name when the algorithm is made, before anything is fitted or trained."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO, CQL, DROMO, MOPO, DiscreteCQL, DiscreteDROMO, OfflineSAC, PreQN
from sb3_offline.arguments import NOT_NEGATIVE, POSITIVE, Interval, check_count, check_flag, check_number
from sb3_offline.training.schedules import check_rate
from tests.conftest import FAST, FAST_DYNAMICS, Arrays

NAN, INF = float("nan"), float("inf")


def test_numbers() -> None:
    assert check_number("x", 3) == 3.0
    assert type(check_number("x", np.float32(0.5))) is float
    assert check_number("x", 0, NOT_NEGATIVE) == 0.0
    assert check_number("x", 1, Interval(0.0, 1.0)) == 1.0
    for value, interval, text in (
        (NAN, Interval(), "x must be finite, got nan"),
        (INF, NOT_NEGATIVE, "x must not be negative or infinite, got inf"),
        (0, POSITIVE, "x must be positive and finite, got 0"),
        (1, Interval(0.0, 1.0, open_high=True), r"x must lie in \[0, 1\), got 1"),
        (0, Interval(0.0, 1.0, open_low=True), r"x must lie in \(0, 1\], got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            check_number("x", value, interval)
    for wrong in (True, "3", None, [3]):
        with pytest.raises(TypeError, match="x must be a number, got"):
            check_number("x", wrong)


def test_counts_and_flags() -> None:
    assert type(check_count("n", np.int64(4))) is int
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        check_count("n", 1, least=2)
    for wide in (2**63, -(10**5000)):
        with pytest.raises(ValueError, match=r"n must be below 2\*\*63"):
            check_count("n", wide)
    for wrong in (True, 2.0, NAN, "2", None):
        with pytest.raises(TypeError, match="n must be a whole number, got"):
            check_count("n", wrong)
    assert check_flag("f", False) is False
    with pytest.raises(TypeError, match="f must be True or False, got 'no'"):
        check_flag("f", "no")


def test_rates() -> None:
    assert type(check_rate("learning_rate", np.float32(1e-3))) is float
    assert check_rate("learning_rate", abs) is abs
    for wrong in (INF, NAN, -1.0, True, "1e-3"):
        with pytest.raises(ValueError, match="learning_rate must be a schedule, or a number"):
            check_rate("learning_rate", wrong)


def test_a_recipe_is_what_is_not_given() -> None:
    """At the class that says it, for its children too, in the signature as in the model."""

    class Quick(COMBO):
        recipe: ClassVar = {"tau": 0.5, "gamma": 0.9}

    class Own(Quick):
        def __init__(self, *args: Any, gamma: float = 0.8, **kwargs: Any):
            super().__init__(*args, gamma=gamma, **kwargs)

    for cls, given, expected in (
        (Quick, {}, (0.5, 0.9, 50)),
        (Quick, {"tau": 0.1}, (0.1, 0.9, 50)),
        (Own, {}, (0.5, 0.8, 50)),
        (Own, {"gamma": 0.7, "rollout_length": 2}, (0.5, 0.7, 2)),
    ):
        model: Any = cls("MlpPolicy", "Pendulum-v1", dataset="Pendulum-medium-v0", **given)
        assert (model.tau, model.gamma, model.rollout_length) == expected
        shown = inspect.signature(cls).parameters
        for name in ("tau", "gamma", "rollout_length"):
            assert given.get(name, shown[name].default) == getattr(model, name)
    with pytest.raises(TypeError, match=r"takes no argument 'tua'\. Did you mean 'tau'"):
        type("Misspelt", (COMBO,), {"recipe": {"tua": 0.5}})


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (CQL, {"tau": 2.0}, r"tau must lie in \(0, 1\]"),
        (DiscreteCQL, {"tau": 0}, r"tau must lie in \(0, 1\]"),
        (CQL, {"batch_size": "32"}, "batch_size must be a whole number"),
        (CQL, {"batch_size": 2.5}, "batch_size must be a whole number"),
        (CQL, {"gamma": None}, "gamma must be a number"),
        (CQL, {"seed": 1.5}, "seed must be a whole number"),
        (CQL, {"reward_shift": "x"}, "reward_shift must be a number"),
        (CQL, {"check_data": "no"}, "check_data must be True or False"),
        (CQL, {"n_action_samples": 2.5}, "n_action_samples must be a whole number"),
        (CQL, {"bc_warmup_steps": NAN}, "bc_warmup_steps must be a whole number"),
        (CQL, {"target_gap": NAN}, "target_gap must be finite"),
        (CQL, {"conservative_weight": True}, "conservative_weight must be a number"),
        (CQL, {"conservative_weight": INF}, "conservative_weight must not be negative or infinite"),
        (CQL, {"learning_rate": INF}, "learning_rate"),
        (CQL, {"entropy_backup": "yes"}, "entropy_backup must be True or False"),
        (CQL, {"ent_coef": -1}, "ent_coef must be"),
        (CQL, {"ent_coef": "auto_0"}, "ent_coef must be"),
        (CQL, {"ent_coef": "x"}, "ent_coef must be"),
        (CQL, {"ent_coef": None}, "ent_coef must be"),
        (CQL, {"target_entropy": NAN}, 'target_entropy "auto" or a finite number'),
        (CQL, {"policy_kwargs": "x"}, "policy_kwargs must be a dict"),
        (CQL, {"policy_kwargs": {"activation_fn": "relu"}}, r"activation_fn must be a class, such as torch\.nn\.ReLU"),
        (CQL, {"policy_kwargs": {"activation_fn": th.nn.ReLU()}}, "activation_fn must be a class"),
        (CQL, {"policy_kwargs": {"optimizer_class": "adam"}}, "optimizer_class must be a class"),
        (CQL, {"policy_kwargs": {"features_extractor_class": "Flat"}}, "features_extractor_class must be a class"),
        (CQL, {"policy_kwargs": {"net_arch": "64,64"}}, r"net_arch must be a list .* such as \[256, 256\]"),
        (CQL, {"policy_kwargs": {"net_arch": {"pi": 64, "qf": [64]}}}, "net_arch must be a list"),
        (CQL, {"policy_kwargs": {"net_arch": {"pi": [64], "vf": [64]}}}, "the critics' under 'qf'"),
        (CQL, {"policy_kwargs": {"net_arch": [64, "64"]}}, "a layer of net_arch must be a whole number, got '64'"),
        (CQL, {"policy_kwargs": {"optimizer_kwargs": 3}}, "optimizer_kwargs must be a dict"),
        (CQL, {"policy_kwargs": {"optimizer_kwargs": {"wd": 3}}}, r"Adam does not take optimizer_kwargs=\{'wd': 3\}"),
        (CQL, {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.9,)}}}, "Adam does not take optimizer_kwargs"),
        (CQL, {"policy_kwargs": {"optimizer_kwargs": {"lr": 1e-3}}}, "the rate is the algorithm's learning_rate"),
        (CQL, {"policy_kwargs": {"features_extractor_kwargs": {"x": 3}}}, "FlattenExtractor takes no 'x'"),
        (CQL, {"policy_kwargs": {"layer_norm": "yes"}}, "layer_norm must be True or False"),
        (CQL, {"policy_kwargs": {"log_std_init": "x"}}, "log_std_init must be a number"),
        (OfflineSAC, {"semi_gradient": 1}, "semi_gradient"),
        (DiscreteCQL, {"policy_kwargs": "x"}, "policy_kwargs must be a dict"),
        (DiscreteCQL, {"policy_kwargs": {"net_arch": {"pi": [4]}}}, r"net_arch is of one Q-network here, a list"),
        (DiscreteCQL, {"target_update_interval": 2.5}, "target_update_interval must be a whole number"),
        (COMBO, {"real_ratio": "x"}, "real_ratio must be a number"),
        (COMBO, {"rollout_freq": NAN}, "rollout_freq must be a whole number"),
        (COMBO, {"rollout_batch_size": 1e4}, "rollout_batch_size must be a whole number"),
        (COMBO, {"rollout_length": 2.0}, "rollout_length must be a whole number"),
        (COMBO, {"rollout_retain": 2.5}, "rollout_retain must be a whole number"),
        (COMBO, {"dynamics_kwargs": "x"}, "dynamics_kwargs must be a dict"),
        (MOPO, {"penalty_weight": NAN}, "penalty_weight must not be negative"),
        (MOPO, {"target_uncertainty": "x"}, "target_uncertainty must be a number"),
        (MOPO, {"target_percentile": 101}, r"target_percentile must lie in \[0, 100\]"),
        (DROMO, {"robust_weight": INF}, "robust_weight must not be negative or infinite"),
        (DROMO, {"lipschitz": {"weight": "x", "bound": 1.0}}, r"lipschitz\['weight'\] must be a number"),
        (DROMO, {"real_ratio": {"start": "x"}}, r"real_ratio\['start'\] must be a number"),
        (DROMO, {"behavior_kwargs": {"n_steps": 0}}, r"behavior_kwargs\['n_steps'\] must be at least 1"),
        (DROMO, {"behavior_kwargs": {"holdout_fraction": 2}}, r"behavior_kwargs\['holdout_fraction'\] must lie in \(0, 1\)"),
        (DROMO, {"behavior_kwargs": "x"}, "behavior_kwargs must be a dict"),
        (DiscreteDROMO, {"behavior_kwargs": {"hidden_sizes": [0]}}, r"behavior_kwargs\['hidden_sizes'\] must be at least 1"),
        (DiscreteDROMO, {"robust_weight": NAN}, "robust_weight must not be negative"),
        (PreQN, {"step_size": NAN}, "step_size must be positive"),
        (PreQN, {"rcond": -1}, r"rcond must lie in \[0, 1\)"),
    ],
)
def test_options_are_refused_by_name(
    pendulum_arrays: Arrays, cartpole_arrays: Arrays, algorithm: type[Any], options: dict[str, Any], message: str
) -> None:
    discrete = algorithm.__name__.startswith("Discrete")
    env, arrays = ("CartPole-v1", cartpole_arrays) if discrete else ("Pendulum-v1", pendulum_arrays)
    with pytest.raises((ValueError, TypeError), match=message):
        algorithm("MlpPolicy", env=env, dataset=arrays, **(FAST | options))


def test_numpy_numbers_are_numbers(pendulum_arrays: Arrays) -> None:
    options = {"learning_rate": np.float32(1e-3), "conservative_weight": np.int64(1), "batch_size": np.int64(32)}
    dynamics = FAST_DYNAMICS | {"max_epochs": np.int64(1), "learning_rate": np.float64(1e-3)}
    model = COMBO("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, dynamics_kwargs=dynamics, **(FAST | options))
    assert (type(model.conservative_weight), type(model.batch_size)) == (float, int)
    with pytest.raises(ValueError, match=r"no model to roll out yet: call learn\(\) first"):
        model.rollout_model()
    model.learn(2)
    model.rollout_model()


@pytest.mark.parametrize(
    ("steps", "log_interval", "message"),
    [
        (NAN, 1, "finite"),
        (INF, 1, "finite"),
        ("10", 1, "number"),
        (2.5, 1, "whole"),
        (0, 1, "at least 1"),
        (5, 0, "log_interval"),
    ],
)
def test_learn_refuses_by_name(pendulum_arrays: Arrays, steps: Any, log_interval: Any, message: str) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST)
    with pytest.raises((ValueError, TypeError), match=message):
        model.learn(steps, log_interval=log_interval)
    assert model.num_timesteps == 0
    assert model.learn(2e0).num_timesteps == 2


def test_layers_may_be_tuples(pendulum_arrays: Arrays) -> None:
    options = FAST | {"policy_kwargs": {"net_arch": {"pi": (8,), "qf": (9, 10)}}}
    policy = CQL("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).policy
    assert policy.actor.latent_pi[0].out_features == 8
    assert [layer.out_features for layer in policy.critic.q_networks[0] if isinstance(layer, th.nn.Linear)] == [9, 10, 1]
