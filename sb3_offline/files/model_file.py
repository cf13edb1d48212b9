"""A saved model's file, read and checked; nothing in it is unpickled."""

from __future__ import annotations

import copy
import inspect
import io
import pathlib
import types
import zipfile
from collections.abc import Container, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path

from sb3_offline.files.archives import Budget, FileRefused, open_archive, read_members, read_tensors
from sb3_offline.files.encoding import decode
from sb3_offline.files.refusal import printable
from sb3_offline.files.regular import read_regular
from sb3_offline.files.structure import read_json
from sb3_offline.files.tensors import same_kind

FilePath = str | pathlib.Path | io.BufferedIOBase

HEADER = "sb3_offline.json"  # a member that SB3 passes over: which class the file holds, and which members
FORMAT = 1
VARIABLES = ("pytorch_variables.pth", "tensors.pth")  # the second is an old name of the first
#: A hyperparameter that is no JSON is an object: its pickle is SB3's, for SB3's tools, and beside it is what we read.
PICKLED, PLAIN = ":serialized:", ":json:"

_SYSTEM = "system_info.txt"  # what load(print_system_info=True) shows
_NAMED_FILES = 3  # of a folder that was given for one of them
_ATTRIBUTES = (types.FunctionType, classmethod, staticmethod, property)


