"""DROMO's options together: which are refused, which are COMBO at size 0, and that all are saved and repeatable."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline import COMBO, DROMO, load_dataset
from sb3_offline.dromo.real_ratio import bias_and_variance, optimal_real_ratio
from sb3_offline.dromo.robustness import ChiSquare, stratified_weights
from sb3_offline.execution.updates import call_plainly
from sb3_offline.tabular.ambiguity import chi2_worst_case
from tests.conftest import FAST_DROMO, FAST_MODEL_BASED, Arrays, maker

WITHOUT_PI_BETA = {"behavior_kwargs": None}
CVAR = {"kind": "cvar", "share": 0.5}
CHI2, W2 = {"kind": "chi2", "radius": 0.1}, {"kind": "wasserstein", "radius": 0.1}


make = maker(DROMO, **FAST_DROMO)


def assert_equal_weights(one: Any, other: Any) -> None:
    ours, theirs = one.policy.state_dict(), other.policy.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert th.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_ratio": "auto", "execution": "compile"}, "takes for a constant"),
        ({"robustness": "kl"}, "must be one of std, chi2, wasserstein"),
        ({"robustness": 0.1}, "robustness must be 'std' or 'chi2' or 'wasserstein' or 'cvar' or a mapping .* got 0.1"),
        ({"robustness": "chi2"}, r"needs radius: robustness=\{'kind': 'chi2', 'radius': \.\.\.\}"),
        ({"robustness": {"kind": "chi2", "radios": 0.1}}, "takes no 'radios'. Did you mean 'radius'"),
        ({"robustness": {"radius": 0.1}}, "robustness needs a kind, one of std, chi2, wasserstein"),
        ({"robustness": CHI2, "robust_weight": 0.1}, "robust_weight belongs to robustness='std'"),
        ({"robustness": {"kind": "chi2", "radius": -0.1}}, r"robustness\['radius'\] must not be negative"),
        ({"robustness": {"kind": "std", "n_states": 0}}, r"robustness\['n_states'\] must be at least 1"),
        ({"robustness": {"kind": "cvar", "share": 0.0}}, r"robustness\['share'\] must lie in \(0, 1\]"),
        ({"robustness": "cvar"}, r"needs share: robustness=\{'kind': 'cvar', 'share': \.\.\.\}"),
        ({"robustness": CVAR, "visitation": "knn"}, "one set for all states: leave out visitation"),
        ({"bootstrap_policy": "uniform"}, "bootstrap_policy must be 'current' or 'target'"),
        ({"actor_regularizer": {"kind": "entropy", "states": "data"}}, r"\['states'\] must be 'mix' or 'model'"),
        (
            {"actor_regularizer": {"kind": "svpg", "n_particles": 4, "states": "model"}, "batch_size": 6},
            "the actor has 3 with batch_size=6",
        ),
        ({"robustness": CHI2, "strict": True}, "strict .* has no robustness='chi2'"),
        ({"robustness": W2, "visitation": "knn", **WITHOUT_PI_BETA}, "leave out visitation"),
        ({"robustness": CHI2, "conservative_weight": 0.0}, "weighed by beta"),
        ({"robustness": W2}, "behavior_kwargs fits pi_beta"),
        ({"strict": True}, "behavior_kwargs fits pi_beta"),
        ({"lipschitz": {"weight": 0.1}}, "needs bound"),
        ({"lipschitz": {"bound": 1.0}}, "needs weight"),
        ({"lipschitz": {"weight": -0.1, "bound": 1.0}}, "must not be negative"),
        ({"real_ratio": {"kind": "auto", "start": 1.5}}, r"real_ratio\['start'\] must lie in \(0, 1\)"),
        ({"real_ratio": {"begin": 0.5}}, "takes no 'begin'"),
        ({"actor_regularizer": "svgd"}, "must be one of entropy, svpg, natural"),
        ({"actor_regularizer": {"kind": "entropy", "n_particles": 2}}, "takes no 'n_particles'"),
        ({"visitation": {"mode": "knn", "scale": "raw"}}, "takes no 'scale'"),
        ({"visitation": "forest"}, "visitation must be one of"),
        ({"penalty_states": "data"}, "penalty_states must be"),
        ({"actor_regularizer": "svpg", "policy_kwargs": {"share_features_extractor": True}}, "share_features_extractor=False"),
    ],
)
def test_contradictory_options_are_refused(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(pendulum_arrays, **options)


BALLS = [
    {"robustness": {"kind": "chi2", "radius": 0.0}},
    {"robustness": {"kind": "cvar", "share": 1.0}, **WITHOUT_PI_BETA},
    {"robustness": {"kind": "wasserstein", "radius": 0.0}, **WITHOUT_PI_BETA},
]


@pytest.mark.parametrize("options", [{"robust_weight": 0.0}, BALLS[0]])
def test_options_of_an_unused_behaviour_policy_are_named(pendulum_arrays: Arrays, options: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="behavior_kwargs has no effect"):
        model = make(pendulum_arrays, **options).learn(3)
    assert not model.behavior_policy.fitted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(pendulum_arrays, **options | WITHOUT_PI_BETA)
        make(pendulum_arrays)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"robustness": "chi2", "chi2_radius": 0.25}, {"robustness": {"kind": "chi2", "radius": 0.25}}),
        ({"chi2_radius": 0.25, "robust_states": 8}, {"robustness": {"kind": "chi2", "radius": 0.25, "n_states": 8}}),
        ({"robust_states": None}, {"robustness": {"kind": "std", "n_states": None}}),
        ({"robustness": "wasserstein", "wasserstein_radius": 0.5}, {"robustness": {"kind": "wasserstein", "radius": 0.5}}),
        ({"lipschitz_weight": 0.3, "lipschitz_bound": 2.0}, {"lipschitz": {"weight": 0.3, "bound": 2.0}}),
        ({"real_ratio": 0.3, "auto_real_ratio": True}, {"real_ratio": {"kind": "auto", "start": 0.3}}),
        (
            {"actor_regularizer": "svpg", "actor_kwargs": {"n_particles": 3}},
            {"actor_regularizer": {"kind": "svpg", "n_particles": 3}},
        ),
        ({"visitation": "simhash", "count_scale": "raw"}, {"visitation": {"mode": "simhash", "count_scale": "raw"}}),
        ({"strict": True, "count_scale": "raw"}, {"visitation": {"mode": "constant", "count_scale": "raw"}}),
        ({"lipschitz_weight": 0.0}, None),
    ],
)
def test_old_options_are_refused_in_the_new_spelling(
    pendulum_arrays: Arrays, old: dict[str, Any], new: dict[str, Any] | None
) -> None:
    """With the caller's own values, and what is told is taken."""
    with pytest.raises(TypeError) as refused:
        make(pendulum_arrays, **old, **WITHOUT_PI_BETA)
    if new is None:
        assert "Leave it out" in str(refused.value)
        return
    ((name, value),) = new.items()
    assert f"{name}={value!r}" in str(refused.value)
    kept = {key: item for key, item in old.items() if key == "strict"}
    make(pendulum_arrays, **new, **kept, **WITHOUT_PI_BETA)


