"""`open_dataset` and `load_dataset`: one door for every source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_offline.datasets.checks import build_dataset
from sb3_offline.datasets.checks.keys import meaning_of
from sb3_offline.datasets.errors import DatasetError, DatasetWarning, NoRowsLeft
from sb3_offline.datasets.mapped import blocks_of
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources.describing import info_of, joint_task, same_space
from sb3_offline.datasets.sources.formats import open_one
from sb3_offline.datasets.sources.imitation import are_trajectories
from sb3_offline.datasets.sources.streaming import checked_blocks
from sb3_offline.datasets.sources.tables.opening import is_frame
from sb3_offline.datasets.sources.task import Task

if TYPE_CHECKING:
    from minari import MinariDataset

#: Whatever logged data may come from; a sequence of sources is one data set.
Source: TypeAlias = Union[str, Path, Mapping[str, Any], ReplayBuffer, OfflineDataset, "MinariDataset", Sequence["Source"]]

_NAMED_PARTS = 4  # of a list, in the name of the whole


@dataclass(frozen=True)
class DatasetSource:
    """An opened source: its ``info`` is known, its arrays are read and checked by :meth:`load`."""

    info: DatasetInfo
    read: Callable[[], OfflineDataset]
    read_blocks: Callable[[Path], Iterator[OfflineDataset]] | None = None

    def load(self) -> OfflineDataset:
        """Read and check the arrays.

        :raises DatasetError: naming the key, the row and the remedy
        """
        return self.read()

    def blocks(self, scratch: Path) -> Iterator[OfflineDataset]:
        """
        The same rows as :meth:`load` gives, block by block; formats that can be read so are not held in memory. A block's
        ``info.card["dropped_rows"]`` counts what was left out in it.

        :param scratch: a folder for files that are needed meanwhile
        :raises DatasetError: naming the key, the row and the remedy
        """
        if self.read_blocks is not None:
            yield from self.read_blocks(scratch)
            return
        data = self.load()
        for rows in blocks_of(data):
            yield replace(data, **data.arrays(rows))


def open_dataset(
    source: Source,
    *,
    env_id: str | None = None,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    download: bool = False,
    env_spec: EnvSpec | None = None,
    columns: Mapping[str, Any] | str | Path | None = None,
    trust: bool = False,
) -> DatasetSource:
    """Find out what a data set is without reading its arrays.

    :param source: a packaged id (``"Pendulum-medium-v0"``), a Minari id (``"mujoco/hopper/medium-v0"``), a file
        (.hdf5, .h5: D4RL's flat layout; .npz), a table (.parquet, .csv, .tsv, .arrow, .feather, a folder of them, a frame of
        pandas, polars or pyarrow), a folder of .npy files, which stay on disk, a mapping of arrays, a filled SB3
        ReplayBuffer, a MinariDataset, an OfflineDataset, or a sequence of these, which is one data set
    :param env_id: Gymnasium id of the task, for data that do not name it (it comes before a name in the data)
    :param observation_space: for data that do not have it; must agree with the data's own
    :param action_space: for data that do not have it; must agree with the data's own
    :param download: fetch a Minari data set that is not installed; otherwise the network is never used
    :param env_spec: the task of data that name none, whose spaces the caller gives
    :param columns: of a table: which columns are ``observations``, ``actions``, ``rewards``, ``terminations`` and optionally
        ``next_observations``, ``truncations``, ``episode``, ``time`` and the longest step in time that is no ``gap``, or the
        path of a YAML file that says it; guessed from the columns' names if not given. Of robomimic, LeRobot and OGBench only
        what their formats leave open
    :param trust: unpickle SB3's ``replay_buffer.pkl``, which runs code from the file
    :raises DatasetError: if the source cannot be found or opened, or its spaces are not known
    """
    return _open(source, Task(env_id, observation_space, action_space, download, env_spec, columns, trust))


def load_dataset(
    source: Source,
    *,
    env_id: str | None = None,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    download: bool = False,
    columns: Mapping[str, Any] | str | Path | None = None,
    trust: bool = False,
) -> OfflineDataset:
    """Open a source, read its arrays and check them; the parameters are those of :func:`open_dataset`.

    :raises DatasetError: naming what is wrong, where (key, row), and the remedy
    """
    return _open(source, Task(env_id, observation_space, action_space, download, columns=columns, trust=trust)).load()


def _open(source: Source, task: Task) -> DatasetSource:
    if isinstance(source, Sequence) and not isinstance(source, str) and not are_trajectories(source):
        return _open_many(source, task)
    raw = open_one(source, task)
    info = info_of(raw, task)
    build, blocks = raw.build, raw.blocks
    in_blocks = None
    if blocks is not None:

        def in_blocks(scratch: Path) -> Iterator[OfflineDataset]:
            return checked_blocks(blocks(info, scratch), info, lambda: blocks(info, scratch))

    if build is not None:
        return DatasetSource(info, lambda: build(info), in_blocks)
    return DatasetSource(info, lambda: build_dataset(raw.read(), info), in_blocks)


def _open_many(sources: Sequence[Source], task: Task) -> DatasetSource:
    if len(sources) == 0:
        raise DatasetError("An empty list holds no data: give at least one source.")
    _refuse_rows(sources)
    parts = []
    for number, source in enumerate(sources, start=1):
        with _named(number, len(sources)):
            parts.append(_open(source, replace(task, part=True)))
    joint = joint_task([part.info for part in parts], task)
    box = parts[0].info.action_space
    still = isinstance(box, spaces.Box) and bool((box.low >= box.high).any())  # in the other parts, too: refused
    if joint != task or still:  # spaces that were derived from the parts, and are not the same
        parts = [_open(source, joint) for source in sources]
    first = parts[0].info
    for number, part in enumerate((p.info for p in parts[1:]), start=2):
        for kind in ("observation", "action"):
            own, other = getattr(first, f"{kind}_space"), getattr(part, f"{kind}_space")
            if not same_space(own, other, bounds=kind == "action"):
                raise DatasetError(
                    f"{first.dataset_id} and source {number}, {part.dataset_id}, cannot be one data set: their {kind} "
                    f"spaces differ, {own} and {other}."
                )
    info = _joint_info([part.info for part in parts])
    return DatasetSource(info, lambda: _concatenate(info, _read_all(parts)))


def _refuse_rows(sources: Sequence[Any]) -> None:
    """:raises DatasetError: for a list of steps, as a buffer of one's own keeps them, or of pairs, as groupby gives them"""
    first = sources[0]
    if isinstance(first, tuple) and any(isinstance(value, Mapping) or is_frame(value) for value in first):
        raise DatasetError(
            f"a list of {len(sources):,} pairs of a name and its data, as groupby gives them, where the data alone are read: "
            "give [data for _, data in pairs]."
        )
    if isinstance(first, Mapping):
        if all(np.ndim(value) > 0 for key, value in first.items() if meaning_of(str(key)) in ("rewards", "terminations")):
            return
        how = "{name: numpy.array([row[name] for row in rows]) for name in rows[0]}"
    elif isinstance(first, tuple) and any(np.ndim(value) == 0 for value in first if not isinstance(value, str)):
        how = (
            "dict(zip(['observations', 'actions', 'rewards', ...], map(numpy.array, zip(*rows)))), names in the tuples' order"
        )
    else:
        return
    raise DatasetError(
        f"a list of {len(sources):,} steps, where one of episodes or files is read: give one array for each name, {how}, with "
        "each episode's last step marked in terminations or truncations."
    )


