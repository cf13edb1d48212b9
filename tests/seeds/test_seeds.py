"""Seeds in one process are those of runs alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from benchmarks.kill_and_resume import digest
from sb3_offline import COMBO, CQL, DROMO, IQL, MOPO, TD3BC, OfflineSAC, registry
from sb3_offline.execution import critics
from sb3_offline.seeds import learn_seeds, resume_seeds, together, train_seeds
from sb3_offline.training.health import TrainingDivergedError
from tests.contract.subjects import Subject, assert_equal_parameters, same

SEEDS = (3, 0, 5)
STACKED = [OfflineSAC, TD3BC, IQL, CQL, COMBO, DROMO, MOPO]


def subject(cls: Any) -> Subject:
    return Subject(next(name for name in registry.names() if registry.find_algorithm(name) is cls))


def seeds_of(cls: Any, steps: int = 10, seeds: Any = SEEDS, **options: Any) -> Any:
    """Trained in one process, on random steps of Pendulum."""
    its = subject(cls)
    settings = its.options(**{key: options.pop(key) for key in [*options] if its.takes(key)})
    settings.pop("seed")
    return train_seeds(cls, "MlpPolicy", its.task, its.arrays, seeds=seeds, total_timesteps=steps, **settings, **options)


def alone(cls: Any, seed: int, steps: int = 10, callback: Any = None, **options: Any) -> Any:
    return subject(cls).make(seed=seed, **options).learn(steps, callback)


@pytest.fixture
def as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that do not step as one fail the test."""
    monkeypatch.setattr(together, "announce", lambda message: pytest.fail(message))


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(th.Tensor, "float", th.Tensor.double)  # which SB3 calls on observations
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def distance(one: Any, other: Any) -> float:
    """Largest difference of two models' numbers, their optimisers' included, relative to those beyond 1."""
    pairs = zip(numbers(one), numbers(other), strict=True)
    return max(float(((a - b).abs() / b.abs().clamp(min=1.0)).max()) for a, b in pairs)


def numbers(model: Any) -> list[th.Tensor]:
    optimizers = [state for o in model.optimizers() for entry in o.state.values() for state in entry.values()]
    return [value.double() for value in [*model.policy.state_dict().values(), *optimizers]]


@pytest.mark.parametrize("cls", STACKED)
@pytest.mark.usefixtures("as_one", "float64")
def test_ten_updates_of_members_are_those_of_runs_alone(cls: Any) -> None:
    members = seeds_of(cls)
    for seed, member in zip(SEEDS, members, strict=True):
        assert member._n_updates == member.num_timesteps == 10
        reference = alone(cls, seed)
        assert next(reference.policy.parameters()).dtype == th.float64
        assert distance(member, reference) < 1e-10
    assert distance(members[0], members[1]) > 1e-3


@pytest.mark.parametrize(
    ("cls", "options", "tolerance"),
    [
        (CQL, {"target_gap": 1.0}, 1e-10),
        (CQL, {"target_gap": "auto"}, 1e-10),
        (CQL, {"calibrated": True, "n_target_actions": 3}, 1e-10),
        (CQL, {"bc_warmup_steps": 4}, 1e-6),  # logged actions are float32, and atanh rounds at the end of a vector otherwise
        (MOPO, {"penalty_weight": 1.0}, 1e-10),
        (DROMO, {"robustness": {"kind": "chi2", "radius": 0.5}}, 1e-10),
        (DROMO, {"robustness": {"kind": "cvar", "share": 0.5}, "bootstrap_policy": "target"}, 1e-10),
        (DROMO, {"actor_regularizer": {"kind": "entropy", "states": "model"}}, 1e-10),
        (TD3BC, {"averaging_rate": 0.1, "policy_kwargs": {"net_arch": [8, 8, 8], "layer_norm": True}}, 1e-10),
        (TD3BC, {"normalize_by": "gradient"}, 1e-10),
        (IQL, {"policy_kwargs": {"net_arch": [8], "activation_fn": th.nn.Tanh, "n_critics": 3}}, 1e-10),
        (OfflineSAC, {"policy_kwargs": {"net_arch": [8], "spectral_norm": 0.5}}, 1e-10),
    ],
)
@pytest.mark.usefixtures("as_one", "float64")
def test_options_that_have_state_of_their_own(cls: Any, options: dict[str, Any], tolerance: float) -> None:
    for seed, member in zip(SEEDS, seeds_of(cls, **options), strict=True):
        assert distance(member, alone(cls, seed, **options)) < tolerance


