"""What the caller says about data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_offline.arguments import check_flag, check_text


@dataclass(frozen=True)
class Task:
    """
    What the caller says about the data; None if nothing.

    :param columns: which columns of a table are what, as :func:`~sb3_offline.load_dataset` takes it
    :param trust: unpickle files, which runs code from them
    :param part: these are one of several sources, so that spaces that follow from the whole need not follow from them
    :raises TypeError: for ``download`` or ``trust`` that are neither True nor False, or an ``env_id`` that is no text
    """

    env_id: str | None = None
    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    download: bool = False
    env_spec: EnvSpec | None = None
    columns: Any = None
    trust: bool = False
    part: bool = False

    def __post_init__(self) -> None:
        check_flag("download", self.download)
        check_flag("trust", self.trust)
        if self.env_id is not None:
            check_text("env_id", self.env_id)