@contextmanager
def _named(number: int, n_sources: int) -> Iterator[None]:
    """Errors say which source of a list they are about; several may have the same name."""
    try:
        yield
    except DatasetError as error:
        raise type(error)(f"source {number} of {n_sources}: {error}") from error


def _read_all(parts: Sequence[DatasetSource]) -> list[OfflineDataset | None]:
    """
    None in place of a source of which no row can be used, such as an episode of one row without its next observation.

    :raises NoRowsLeft: if that is so of all of them
    """
    datasets: list[OfflineDataset | None] = []
    refusals = []
    for number, part in enumerate(parts, start=1):
        try:
            with _named(number, len(parts)):
                datasets.append(part.read())
        except NoRowsLeft as error:
            datasets.append(None)
            refusals.append(error)
    if len(refusals) == len(parts):
        raise refusals[0]
    if refusals:
        warnings.warn(f"{len(refusals)} of {len(parts)} sources are left out: {refusals[0]}", DatasetWarning, stacklevel=4)
    return datasets


def _joint_info(infos: Sequence[DatasetInfo]) -> DatasetInfo:
    first = infos[0]
    card: dict[str, Any] = {"parts": [{"dataset_id": info.dataset_id, **info.card} for info in infos]}
    names = [info.dataset_id for info in infos]
    if len(names) > _NAMED_PARTS:
        names[_NAMED_PARTS - 1 :] = [f"{len(names) - _NAMED_PARTS + 1:,} more"]
    joint = replace(first, dataset_id=" + ".join(names), card=card)
    if len({info.env_spec.id if info.env_spec else None for info in infos}) > 1:
        card["env_note"] = "the parts name different environments, so none is named for the whole"
        joint = replace(joint, env_spec=None)
    if any(info.goals != first.goals for info in infos):
        raise DatasetError("Only some of the sources have goals to replace, or in other ways: join them, then relabel_goals.")
    if len({(info.reference_min_score, info.reference_max_score) for info in infos}) > 1:
        card["reference_note"] = "the parts have different reference scores, so there are none for the whole"
        joint = replace(joint, reference_min_score=None, reference_max_score=None)
    return joint


def _concatenate(info: DatasetInfo, read: Sequence[OfflineDataset | None]) -> OfflineDataset:
    """One data set of several; an episode never runs on across a joint."""
    parts = [part for part in read if part is not None]
    if len({part.array_names for part in parts}) > 1:
        raise DatasetError(f"{info.dataset_id}: only some of the sources have action_masks: give them to all, or to none.")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].array_names}
    last = np.cumsum([len(part) for part in parts]) - 1
    arrays["truncations"][last] |= ~arrays["terminations"][last]
    described = []
    for facts, part in zip(info.card["parts"], read, strict=True):
        described.append({**facts, **({} if part is None else part.info.card), "rows": 0 if part is None else len(part)})
    return OfflineDataset(replace(info, card={**info.card, "parts": described}), **arrays)