def test_unknown_behavior_kwargs_are_refused_at_once(pendulum_arrays: Arrays) -> None:
    with pytest.raises(TypeError, match=r"behavior_kwargs takes no 'steps'\. Did you mean 'n_steps'"):
        make(pendulum_arrays, behavior_kwargs={"steps": 3})


@pytest.mark.parametrize("ball", BALLS)
def test_radius_0_is_combo_to_the_bit(pendulum_arrays: Arrays, ball: dict[str, Any]) -> None:
    dromo = make(pendulum_arrays, rollout_policy="current", **ball).learn(25)
    options = FAST_MODEL_BASED | {"n_action_samples": 4}
    combo = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(25)
    assert_equal_weights(dromo, combo)


def penalties(model: DROMO) -> tuple[float, dict[str, float]]:
    """One batch's penalty and logs, from the model's streams."""
    batch = model.sample_batch()
    nets = model.networks()
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    penalty, logs = model.critic_penalty(nets, batch, model.draw_noise(batch), q)
    return float(penalty.detach()), {name: float(value.detach()) for name, value in logs.items()}


def test_the_sets_differ(pendulum_arrays: Arrays) -> None:
    """Equal streams up to the robust term, whose four forms are four positive numbers."""
    sets = [{"robust_weight": 0.5}, {"robustness": CHI2}, {"robustness": CVAR}, {"robustness": W2, **WITHOUT_PI_BETA}]
    found = [penalties(make(pendulum_arrays, **options).learn(1))[1]["robust_penalty"] for options in sets]
    assert min(found) > 0
    assert len({round(value, 6) for value in found}) == 4