@pytest.mark.parametrize("cls", [COMBO, DROMO])
@pytest.mark.usefixtures("as_one", "float64")
def test_large_networks_with_layer_norm_take_turns_within_a_step(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    in_turn = critics._in_turn
    monkeypatch.setattr(critics, "LARGE", 0)
    monkeypatch.setattr(critics, "_in_turn", lambda *args: (calls.append(len(args[2])), in_turn(*args))[1])
    options = {"policy_kwargs": {"net_arch": [8, 8], "layer_norm": True}}
    for seed, member in zip(SEEDS, seeds_of(cls, **options), strict=True):
        assert distance(member, alone(cls, seed, **options)) < 1e-10
    assert {*calls} == {len(SEEDS)}


@pytest.mark.usefixtures("as_one")
def test_single_precision_differs_by_rounding() -> None:
    for seed, member in zip(SEEDS, seeds_of(TD3BC), strict=True):
        assert distance(member, alone(TD3BC, seed)) < 1e-5


def test_what_cannot_step_as_one_takes_turns_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(together, "announce", said.append)
    for seed, member in zip(SEEDS, seeds_of(DROMO, actor_regularizer="natural"), strict=True):
        assert digest(member) == digest(alone(DROMO, seed, actor_regularizer="natural"))
    assert len(said) == 1
    assert "take turns" in said[0]


@pytest.mark.usefixtures("as_one")
def test_members_are_ordinary_models(tmp_path: Path) -> None:
    members = seeds_of(CQL, 6)
    before = [digest(member) for member in members]
    size = {}
    for name, model in (("member", members[0]), ("alone", alone(CQL, 3, 6))):
        model.save(tmp_path / name)
        size[name] = (tmp_path / f"{name}.zip").stat().st_size
    assert size["member"] < 1.05 * size["alone"]  # nothing of the others is in it
    loaded = CQL.load(tmp_path / "member", env="Pendulum-v1")
    assert_equal_parameters(members[0], loaded)
    members[0].dataset = subject(CQL).arrays
    members[0].learn(3, reset_num_timesteps=False)
    assert members[0].num_timesteps == 9
    assert [digest(member) for member in members[1:]] == before[1:]
    assert not same(members[0], loaded)
    for member in members:
        storages = [p.untyped_storage().nbytes() for p in member.actor.parameters()]
        assert storages == [4 * p.numel() for p in member.actor.parameters()]


@pytest.mark.usefixtures("as_one")
def test_data_lie_in_memory_once() -> None:
    first, *others = seeds_of(TD3BC, 2)
    for other in others:
        assert other.replay_buffer.observations.data_ptr() == first.replay_buffer.observations.data_ptr()
        assert other.replay_buffer is not first.replay_buffer


class Steps(BaseCallback):
    """Notes who was called when; may end a run, or let it diverge."""

    def __init__(self, seed: int, seen: list[tuple[int, int]], stop: int | None = None, poison: int | None = None):
        super().__init__()
        self.member_seed, self.seen, self.stop, self.poison = seed, seen, stop, poison

    def _on_step(self) -> bool:
        self.seen.append((self.member_seed, self.num_timesteps))
        if self.num_timesteps == self.poison:
            with th.no_grad():
                next(self.model.policy.parameters()).fill_(float("nan"))
        return self.num_timesteps != self.stop


@pytest.mark.usefixtures("as_one")
def test_callbacks_get_each_member_in_turn_and_one_that_stops_leaves() -> None:
    seen: list[tuple[int, int]] = []
    members = seeds_of(TD3BC, 4, callback=lambda seed: Steps(seed, seen, stop=2 if seed == 0 else None))
    assert seen == [(s, 1) for s in SEEDS] + [(s, 2) for s in SEEDS] + [(3, 3), (5, 3), (3, 4), (5, 4)]
    assert [member.num_timesteps for member in members] == [4, 2, 4]
    assert distance(members[1], alone(TD3BC, 0, 4, Steps(0, [], stop=2))) < 1e-5
    assert distance(members[2], alone(TD3BC, 5, 4)) < 1e-5


def test_copies_of_a_callback_write_below_their_seed(tmp_path: Path) -> None:
    import gymnasium as gym

    evaluation = EvalCallback(
        gym.make("Pendulum-v1", max_episode_steps=3),
        eval_freq=2,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "logs"),
        verbose=0,
    )
    seeds_of(TD3BC, 4, callback=[CheckpointCallback(2, str(tmp_path / "saved")), evaluation])
    for seed in SEEDS:
        saved = {file.name for file in (tmp_path / "saved" / f"seed_{seed}").glob("*.zip")}
        assert saved == {"rl_model_2_steps.zip", "rl_model_4_steps.zip"}
        assert (tmp_path / "best" / f"seed_{seed}" / "best_model.zip").exists()
        with np.load(tmp_path / "logs" / f"seed_{seed}" / "evaluations.npz") as found:
            assert found["timesteps"].tolist() == [2, 4]
    assert evaluation.n_calls == 0  # the one that was given


@pytest.mark.usefixtures("as_one")
def test_models_that_learned_alone_go_on_together() -> None:
    """Within a log line, so that sums go on, too."""
    models = [alone(CQL, seed, 5, target_gap=1.0) for seed in SEEDS]
    learn_seeds(models, 5, reset_num_timesteps=False)
    for seed, model in zip(SEEDS, models, strict=True):
        reference = alone(CQL, seed, 5, target_gap=1.0).learn(5, reset_num_timesteps=False)
        assert distance(model, reference) < 1e-4
        assert model.num_timesteps == 10


