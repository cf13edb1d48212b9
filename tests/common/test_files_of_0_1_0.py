"""Tiny models that were saved by version 0.1.0, before its modules moved, with the actions that they predicted there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_offline import CQL, DROMO, DiscreteDROMO
from sb3_offline.dromo.actor_rules import Entropy
from sb3_offline.dromo.robustness import ChiSquare
from sb3_offline.training.schedules import CosineSchedule
from tests.conftest import Arrays

FILES = Path(__file__).parent / "files_of_0_1_0"

# predict of the first five states of the fixtures' data, deterministic
ACTIONS: dict[type[Any], list[float]] = {
    CQL: [0.11141562461853027, 0.12610435485839844, 0.13214898109436035, 0.13337159156799316, 0.1337118148803711],
    DROMO: [0.25858497619628906, 0.2963249683380127, 0.30485057830810547, 0.3065757751464844, 0.3063528537750244],
    DiscreteDROMO: [1, 1, 1, 0, 1],
}
NAMES = {CQL: "cql", DROMO: "dromo", DiscreteDROMO: "discrete_dromo"}


@pytest.mark.parametrize("algorithm", list(ACTIONS))
def test_they_load_predict_and_go_on(algorithm: type[Any], pendulum_arrays: Arrays, cartpole_arrays: Arrays) -> None:
    arrays = cartpole_arrays if algorithm is DiscreteDROMO else pendulum_arrays
    model = algorithm.load(FILES / f"{NAMES[algorithm]}.zip", device="cpu")
    actions, _ = model.predict(arrays["observations"][:5], deterministic=True)
    np.testing.assert_allclose(actions.flatten(), ACTIONS[algorithm], rtol=1e-5)  # to the bit on the machine that wrote them
    model.dataset = arrays
    assert model.learn(2, reset_num_timesteps=False)._n_updates == 5


def test_options_that_hang_together_are_one_object_now() -> None:
    """The file has robustness="chi2" beside chi2_radius=0.5, and calibrated and the like at their defaults; the set's
    actions were n_action_samples."""
    model = DROMO.load(FILES / "dromo.zip", device="cpu")
    assert model.robustness == ChiSquare(radius=0.5, n_actions=10)
    assert (model.actor_regularizer, model.lipschitz, model.auto_real_ratio) == (Entropy(), None, None)


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ({"n_target_actions": 3}, r"learned with n_target_actions=3, .* give custom_objects=\{'n_target_actions': 1\}"),
        ({"calibrated": True}, "learned with calibrated=True, which DROMO does not have"),
        ({"critic_update": "normalized_td"}, "learned with critic_update='normalized_td'"),
    ],
)
def test_what_there_is_no_more_is_refused_by_name(custom: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DROMO.load(FILES / "dromo.zip", device="cpu", custom_objects=custom)


def test_an_option_given_to_load_may_be_a_mapping() -> None:
    model = DROMO.load(FILES / "dromo.zip", device="cpu", robustness={"kind": "chi2", "radius": 0.25, "n_states": 8})
    assert model.robustness == ChiSquare(radius=0.25, n_states=8)
    with pytest.raises(TypeError, match=r"Write robustness=\{'kind': 'chi2', 'radius': 0.25\}"):
        DROMO.load(FILES / "dromo.zip", device="cpu", chi2_radius=0.25)


def test_a_schedule_that_moved_is_read() -> None:
    model = CQL.load(FILES / "cql.zip", device="cpu")
    assert model.learning_rate == CosineSchedule(1e-3)
    assert model.policy_class.__module__ == "sb3_offline.networks.policies"
    assert model.log_conservative_weight is not None  # a learned weight and its optimiser came along
    assert model.conservative_optimizer.state_dict()["state"][0]["step"] == 3
