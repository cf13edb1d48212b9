"""NaN and infinity stop training, by name and step, and overwrite nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from sb3_offline import CQL, OfflineSAC, PreQN
from sb3_offline.training.health import LossWatch, TrainingDivergedError, non_finite_parameter
from tests.conftest import FAST, Arrays, maker

OPTIONS: dict[str, Any] = FAST | {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8}


make = maker(OfflineSAC, **OPTIONS)


class Poison(BaseCallback):
    """Puts a number into a tensor after a step."""

    def __init__(self, step: int, find: Any, value: float = float("nan")):
        super().__init__()
        self.step, self.find, self.value = step, find, value

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            with th.no_grad():
                self.find(self.model).fill_(self.value)
        return True


def sums(**values: float) -> dict[str, th.Tensor]:
    return {name: th.tensor(value) for name, value in values.items()}


def test_watch_counts_since_the_first_failure() -> None:
    watch = LossWatch()
    assert watch.first_failure() is None
    watch.step(sums(critic_loss=1.0, actor_loss=-3e38))
    assert watch.first_failure() is None
    watch.step(sums(critic_loss=1.0, actor_loss=float("-inf")))
    watch.step(sums(critic_loss=float("nan"), actor_loss=float("nan")))
    assert watch.first_failure() == ("actor_loss", 2)
    watch.reset()
    assert watch.first_failure() is None


@pytest.mark.parametrize(
    ("find", "term"),
    [
        (lambda model: model.critic_target.q_networks[0][0].bias, "critic_loss"),
        (lambda model: model.log_ent_coef, "actor_loss"),
    ],
)
def test_the_step_and_the_term_are_named(find: Any, term: str, pendulum_arrays: Arrays) -> None:
    """Poisoned after step 3, so step 4 is the first that computes with it; noticed at the log line of step 6."""
    message = rf"OfflineSAC diverged: {term} became NaN at step 4\. Nothing was overwritten; no checkpoint was saved"
    with pytest.raises(TrainingDivergedError, match=message) as error:
        make(pendulum_arrays).learn(50, Poison(3, find), log_interval=6)
    assert isinstance(error.value, ValueError)  # RL-Zoo prunes a trial on it
    with pytest.raises(TrainingDivergedError, match="at step 4"):  # at the end, without any log line
        make(pendulum_arrays).learn(7, Poison(3, find), log_interval=None)


def test_noticed_within_a_hundred_steps(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays)
    with pytest.raises(TrainingDivergedError, match="critic_loss became NaN at step 3"):
        model.learn(500, Poison(2, lambda model: model.critic.q_networks[1][0].weight), log_interval=None)
    assert model.num_timesteps == 100


def test_nothing_is_overwritten_and_the_last_good_checkpoint_is_named(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    callbacks = [CheckpointCallback(5, str(tmp_path)), Poison(12, lambda model: model.critic.q_networks[0][0].weight)]
    model = make(pendulum_arrays)
    with pytest.raises(TrainingDivergedError, match=r"last good one is .*rl_model_10_steps\.resume"):
        model.learn(50, callbacks)
    assert sorted(path.stem for path in tmp_path.glob("*.zip")) == ["rl_model_10_steps", "rl_model_5_steps"]
    good = (tmp_path / "rl_model_10_steps.zip").read_bytes()
    with pytest.raises(TrainingDivergedError, match=r"Not saved: the parameter actor\.latent_pi\.0\.weight holds NaN"):
        model.save(tmp_path / "rl_model_10_steps")
    assert (tmp_path / "rl_model_10_steps.zip").read_bytes() == good
    assert OfflineSAC.resume(tmp_path, dataset=pendulum_arrays).learn(20).num_timesteps == 20


def test_a_parameter_is_named_before_any_loss_has_seen_it(pendulum_arrays: Arrays) -> None:
    find = lambda model: model.actor.mu.bias  # noqa: E731
    with pytest.raises(TrainingDivergedError, match=r"the parameter actor\.mu\.bias holds NaN .* at step 5"):
        make(pendulum_arrays).learn(5, Poison(5, find))


@pytest.mark.parametrize(
    ("algorithm", "options", "find", "name"),
    [
        (CQL, {"target_gap": 1.0}, lambda model: model.log_conservative_weight, "log_conservative_weight"),
        (OfflineSAC, {}, lambda model: model.log_ent_coef, "log_ent_coef"),
        (PreQN, {"policy_kwargs": {"net_arch": [8]}}, lambda model: model.actor.mu[0].weight, "actor.mu.0.weight"),
    ],
)
def test_every_trained_tensor_is_looked_at(
    algorithm: type, options: dict[str, Any], find: Any, name: str, pendulum_arrays: Arrays
) -> None:
    model = make(pendulum_arrays, algorithm, **options)
    assert non_finite_parameter(model) is None
    find(model).data.view(-1)[-1] = th.inf
    assert non_finite_parameter(model) == name
