"""
What a ``.resume`` file holds, looked at before any of it is put in place: its checksum tells damage, and forgery not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_offline.buffers.buffers import TensorReplayBuffer
from sb3_offline.files.checksum import DamagedFileError
from sb3_offline.files.tensors import is_plain, same_kind

_ABOUT: dict[str, tuple[type, ...]] = {
    "algorithm": (str,),
    "options": (dict,),
    "device": (str,),
    "normalized": (bool,),
    "num_timesteps": (int,),
    "total_timesteps": (int,),
    "start": (int,),
    "machine": (dict,),
    "dataset": (str,),
    "rows": (int,),
    "fingerprint": (str,),
    "run": (str,),
    "best_mean_rewards": (list,),
}
_AT_CHOICE = ("returns", "goes_on")  # columns of a buffer that only the algorithms which set them have
_FOREIGN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError)


def check_about(about: Any, state: dict[str, Any], path: Any) -> None:
    """
    :param about: what the checkpoint says of its run
    :raises DamagedFileError: if a fact is missing or of another kind, or there is no model
    """
    for name, kinds in _ABOUT.items():
        if not isinstance(about, dict) or not isinstance(about.get(name), kinds):
            raise DamagedFileError(f"{path} is no checkpoint of a run: it does not say its {name}")
    if not 0 <= about["start"] <= about["num_timesteps"] <= about["total_timesteps"]:
        raise DamagedFileError(f"{path} is no checkpoint of a run: its steps are not in order")
    if not all(isinstance(reward, float) for reward in about["best_mean_rewards"]):
        raise DamagedFileError(f"{path} is no checkpoint of a run: its best rewards are no numbers")
    model = state.get("model")
    if not isinstance(model, th.Tensor) or model.dtype != th.uint8 or model.ndim != 1:
        raise DamagedFileError(f"{path} is no checkpoint of a run: it holds no model")
    try:
        th.device(about["device"])
    except RuntimeError as error:
        raise DamagedFileError(f"{path} is no checkpoint of a run: it ran on {about['device']!r:.40}") from error


def put_in_place(work: Callable[[], None], path: Any) -> None:
    """
    :param work: puts a checkpoint's state into a model
    :raises DamagedFileError: in place of whatever it raises of a state that is none
    """
    try:
        work()
    except DamagedFileError:
        raise
    except _FOREIGN as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DamagedFileError(
            f"{path} does not hold the state of such a run ({why}). load() reads the .zip beside it."
        ) from error


def check_tensor(name: str, present: Any, value: Any) -> None:
    """
    :raises ValueError: if a tensor of the model has no such counterpart
    """
    if not isinstance(present, th.Tensor) or not same_kind(value, present):
        raise ValueError(f"its {name!r:.80} is none of the model's, or of another shape or kind")


def check_rows(name: str, buffer: TensorReplayBuffer, state: Any) -> None:
    """
    :raises ValueError: if a buffer's rows do not fit it
    """
    columns, pos, full = state["columns"], state["pos"], state["full"]
    if type(pos) is not int or type(full) is not bool or not 0 <= pos <= buffer.buffer_size:
        raise ValueError(f"its {name} stands at {pos!r:.40}")
    n = buffer.buffer_size if full else pos
    shapes = {"observations": buffer.obs_shape, "next_observations": buffer.obs_shape, "actions": (buffer.action_dim,)}
    own = {column: empty for column, empty in vars(buffer).items() if isinstance(empty, th.Tensor)}
    if not columns.keys() <= own.keys():
        raise ValueError(f"its {name} has columns {', '.join(map(str, columns))!r:.200}")
    for column, empty in own.items():
        rows, kind = columns.get(column, empty), empty.dtype
        chosen = column == "actions" and not isinstance(buffer.action_space, spaces.Box)
        if chosen:
            kind = th.int64
        elif rows.is_floating_point() and kind.is_floating_point:
            kind = rows.dtype
        left_out = rows.shape == (0,) and (n == 0 or column in _AT_CHOICE)
        if not left_out and not same_kind(rows, th.empty((n, *shapes.get(column, ())), dtype=kind, device="meta")):
            raise ValueError(f"its {name} has {n} rows, and a column {column!r:.80} of {rows.dtype}, {tuple(rows.shape)}")
        if chosen and n and not 0 <= int(rows.min()) <= int(rows.max()) < buffer.choices.n:
            raise ValueError(f"its {name} has actions that there are not")


def check_sums(sums: Any) -> None:
    """
    :raises ValueError: if the sums of the logs are no single numbers
    """
    for name, value in sums.items():
        single = isinstance(value, th.Tensor) and is_plain(value) and value.numel() == 1 and value.is_floating_point()
        if not isinstance(name, str) or not single:
            raise ValueError(f"its sum {name!r:.80} is no number")