def test_tensorboard_shows_a_run_a_member(tmp_path: Path) -> None:
    seeds_of(TD3BC, 2, tensorboard_log=str(tmp_path))
    assert {folder.name for folder in tmp_path.iterdir()} == {f"TD3BC_seed_{seed}_1" for seed in SEEDS}


@pytest.mark.usefixtures("as_one")
def test_a_member_that_diverges_is_named_and_frozen() -> None:
    with pytest.warns(UserWarning, match=r"Seed 0: TD3BC diverged: .* the others, 2, go on"):
        members = seeds_of(TD3BC, 250, callback=lambda seed: Steps(seed, [], poison=150 if seed == 0 else None))
    assert [member.num_timesteps for member in members] == [250, 200, 250]  # looked at every 100 steps
    with pytest.raises(TrainingDivergedError, match="Not saved"):
        members[1].save("nowhere")
    for index in (0, 2):
        assert distance(members[index], alone(TD3BC, SEEDS[index], 250)) < 1e-3


def test_all_diverged_is_an_error() -> None:
    with pytest.warns(UserWarning, match="Seed 3"), pytest.raises(TrainingDivergedError, match="All seeds diverged"):
        seeds_of(TD3BC, 5, callback=lambda seed: Steps(seed, [], poison=2))


@pytest.mark.parametrize("cls", [TD3BC, COMBO])
def test_resumed_seeds_are_uninterrupted_ones(cls: Any, tmp_path: Path) -> None:
    whole = seeds_of(cls, 11, log_interval=5)

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 8

    seeds_of(cls, 11, callback=[CheckpointCallback(7, str(tmp_path)), Stop()], log_interval=5)
    resumed = resume_seeds(cls, tmp_path, "Pendulum-v1", subject(cls).arrays)
    assert [member.seed for member in resumed] == sorted(SEEDS)
    assert [member.num_timesteps for member in resumed] == [7, 7, 7]
    # the same order, so that the products are the same
    ordered = [next(member for member in resumed if member.seed == seed) for seed in SEEDS]
    learn_seeds(ordered, log_interval=5)
    for member, reference in zip(ordered, whole, strict=True):
        assert digest(member) == digest(reference)


def test_resume_takes_the_last_step_that_all_have(tmp_path: Path) -> None:
    seeds_of(TD3BC, 6, callback=CheckpointCallback(2, str(tmp_path)))
    (tmp_path / "seed_5" / "rl_model_6_steps.resume").unlink()  # killed between two members
    resumed = resume_seeds(TD3BC, tmp_path, "Pendulum-v1", subject(TD3BC).arrays)
    assert {member.num_timesteps for member in resumed} == {4}
    with pytest.raises(ValueError, match="holds no folders seed_0"):
        resume_seeds(TD3BC, tmp_path / "seed_5")


def test_ctrl_c_saves_every_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Press(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 3 and self.model.seed == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return True

    with pytest.raises(KeyboardInterrupt):
        seeds_of(TD3BC, 20, callback=Press())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = resume_seeds(TD3BC, tmp_path / "interrupted", "Pendulum-v1", subject(TD3BC).arrays)
    assert {member.num_timesteps for member in resumed} == {4}  # the round of step 3 was under way
    assert len(resumed) == 3


def test_members_whose_rates_part_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(together, "announce", said.append)

    class Slower(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 4 and self.model.seed == 0:
                self.model.scale_learning_rates(0.5)  # type: ignore[attr-defined]
            return True

    for seed, member in zip(SEEDS, seeds_of(TD3BC, callback=Slower()), strict=True):
        assert distance(member, alone(TD3BC, seed, callback=Slower())) < 1e-5
    assert "learning_rate" in said[0]


def test_shared_dynamics_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    fit = COMBO.fit_dynamics
    monkeypatch.setattr(COMBO, "fit_dynamics", lambda self, *args: (fits.append(self.seed), fit(self, *args)))
    members = seeds_of(COMBO, 4, share_dynamics=True)
    assert fits == [3]
    states = [member.dynamics.state_dict() for member in members]
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items())
    assert members[0].dynamics is not members[1].dynamics


@pytest.mark.parametrize(
    ("seeds", "message"), [((), "empty"), ((1, 1), "holds one twice"), ((-1,), "seeds"), ((0.5,), "seeds"), (3, "range")]
)
def test_seeds_that_are_none(seeds: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        seeds_of(TD3BC, 1, seeds=seeds)


def test_members_that_are_no_seeds_of_one_algorithm() -> None:
    one, other, same = (subject(cls).make(seed=seed) for cls, seed in ((TD3BC, 0), (CQL, 1), (TD3BC, 0)))
    cases = [([], "list of models"), (one, "list of models"), ([one, one], "twice"), ([one, other], "CQL, TD3BC")]
    for members, message in [*cases, ([one, same], "holds one twice")]:
        with pytest.raises(ValueError, match=message):
            learn_seeds(members, 1)  # type: ignore[arg-type]


def test_members_of_other_data_are_refused() -> None:
    one = subject(TD3BC).make(seed=0)
    other = subject(TD3BC).make(seed=1, dataset="sb3_offline/Pendulum-medium-v0")
    with pytest.raises(ValueError, match="different data"):
        learn_seeds([one, other], 1)
