"""Processes that train one model, which torchrun starts: what each drew, and what came of it, in a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_offline import TD3BC
from sb3_offline.dynamics import EnsembleDynamics
from sb3_offline.execution import ranks
from sb3_offline.execution.trees import rebuilt, tensors_in
from tests.contract.subjects import Subject

STEPS = 5


def in_float64() -> None:
    """From here on in this process, observations included."""
    th.Tensor.float = th.Tensor.double  # type: ignore[method-assign,assignment]
    th.set_default_dtype(th.float64)


def recorded(model: Any) -> list[Any]:
    """Let a model learn as one of the ranks; what it draws at each step."""
    drawn: list[Any] = []
    sample, draw = model.sample_batch, model.draw_noise

    def sample_batch() -> Any:
        drawn.append(sample())
        return drawn[-1]

    def draw_noise(batch: Any) -> Any:
        drawn[-1] = batch, draw(batch)
        return drawn[-1][1]

    model.sample_batch, model.draw_noise = sample_batch, draw_noise
    model.learn(STEPS)
    return drawn


def of_both(one: Any, other: Any) -> Any:
    """Two ranks' batches and noises as those of one process."""
    joined = rebuilt(one, (th.cat(pair) for pair in zip(tensors_in(one), tensors_in(other), strict=True)))
    batch, noise = joined
    return batch._replace(n_real=one[0].n_real + other[0].n_real), noise


def alone(name: str, drawn: list[list[Any]]) -> Any:
    """One process that learns from what two drew."""
    model: Any = Subject(name).make(batch_size=32)
    steps = [of_both(*each) for each in zip(*drawn, strict=True)]
    model.sample_batch = lambda: steps[model.num_timesteps][0]
    model.draw_noise = lambda _: steps[model.num_timesteps][1]
    return model.learn(len(steps))


def note_fits() -> list[tuple[int, ...]]:
    """From here on: the members of an ensemble that are fitted at each step."""
    fitted: list[tuple[int, ...]] = []
    networks = EnsembleDynamics.networks

    def noted(self: Any, inputs: th.Tensor, members: Any = None) -> Any:
        if th.is_grad_enabled():
            fitted.append(() if members is None else tuple(members.tolist()))
        return networks(self, inputs, members)

    EnsembleDynamics.networks = noted  # type: ignore[method-assign]
    return fitted


def train(folder: Path, names: list[str]) -> None:
    in_float64()
    for name in names:
        model: Any = Subject(name).make()
        th.save((recorded(model), model.policy.state_dict()), folder / f"{name}_{ranks.rank()}.pt")


def imagine(folder: Path) -> None:
    """COMBO, whose dynamics are fitted, too."""
    fitted = note_fits()
    model: Any = Subject("combo").make(dynamics_cache=False)
    drawn = recorded(model)
    states = model.policy.state_dict(), model.dynamics.state_dict()
    th.save(({*fitted}, [batch for batch, _ in drawn], *states), folder / f"combo_{ranks.rank()}.pt")


def resume(folder: Path, out: Path) -> None:
    """Ten more steps of TD3BC, each saved."""
    model = TD3BC.resume(folder, dataset="sb3_offline/Pendulum-medium-v0")
    began, to = model.num_timesteps, model.num_timesteps + 10
    model.learn(to, CheckpointCallback(1, str(out)))
    th.save((ranks.size(), began, model.num_timesteps, model.policy.state_dict()), out / f"{ranks.rank()}.pt")


if __name__ == "__main__":
    what, first, *rest = sys.argv[1:]
    if what == "train":
        train(Path(first), rest)
    elif what == "imagine":
        imagine(Path(first))
    else:
        resume(Path(first), Path(rest[0]))
