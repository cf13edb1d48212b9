"""LeRobot's folders of version 3: ``meta/info.json``, Parquet in ``data/``, and videos, which are read if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.files import is_directory, is_regular
from sb3_offline.datasets.sources.lerobot_videos import open_cameras
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.tables.columns import mapping_of
from sb3_offline.datasets.sources.tables.frames import readable
from sb3_offline.datasets.sources.tables.opening import open_table
from sb3_offline.datasets.sources.task import Task

_UNREAD = ("video", "image", "string")
_KEYS = {"episode": "episode_index", "time": "frame_index"}
_SAID = {"next.reward": "rewards", "next.terminated": "terminations", "next.truncated": "truncations"}


def is_lerobot(path: Path) -> bool:
    """Whether a folder has LeRobot's layout, of any version."""
    return is_regular(path / "meta" / "info.json") and is_directory(path / "data")


def open_lerobot(path: Path, task: Task) -> RawSource:
    """
    ``observation.state`` is the observation, or a Dict of all that are numbers if there are several. ``next.done`` does not
    tell why an episode ended, so rewards and terminations that the features do not name are asked for. Videos are read if
    ``columns`` name them among the observations.

    :param task: its ``columns`` come before what the features say
    :raises DatasetError: for another version, or if rewards or terminations are not known
    """
    with readable(str(path)):
        info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
        version, features = str(info["codebase_version"]), dict(info["features"])
        kinds = {name: str(feature["dtype"]) for name, feature in features.items()}
    if not version.startswith("v3"):
        raise DatasetError(f"{path}: LeRobot's version {version}; 3 is read. LeRobot converts it: see its page on v3.0.")
    columns = {**_columns(kinds), **({} if task.columns is None else mapping_of(task.columns, str(path)))}
    missing = [role for role in ("rewards", "terminations") if role not in columns]
    if missing:
        raise DatasetError(f"{path}: the features do not say what the {' and '.join(missing)} are.{_advice(missing, kinds)}")
    named = {name for role in ("observations", "next_observations") for name in _names_in(columns.get(role))}
    cameras = open_cameras(path, features, [name for name in kinds if kinds[name] == "video" and name in named])
    raw = open_table(path / "data", replace(task, columns=columns), cameras)
    skipped = [name for name, kind in kinds.items() if kind in _UNREAD and name not in {camera.name for camera in cameras}]
    reading = [*raw.card["reading"], *([f"not read: {', '.join(skipped)}"] if skipped else [])]
    facts = {"source": f"LeRobot {version}", "reading": reading, "fps": info.get("fps"), "robot_type": info.get("robot_type")}
    return replace(raw, dataset_id=path.name, card={**raw.card, **{key: value for key, value in facts.items() if value}})


def _names_in(names: Any) -> Iterator[str]:
    """Columns that a mapping gives for one of our names, however it is written."""
    if isinstance(names, str):
        yield names
    elif isinstance(names, (Mapping, Sequence)):
        for part in names.values() if isinstance(names, Mapping) else names:
            yield from _names_in(part)


def _columns(kinds: Mapping[str, str]) -> dict[str, Any]:
    seen = [name for name, kind in kinds.items() if name.startswith("observation") and kind not in _UNREAD]
    columns: dict[str, Any] = dict(_KEYS)
    if len(seen) == 1:
        columns["observations"] = seen[0]
    elif seen:
        columns["observations"] = {name.removeprefix("observation."): name for name in seen}
    if "action" in kinds:
        columns["actions"] = "action"
    return columns | {role: name for name, role in _SAID.items() if name in kinds}


def _advice(missing: list[str], kinds: Mapping[str, str]) -> str:
    advice = ""
    if "rewards" in missing:
        advice += ' Give a column or a function: columns={"rewards": lambda frame: ...}.'
    if "terminations" in missing:
        ends = [name for name in ("next.done", "next.success") if name in kinds]
        advice += ' columns={"terminations": ...}: False if episodes are only cut, True if each ends with its last row'
        advice += f", or {' or '.join(map(repr, ends))} if that says where the task ended." if ends else "."
    return advice