class ModelFile:
    """
    The zip file of a model, as SB3 lays it out, its members compared with their checksums.

    :param path: a file, its name with or without ``.zip``, or a stream
    :raises FileRefused: if it is no such file, damaged, or would unpack to an absurd size
    """

    def __init__(self, path: FilePath) -> None:
        self.name = name_of(path)
        self.content = _read(path)  # at once, so that what is checked is what is loaded
        self._budget = Budget(self.name, len(self.content))
        with open_archive(io.BytesIO(self.content), self.name, self._budget) as archive:
            self.members = read_members(archive, self.name)
        if "data" not in self.members:
            raise FileRefused(f"{self.name} is no saved model: it has no member 'data'. It may be damaged.")

    def header(self) -> dict[str, Any] | None:
        """What the file says of itself, of which ``class`` is its algorithm's name; None if it has only pickles."""
        return self._json(HEADER) if HEADER in self.members else None

    def data(self) -> dict[str, Any]:
        """Every hyperparameter as the file writes it."""
        return self._json("data")

    def check(self, header: Mapping[str, Any], expected: str) -> None:
        """
        :raises FileRefused: if the file is of another format or class than ``expected``, or is not complete
        """
        held, members = header.get("class"), header.get("members")
        if header.get("format") != FORMAT or not isinstance(members, list):
            raise FileRefused(
                f"{self.name} is of format {header.get('format')!r}, and this sb3_offline reads {FORMAT}: it was written by "
                f"version {header.get('version')}."
            )
        if held != expected:
            raise FileRefused(f"{self.name} holds a {held}, not a {expected}: load it by {held}.load.")
        missing = [str(member) for member in members if member not in [*self.members]]
        if missing:
            raise FileRefused(f"{self.name} is damaged: {', '.join(missing)} is missing.")

    def hyperparameters(self, cls: type, given: Mapping[str, Any], trust: bool) -> dict[str, Any]:
        """
        Every hyperparameter as a value; with ``trust``, those that only a pickle holds are left out.

        :param cls: the model's class
        :param given: values in place of the file's
        :raises FileRefused: if one is neither plain data nor given, or can be none of ``cls``
        """
        values: dict[str, Any] = {}
        needed: dict[str, Any] = {}
        foreign = getattr(cls, "of_the_process", ())
        for key, item in self.data().items():
            none = key == "env" or key in foreign or isinstance(inspect.getattr_static(cls, key, None), _ATTRIBUTES)
            if none and not trust:
                raise FileRefused(f"{self.name} has a hyperparameter {key!r}, which is none of {cls.__name__}.")
            if key in given:
                values[key] = given[key]
            elif not isinstance(item, dict) or PICKLED not in item:
                values[key] = item
            elif PLAIN in item:
                try:
                    values[key] = decode(item[PLAIN])
                except (ValueError, RecursionError) as error:
                    raise FileRefused(f"{self.name}: {key} cannot be read: {error}.") from error
            else:
                needed[key] = item.get(":type:")
        for key in ("observation_space", "action_space"):
            if key not in needed and not isinstance(values.get(key), spaces.Space):
                raise FileRefused(f"{self.name} is damaged: its {key} is no space.")
        if needed and not trust:
            raise FileRefused(
                f"{self.name} needs what only unpickling could bring back, and that can run any code: "
                f"{', '.join(f'{key!r} ({kind})' for key, kind in needed.items())}. Give it by "
                "custom_objects={name: value}, or say trust=True if you trust who wrote the file."
            )
        return values

    def tensors(self, device: th.device | str = "cpu") -> dict[str, Any]:
        """
        What the file's tensor members hold, by their names.

        :raises FileRefused: if one holds anything but tensors and plain values
        """
        names = [name for name in self.members if name.endswith(".pth")]
        budget = copy.copy(self._budget)
        return {name: read_tensors(self.members[name], f"{self.name}: {name}", device, budget) for name in names}

    def parameters(self, device: th.device | str = "cpu") -> dict[str, Any]:
        """The states of networks and optimisers, as ``get_parameters`` gives them."""
        states = self.tensors(device)
        for name in VARIABLES:
            states.pop(name, None)
        return {name.removesuffix(".pth"): state for name, state in states.items()}

    def without_variables(self) -> io.BytesIO:
        """
        The archive as it was checked, without the tensors that SB3 would set by whatever name the file gives them, and with
        letters alone in the description of a machine, which SB3 prints.
        """
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as written:
            for name, content in self.members.items():
                if name not in VARIABLES:
                    written.writestr(name, printable(content.decode(errors="replace")) if name == _SYSTEM else content)
        archive.seek(0)
        return archive

    def restore_variables(self, model: OffPolicyAlgorithm, tensors: Mapping[str, Any], own: Container[str] = ()) -> None:
        """
        Put the tensors back that are no network's: those that the model itself names, and no other.

        :param tensors: what :meth:`tensors` found
        :param own: options that the caller gave: SB3 keeps a fixed ``ent_coef`` as ``ent_coef_tensor``, too
        :raises FileRefused: if a name is none of the model's, or a tensor of another shape or dtype
        """
        known = model._get_torch_save_params()[1]
        for member in VARIABLES:
            found = tensors.get(member) or {}
            if not isinstance(found, dict):
                raise FileRefused(f"{self.name} is damaged: {member} holds no variables by name.")
            for name, value in found.items():
                if value is None or str(name).removesuffix("_tensor") in own:
                    continue
                present = getattr(model, name) if name in known else None
                if present is None:
                    raise FileRefused(f"{self.name} has a variable {name!r:.80}, which is none of {type(model).__name__}.")
                if not same_kind(value, present):
                    raise FileRefused(f"{self.name}: {name} is no tensor of shape {tuple(present.shape)}, {present.dtype}.")
                present.data.copy_(value)

    def _json(self, member: str) -> dict[str, Any]:
        try:
            found = read_json(self.members[member].decode(), self.name)  # UTF-8 alone, as SB3 reads it
        except FileRefused:
            raise
        except (ValueError, RecursionError) as error:
            raise FileRefused(f"{self.name} is damaged: its hyperparameters are no JSON ({error}).") from error
        if not isinstance(found, dict):
            raise FileRefused(f"{self.name} is damaged: its hyperparameters are no JSON object.")
        return found


def name_of(path: FilePath) -> str:
    """What messages call a file."""
    return str(path) if isinstance(path, (str, pathlib.Path)) else "the stream"


def _read(path: FilePath) -> bytes:
    if isinstance(path, (str, pathlib.Path)):
        file = pathlib.Path(path)
        named = pathlib.Path(f"{file}.zip")
        if file.is_dir() and not named.exists():
            found = ", ".join(sorted(each.name for each in file.glob("*.zip"))[:_NAMED_FILES])
            raise FileRefused(f"{path} is a folder: give a model's file{f' in it, such as {found}' if found else ', a .zip'}.")
        return read_regular(named if named.exists() and not file.is_file() else file)
    stream: Any = open_path(path, "r", suffix="zip")
    stream.seek(0)
    return stream.read()
