"""How much memory a received model's options ask for, added up ahead of any of it."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from gymnasium.spaces.utils import flatdim

from sb3_offline.files.refusal import FileRefused

_MOST = 4 * 2**30  # bytes of rows


def check_rows(model: Any, file: str, own: Container[str]) -> None:
    """
    Whole numbers of a file that multiply rows (``rows_at_once``) cost it nothing: a batch of 10^9 rows is ten digits.

    :param model: with the options of a file
    :param file: its name, for the message
    :param own: options that the caller gave in place of the file's: these are meant
    :raises FileRefused: if the others take more than 4 GiB
    """
    row = 4 * (2 * flatdim(model.observation_space) + flatdim(model.action_space) + 2)  # bytes, as float32
    for names in model.rows_at_once:
        received = {name: getattr(model, name) for name in names if name not in own}
        taken = row * math.prod(received.values())
        if taken > _MOST:
            asked = " and ".join(f"{name}={value:,}" for name, value in received.items())
            raise FileRefused(
                f"{file}: {asked} would take {taken / 1e9:,.0f} GB of rows at once. If that is meant, give it yourself: "
                f"load(path, {', '.join(f'{name}=...' for name in received)})."
            )
