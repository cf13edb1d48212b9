"""Models on disk: SB3's zip file, whose hyperparameters are also there as JSON, so that loading it never unpickles."""

from __future__ import annotations

import inspect
import io
import json
import pathlib
import types
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

import sb3_offline
from sb3_offline.common.archives import MODEL_LIMITS, BoundedNetworks, FileRefused, open_archive, read_members, read_tensors
from sb3_offline.common.encoding import NotPlain, decode, encode
from sb3_offline.datasets import open_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

FilePath = str | pathlib.Path | io.BufferedIOBase
SelfSafeFiles = TypeVar("SelfSafeFiles", bound="SafeFiles")

HEADER = "sb3_offline.json"  # a member that SB3 passes over: which class the file holds, and which members
FORMAT = 1
#: Beside SB3's own ":serialized:" (a pickle, for SB3's tools), what our load reads.
_PLAIN, _PICKLED = ":json:", ":serialized:"
_ATTRIBUTES = (types.FunctionType, classmethod, staticmethod, property)

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Every load inside unpickles, if ``trust``: for the command line's --trust, where RL-Zoo calls ``load``."""
    token = _trusted.set(trust or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(trust: bool) -> bool:
    """Whether a caller, or a :func:`trusting` around it, said that pickles may be read."""
    return trust or _trusted.get()


class SafeFiles(OffPolicyAlgorithm):
    """SB3's ``save`` and ``load``, except that a file runs no code unless its reader says ``trust=True``."""

    def save(self, path: FilePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Write the model; the file is SB3's own, and its tools can read it.

        Warns of hyperparameters that are not plain data (a schedule or a policy class of your own): ``load`` will need them
        by ``custom_objects``.

        :param path: the file, ``.zip`` if it has no suffix, or a stream
        :param exclude: attributes to leave out, besides those that always are
        :param include: attributes to write that would be left out
        """
        written = io.BytesIO()
        super().save(written, exclude, include)
        with zipfile.ZipFile(written) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        data = json.loads(members["data"])
        for key, item in data.items():
            if isinstance(item, dict) and _PICKLED in item:
                try:
                    item[_PLAIN] = encode(vars(self)[key], key)
                except NotPlain as error:
                    warnings.warn(
                        f"{error}, which is not plain data. {type(self).__name__}.load will not unpickle it: give it "
                        f"again by custom_objects={{{key!r}: ...}}, or say trust=True.",
                        stacklevel=2,
                    )
        members["data"] = json.dumps(data, indent=4).encode()
        header = {"format": FORMAT, "class": type(self).__name__, "version": sb3_offline.__version__, "members": [*members]}
        file = open_path(path, "w", suffix="zip")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(HEADER, json.dumps(header))
            for name, content in members.items():
                archive.writestr(name, content)
        if isinstance(path, (str, pathlib.Path)):
            file.close()

    @classmethod
    def load(
        cls: type[SelfSafeFiles],
        path: FilePath,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfSafeFiles:
        """
        Read a model as SB3 does, but from plain data: nothing is unpickled, no code of the file is run.

        :param path: what ``save`` wrote
        :param env: a new environment, as in SB3
        :param custom_objects: hyperparameters in place of the file's, above all those that are not plain data
        :param trust: unpickle what is not plain data, and read files of older versions, which are pickled: only for files
            whose writer you trust, because they can run any code
        :param kwargs: attributes to change, as in SB3
        :raises FileRefused: (a ValueError) if the file is damaged, holds another class, or needs ``custom_objects``
        """
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise ValueError("custom_objects must be a dict of hyperparameters by name, or None.")
        name, content = _name(path), _read(path)
        members = _members(content, name)
        given = {**kwargs, **(custom_objects or {})}
        if HEADER in members:
            _check_header(_json(members[HEADER], name), members, name, cls.__name__)
            given = _hyperparameters(cls, _json(members["data"], name), given, name, is_trusted(trust))
        elif not is_trusted(trust):
            raise FileRefused(
                f"{name} is pickled: it was saved by an older sb3_offline, or is another library's. Loading it can run any "
                f"code. If you trust who wrote it: {cls.__name__}.load(path, trust=True), then save it again."
            )
        tensors = [read_tensors(members[key], f"{name}: {key}") for key in members if key.endswith(".pth")]
        try:  # SB3 takes what `given` holds and unpickles the rest, so nothing
            with BoundedNetworks(tensors, name):
                return super().load(io.BytesIO(content), env, device, given, print_system_info, force_reset, **kwargs)
        except (ValueError, ImportError, MemoryError, OSError):
            raise
        except Exception as error:  # of hyperparameters and tensors that do not belong together
            cause = error.__context__ or error
            what = " ".join(str(cause).split())[:300]
            raise FileRefused(f"{name} does not make a {cls.__name__}: {type(cause).__name__}: {what}") from error

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3; a file's tensors are read, nothing else of it."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = read_parameters(load_path_or_dict, self.device if device == "auto" else device)
        super().set_parameters(load_path_or_dict, exact_match, device)

    # --- the buffer ---

    dataset: Any

    def save_replay_buffer(self, path: FilePath) -> None:
        """
        Write the logged data, or what was collected online, as an npz file that ``dataset=`` takes; never a pickle.

        :param path: the file, ``.npz`` if it has no suffix, or a stream
        """
        online = self.replay_buffer is not None and hasattr(self.replay_buffer, "timeouts")
        source = self.replay_buffer if online else self.load_dataset()  # type: ignore[attr-defined]
        data = open_dataset(source, observation_space=self.observation_space, action_space=self.action_space).load()
        file: Any = open_path(path, "w", suffix="npz")
        np.savez_compressed(file, **{name: getattr(data, name) for name in ARRAY_NAMES})
        if isinstance(path, (str, pathlib.Path)):
            file.close()

    def load_replay_buffer(self, path: FilePath, truncate_last_traj: bool = True, *, trust: bool = False) -> None:
        """
        Take a file as the data of the next ``learn``: one of :meth:`save_replay_buffer`, or any that ``dataset=`` takes.

        :param trust: also read SB3's replay buffers, which are pickled: only those whose writer you trust
        :raises ValueError: if it is no data file, or pickled
        """
        is_file = isinstance(path, (str, pathlib.Path))
        if is_file and pathlib.Path(str(path)).suffix in (".npz", ".hdf5", ".h5"):
            open_dataset(str(path), observation_space=self.observation_space, action_space=self.action_space)
            self.dataset = str(path)
        elif is_trusted(trust):
            super().load_replay_buffer(path, truncate_last_traj)
            self.dataset = self.replay_buffer
        else:
            raise FileRefused(
                f"{_name(path)} is no .npz or .hdf5 file. SB3's replay buffers are pickled, and reading one can run any code. "
                "If you trust who wrote it, say trust=True."
            )


def read_header(path: FilePath) -> dict[str, Any] | None:
    """
    What a model's file says of itself, of which ``class`` is the name of its algorithm; None if it is pickled.

    :raises FileRefused: if it is damaged
    """
    members = _members(_read(path), _name(path))
    return _json(members[HEADER], _name(path)) if HEADER in members else None


def read_parameters(path: FilePath, device: th.device | str = "cpu") -> dict[str, Any]:
    """
    The networks' and optimisers' states of a saved model, by name, as ``get_parameters`` gives them.

    :raises FileRefused: if the file is damaged, or its tensors are not only tensors
    """
    name = _name(path)
    states = {member: content for member, content in _members(_read(path), name).items() if member.endswith(".pth")}
    states.pop("pytorch_variables.pth", None)
    return {key.removesuffix(".pth"): read_tensors(content, f"{name}: {key}", device) for key, content in states.items()}


def _name(path: FilePath) -> str:
    return str(path) if isinstance(path, (str, pathlib.Path)) else "the stream"


def _read(path: FilePath) -> bytes:
    """The file at once, so that what is checked is what is loaded."""
    file: Any = open_path(path, "r", suffix="zip")
    if isinstance(path, (str, pathlib.Path)):
        with file:
            return file.read()
    file.seek(0)
    return file.read()


def _members(content: bytes, name: str) -> dict[str, bytes]:
    with open_archive(io.BytesIO(content), name, MODEL_LIMITS) as archive:
        members = read_members(archive, name)
    if "data" not in members:
        raise FileRefused(f"{name} is no saved model: it has no member 'data'. It may be damaged.")
    return members


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FileRefused(f"{name} is damaged: its hyperparameters are no JSON ({error}).") from error
    if not isinstance(found, dict):
        raise FileRefused(f"{name} is damaged: its hyperparameters are no JSON object.")
    return found


def _check_header(header: Mapping[str, Any], members: Mapping[str, bytes], name: str, expected: str) -> None:
    if header.get("format") != FORMAT:
        raise FileRefused(
            f"{name} is of format {header.get('format')!r}, and this sb3_offline reads {FORMAT}: it was written by version "
            f"{header.get('version')}."
        )
    if header.get("class") != expected:
        raise FileRefused(f"{name} holds a {header.get('class')}, not a {expected}: load it by {header.get('class')}.load.")
    missing = set(header.get("members", ())) - set(members)
    if missing:
        raise FileRefused(f"{name} is damaged: {', '.join(sorted(map(str, missing)))} is missing.")


def _hyperparameters(cls: type, data: Mapping[str, Any], given: Mapping[str, Any], name: str, trust: bool) -> dict[str, Any]:
    """Every entry of ``data`` as a value, so that SB3 finds nothing left to unpickle; with ``trust``, some are left."""
    values: dict[str, Any] = {}
    needed: dict[str, Any] = {}
    for key, item in data.items():
        if not trust and (key == "env" or isinstance(inspect.getattr_static(cls, key, None), _ATTRIBUTES)):
            raise FileRefused(f"{name} has a hyperparameter {key!r}, which is none of {cls.__name__}.")
        if key in given:
            values[key] = given[key]
        elif isinstance(item, dict) and _PICKLED in item:
            if _PLAIN in item:
                try:
                    values[key] = decode(item[_PLAIN])
                except (ValueError, RecursionError) as error:
                    raise FileRefused(f"{name}: {key} cannot be read: {error}.") from error
            elif not trust:
                needed[key] = item.get(":type:")
        else:
            values[key] = item
    for key in ("observation_space", "action_space"):
        if key not in needed and not isinstance(values.get(key), spaces.Space):
            raise FileRefused(f"{name} is damaged: its {key} is no space.")
    if needed:
        raise FileRefused(
            f"{name} needs what only unpickling could bring back, and that can run any code: "
            f"{', '.join(f'{key!r} ({kind})' for key, kind in needed.items())}. Give it by "
            "custom_objects={name: value}, or say trust=True if you trust who wrote the file."
        )
    return values
