"""All that the next gradient step depends on, beside the data: taken from a model that trains, and put into another one."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_offline.buffers.buffers import TensorReplayBuffer
from sb3_offline.training.rng import checked_position
from sb3_offline.training.state_checks import check_rows, check_sums, check_tensor
from sb3_offline.training.trained import Trained

State = dict[str, Any]


def capture(model: Trained, about: dict[str, Any]) -> State:
    """The state, for the disk: tensors on the CPU, numbers and text. ``about`` is added as it is."""
    portable = io.BytesIO()
    model.save(portable)
    normalizer = model.get_vec_normalize_env()
    return {
        "about": json.dumps(about),
        "model": th.frombuffer(portable.getbuffer(), dtype=th.uint8),
        "streams": model.streams.state(),
        "global_rng": _global_rng(model.device),
        "tensors": {name: value.detach().cpu() for name, value in vars(model).items() if isinstance(value, th.Tensor)},
        "buffers": {name: _rows(buffer) for name, buffer in _model_buffers(model)},
        "log_sums": {name: value.cpu() for name, value in model.log_sums.sums.items()},
        "log_counts": dict(model.log_sums.counts),
        "normalizer": None if normalizer is None else statistics_of(normalizer.obs_rms),
    }


def restore(model: Trained, state: State) -> None:
    """Undo what preparing has drawn and computed since the checkpoint was opened."""
    for name, value in state["tensors"].items():
        check_tensor(name, vars(model).get(name), value)
    for name, buffer in _model_buffers(model):
        check_rows(name, buffer, state["buffers"][name])
    check_sums(state["log_sums"])
    for name, value in state["tensors"].items():
        present = getattr(model, name)
        if present.requires_grad:  # its optimiser knows this very tensor
            present.data.copy_(value)
        else:
            setattr(model, name, value.to(model.device))
    for name, buffer in _model_buffers(model):
        _refill(buffer, state["buffers"][name])
    model.log_sums.sums = {name: value.to(model.device) for name, value in state["log_sums"].items()}
    # version 0.1.0 counted every term at every step
    every_step = dict.fromkeys(state["log_sums"], state.get("log_count", 0))
    counts: Mapping[str, Any] = state.get("log_counts", every_step)
    model.log_sums.counts = {name: int(counts[name]) for name in state["log_sums"]}
    model.streams.restore(state["streams"])
    _restore_global_rng(state["global_rng"], model.device)


def _model_buffers(model: Trained) -> Iterator[tuple[str, TensorReplayBuffer]]:
    """What training itself fills; the data are read again."""
    for name, value in vars(model).items():
        if isinstance(value, TensorReplayBuffer) and name != "replay_buffer":
            yield name, value


def _rows(buffer: TensorReplayBuffer) -> State:
    n = buffer.size()
    columns = {name: value[:n].cpu().clone() for name, value in vars(buffer).items() if isinstance(value, th.Tensor)}
    return {"columns": columns, "pos": buffer.pos, "full": buffer.full}


def _refill(buffer: TensorReplayBuffer, state: State) -> None:
    buffer.reset()
    for name, rows in state["columns"].items():
        if len(rows):
            column = rows.new_zeros((buffer.buffer_size, *rows.shape[1:]), device=buffer.device)
            column[: len(rows)] = rows
            setattr(buffer, name, column)
    buffer.pos, buffer.full = state["pos"], state["full"]


def _global_rng(device: th.device) -> State:
    """The generators that a policy's dropout or a user's callback may draw from."""
    state: Any = np.random.get_state()  # noqa: NPY002
    _, keys, *rest = state
    return {
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [keys.tolist(), *rest],
        "python": random.getstate(),
    }


def _restore_global_rng(state: State, device: th.device) -> None:
    th.set_rng_state(checked_position(state["torch"]))
    if state["cuda"] is not None:
        th.cuda.set_rng_state(state["cuda"], device)
    keys, position, *rest = state["numpy"]
    if type(position) is not int or not 0 <= position <= 624:  # numpy reads wherever it is told
        raise ValueError(f"numpy's random numbers stand at {position!r:.40}")
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, *rest))  # noqa: NPY002
    random.setstate(state["python"])


def statistics_of(moments: Any) -> State:
    return {name: th.as_tensor(getattr(moments, name)) for name in ("mean", "var", "count")}


def to_moments(state: State, present: RunningMeanStd) -> RunningMeanStd:
    """
    :param present: of the env, whose shape they must have
    :raises ValueError: if they have another
    """
    if any(np.shape(state[name]) != np.shape(getattr(present, name)) for name in ("mean", "var", "count")):
        raise ValueError("the statistics of VecNormalize are of another shape")
    moments = RunningMeanStd(shape=tuple(state["mean"].shape))
    moments.mean, moments.var, moments.count = state["mean"].numpy(), state["var"].numpy(), float(state["count"])
    return moments