def test_chi2_penalty_by_hand(pendulum_arrays: Arrays) -> None:
    """beta mean_s (sup E_q Q - E_p Q), summed over the critics; radius / n(s) with n(s) = 4, each state by the oracle."""
    model = make(pendulum_arrays, robustness={"kind": "chi2", "radius": 2.0}, conservative_weight=3.0, real_ratio=0.8).learn(1)
    batch = model.sample_batch()
    noise, nets = model.draw_noise(batch), model.networks()
    nets.visits = lambda observations: th.full((len(observations),), 4.0)  # type: ignore[assignment]
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    strata = model.terms[1].mixture_values(nets, batch, noise)  # type: ignore[arg-type]
    values, p = th.cat(strata, dim=-1).detach().double().numpy(), stratified_weights(*strata, 0.8).double().numpy()
    assert values.shape == (2, 64, 8)
    expected = sum(
        chi2_worst_case(values[j, s], p / p.sum(), 0.5) - values[j, s] @ p for j, s in np.ndindex(*values.shape[:2])
    )
    penalty, _ = model.terms[1].loss(nets, batch, noise, q)
    assert float(penalty.detach()) == pytest.approx(3.0 * expected / 64, rel=1e-3)


def test_chi2_unclipped_is_eq_13_with_alpha_beta_sqrt_radius(pendulum_arrays: Arrays) -> None:
    """A small ball reaches no boundary: sup = E + sqrt(r) sigma, sigma without Bessel's correction."""
    model = make(pendulum_arrays, robustness=ChiSquare(1e-3), conservative_weight=0.7, visitation="constant").learn(1)
    batch = model.sample_batch()
    noise, nets = model.draw_noise(batch), model.networks()
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    b, p = model.terms[1].mixture_values(nets, batch, noise)  # type: ignore[arg-type]
    values = th.cat([b, p], dim=-1).detach().double()  # f = 1/2 and N_b = N_p: equal weights
    expected = 0.7 * 1e-3**0.5 * values.std(dim=-1, correction=0).mean(dim=1).sum()
    penalty, logs = model.terms[1].loss(nets, batch, noise, q)
    assert float(logs["robust_active_fraction"]) == 0
    assert float(penalty.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_wasserstein_penalty_for_a_linear_q(pendulum_arrays: Arrays) -> None:
    """beta eps |w| a critic: w = (3, 4) in units of the data's deviation, beta = 2, eps = .1, two critics."""
    options: dict[str, Any] = {"robustness": W2, "conservative_weight": 2.0, **WITHOUT_PI_BETA}
    model = make(pendulum_arrays, **options).learn(1)
    deviation = model.replay_buffer.observations.double().std(dim=0, correction=0).float()
    nets, batch = model.networks(), model.sample_batch()

    def q(observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        value = 3.0 * observations[:, :1] / deviation[0] + 4.0 * actions[..., 0]
        return th.stack([value, -value])

    nets.q = q  # type: ignore[method-assign]
    penalty, _ = model.terms[1].loss(nets, batch, model.draw_noise(batch), q(batch.observations, batch.actions[:, None]))
    assert float(penalty) == pytest.approx(2 * 2.0 * 0.1 * 5.0, rel=1e-4)


def test_exact_counts_of_one_hot_states() -> None:
    """Four states, visited 100, 200, 300 and 600 times, as rows of the identity: n(s) as it is."""
    states = np.repeat(np.eye(4, dtype=np.float32), [100, 200, 300, 600], axis=0)
    ends = np.arange(1200) % 100 == 99
    rng = np.random.default_rng(0)
    data = load_dataset(
        {
            "observations": states,
            "actions": rng.uniform(-1, 1, (1200, 1)),
            "rewards": rng.normal(size=1200),
            "next_observations": states,
            "terminations": np.zeros(1200, dtype=bool),
            "truncations": ends,
        },
        observation_space=spaces.Box(0.0, 1.0, (4,)),
        action_space=spaces.Box(-1.0, 1.0, (1,)),
    )
    model = DROMO(
        "MlpPolicy", dataset=data, visitation={"mode": "exact", "count_scale": "raw"}, check_data=False, **FAST_DROMO
    ).learn(1)
    assert model.visitation(th.eye(4)).tolist() == [100.0, 200.0, 300.0, 600.0]


def test_lipschitz_penalty_is_added(pendulum_arrays: Arrays) -> None:
    options: dict[str, Any] = {"robust_weight": 0.0}
    _, without = penalties(make(pendulum_arrays, **options).learn(1))
    assert "lipschitz_penalty" not in without
    total, logs = penalties(make(pendulum_arrays, lipschitz={"weight": 2.0, "bound": 0.01}, **options).learn(1))
    assert logs["lipschitz_penalty"] > 0
    conservative = 2 * logs["conservative_weight"] * logs["conservative_gap"]
    assert total == pytest.approx(conservative + logs["lipschitz_penalty"], rel=1e-4, abs=1e-6)


def test_a_lipschitz_penalty_flattens_q(pendulum_arrays: Arrays) -> None:
    options: dict[str, Any] = {"robust_weight": 0.0, "qf_learning_rate": 3e-3}
    steep = penalties(make(pendulum_arrays, lipschitz={"weight": 1e-9, "bound": 0.0}, **options).learn(30))[1]["q_slope"]
    flat = penalties(make(pendulum_arrays, lipschitz={"weight": 10.0, "bound": 0.0}, **options).learn(30))[1]["q_slope"]
    assert flat < 0.5 * steep


# --- automatic f ---


def test_best_f_by_hand() -> None:
    """b^2 = 3 sigma^2: f* = .75; and the ends are clipped."""
    assert optimal_real_ratio(th.tensor(3.0), th.tensor(1.0)) == pytest.approx(0.75)
    assert optimal_real_ratio(th.tensor(0.0), th.tensor(1.0)) == pytest.approx(0.05)
    assert optimal_real_ratio(th.tensor(1.0), th.tensor(0.0)) == pytest.approx(0.95)
    assert optimal_real_ratio(th.tensor(0.0), th.tensor(0.0)) == pytest.approx(0.05)


def test_bias_and_variance_are_unbiased() -> None:
    """Targets N(0, 2^2) by the data and N(3, 2^2) by the model: b^2 = 9, sigma^2 = 4, whatever K."""
    generator = th.Generator().manual_seed(0)
    y_data = 2 * th.randn(200_000, generator=generator)
    y_model = 3 + 2 * th.randn(3, 200_000, generator=generator)
    bias2, variance = bias_and_variance(y_data, y_model)
    assert float(bias2) == pytest.approx(9.0, abs=0.15)
    assert float(variance) == pytest.approx(4.0, abs=0.05)
    assert float(bias_and_variance(y_data, y_model - 3)[0]) == pytest.approx(0.0, abs=0.1)


def test_f_moves_at_rollouts_and_the_batch_follows(pendulum_arrays: Arrays) -> None:
    """A tenth of the way to f* a rollout; f* is .05 to .95, so five rollouts move it, by at most 1 - .9^5 of the way."""
    model = make(pendulum_arrays, robust_weight=0.0, real_ratio="auto", rollout_freq=1, rollout_length=1).learn(5)
    assert model.real_ratio != 0.5
    assert 0.5 - 0.45 * (1 - 0.9**5) <= model.real_ratio <= 0.5 + 0.45 * (1 - 0.9**5)
    batch = model.sample_batch()
    assert batch.n_real == round(64 * model.real_ratio)
    fixed = make(pendulum_arrays, robust_weight=0.0, rollout_freq=1, rollout_length=1).learn(1)
    moved = make(pendulum_arrays, robust_weight=0.0, real_ratio="auto", rollout_freq=1, rollout_length=1).learn(1)
    assert th.equal(fixed.model_buffer.observations[:256], moved.model_buffer.observations[:256])  # no stream is shifted


# --- Section 3: who bootstraps, and where the actor improves ---


def test_the_target_policy_bootstraps(pendulum_arrays: Arrays) -> None:
    """y = r + gamma (1 - done) min_j Q'_j(s', a'), a' = tanh(mu + sigma eps) by the copy, whatever the actor does."""
    model = make(pendulum_arrays, bootstrap_policy="target", rollout_policy="current", tau=0.25).learn(2)
    batch, nets = model.sample_batch(), model.networks()
    noise = model.draw_noise(batch)
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter.add_(0.3)
        mean, log_std, _ = model.actor_target.get_action_dist_params(batch.next_observations)
        actions = th.tanh(mean + log_std.exp() * noise.next_action[:, 0])
        value = th.stack([q.flatten() for q in model.critic_target(batch.next_observations, actions)]).amin(dim=0)
    expected = batch.rewards + model.gamma * (1 - batch.dones) * value
    th.testing.assert_close(model.td_target(nets, batch, noise), expected, rtol=1e-4, atol=1e-4)
    th.testing.assert_close(model.next_actions(nets, batch, noise), actions, rtol=1e-4, atol=1e-5)
    model.bootstrap_policy = "current"
    assert (model.td_target(nets, batch, noise) - expected).abs().max() > 1e-3
    before = [p.clone() for p in model.actor_target.parameters()]
    model.update()  # the copy follows, though it rolls nothing out
    for old, new, own in zip(before, model.actor_target.parameters(), model.actor.parameters(), strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * own)


@pytest.mark.parametrize("kind", ["entropy", "svpg", "natural"])
@pytest.mark.parametrize("states", ["mix", "model"])
def test_the_actor_improves_at_the_states_asked_for(pendulum_arrays: Arrays, kind: str, states: str) -> None:
    """Its step knows nothing of the data's rows where rho's states alone are asked for."""
    steps = []
    for shift in (0.0, 1.0):
        model = make(pendulum_arrays, actor_regularizer={"kind": kind, "states": states}).learn(1)
        batch = model.sample_batch()
        noise = model.draw_noise(batch)
        assert batch.n_real == 32
        batch.observations[:32] += shift
        model.actor_step(model.networks(), batch, noise, call_plainly)
        steps.append([p.detach().clone() for p in model.actor.parameters()])
    assert all(map(th.equal, *steps)) == (states == "model")


# --- everything is saved, continued and repeatable ---

EVERYTHING: dict[str, dict[str, Any]] = {
    "chi2, knn, particles": {
        "robustness": {"kind": "chi2", "radius": 0.2},
        "visitation": "knn",
        "actor_regularizer": {"kind": "svpg", "n_particles": 3},
        "penalty_states": "mix",
    },
    "cvar, target bootstraps, rho's states": {
        "robustness": CVAR,
        "bootstrap_policy": "target",
        "rollout_policy": "current",
        "actor_regularizer": {"kind": "natural", "states": "model"},
    },
    "wasserstein, natural": {
        "robustness": W2,
        "lipschitz": {"weight": 0.1, "bound": 0.5},
        "actor_regularizer": "natural",
        "real_ratio": {"start": 0.5},
        "target_gap": 0.5,
        **WITHOUT_PI_BETA,
    },
}


@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_save_load_continue_and_repeat(pendulum_arrays: Arrays, tmp_path: Path, options: dict[str, Any]) -> None:
    model, again = (make(pendulum_arrays, **options).learn(6) for _ in range(2))
    assert_equal_weights(model, again)
    model.save(tmp_path / "model.zip")
    loaded = DROMO.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    assert_equal_weights(model, loaded)
    assert loaded.real_ratio == model.real_ratio
    for name, value in model.visitation.state_dict().items():
        assert th.equal(loaded.visitation.state_dict()[name], value), name
    observation = pendulum_arrays["observations"][:7]
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    before = loaded.actor.mu.weight.clone()
    loaded.dataset = pendulum_arrays
    loaded.learn(3, reset_num_timesteps=False)
    assert loaded.num_timesteps == 9
    assert not th.equal(before, loaded.actor.mu.weight)
    assert all(bool(p.isfinite().all()) for p in loaded.policy.parameters())
