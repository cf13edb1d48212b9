"""Models on disk: SB3's zip file, whose hyperparameters are also there as JSON, so that loading it never unpickles."""

from __future__ import annotations

import io
import json
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_offline._version import __version__
from sb3_offline.arguments import OptionError
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.common.data_backed import carries_data
from sb3_offline.datasets import open_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.files.archives import BoundedNetworks, FileRefused
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.encoding import NotPlain, encode
from sb3_offline.files.model_file import FORMAT, HEADER, PICKLED, PLAIN, FilePath, ModelFile, name_of
from sb3_offline.files.parameters import checked_parameters
from sb3_offline.files.trust import is_trusted

SelfSafeFiles = TypeVar("SelfSafeFiles", bound="SafeFiles")


def zip_path(path: str | pathlib.Path) -> pathlib.Path:
    """Where a model is saved: ``.zip`` is added to a name without a suffix."""
    return pathlib.Path(path) if pathlib.Path(path).suffix else pathlib.Path(f"{path}.zip")


class SafeFiles(OffPolicyAlgorithm):
    """SB3's ``save`` and ``load``, except that a file runs no code unless its reader says ``trust=True``."""

    def save(self, path: FilePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Write the model, whole or not at all; the file is SB3's own, and its tools can read it.

        Warns of hyperparameters that are not plain data (a schedule or a policy class of your own): ``load`` will need them
        by ``custom_objects``.

        :param path: the file, ``.zip`` if it has no suffix, or a stream
        :param exclude: attributes to leave out, besides those that always are
        :param include: attributes to write that would be left out
        :raises OSError: if the file cannot be written; what was there before stays
        """
        written = io.BytesIO()
        super().save(written, exclude, include)
        with zipfile.ZipFile(written) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        data = json.loads(members["data"])
        for key, item in data.items():
            if isinstance(item, dict) and PICKLED in item:
                try:
                    item[PLAIN] = encode(vars(self)[key], key)
                except NotPlain as error:
                    warnings.warn(
                        f"{error}, which is not plain data. {type(self).__name__}.load will not unpickle it: give it "
                        f"again by custom_objects={{{key!r}: ...}}, or say trust=True.",
                        stacklevel=3,  # above OfflineAlgorithm's own save
                    )
        members["data"] = json.dumps(data, indent=4).encode()
        header = {"format": FORMAT, "class": type(self).__name__, "version": __version__, "members": [*members]}
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr(HEADER, json.dumps(header))
            for name, content in members.items():
                archive.writestr(name, content)
        if isinstance(path, (str, pathlib.Path)):
            write_atomically(zip_path(path), lambda file: file.write(whole.getbuffer()))
        else:
            open_path(path, "w").write(whole.getbuffer())

    @classmethod
    def load(
        cls: type[SelfSafeFiles],
        path: FilePath,
        env: GymEnv | str | None = None,
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
        :param env: a new environment, as in SB3, or an id as in the constructor: one that brings data names ``dataset``, too
        :param custom_objects: hyperparameters in place of the file's, above all those that are not plain data
        :param trust: unpickle what is not plain data, and read files of older versions, which are pickled: only for files
            whose writer you trust, because they can run any code
        :param kwargs: attributes to change, as in SB3
        :raises FileRefused: (a ValueError) if the file is damaged, holds another class, or needs ``custom_objects``
        """
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise ValueError("custom_objects must be a dict of hyperparameters by name, or None.")
        file, name = ModelFile(path), name_of(path)
        given = {name: value for name, value in kwargs.items() if name != "policy_kwargs"} | (custom_objects or {})
        header = file.header()
        if header is not None:
            file.check(header, cls.__name__)
            given = file.hyperparameters(cls, given, is_trusted(trust))
            try:
                given = cls.upgraded(given)  # type: ignore[attr-defined]
            except ValueError as error:
                raise FileRefused(f"{name}: {error}") from error
            cls.check_arguments({key: value for key, value in kwargs.items() if key not in given})  # type: ignore[attr-defined]
        elif not is_trusted(trust):
            raise FileRefused(
                f"{name} is pickled: it was saved by an older sb3_offline, or is another library's. Loading it can run any "
                f"code. If you trust who wrote it: {cls.__name__}.load(path, trust=True), then save it again."
            )
        tensors = file.tensors()
        if env is not None and not isinstance(env, str) and carries_data(env):
            kwargs = {"dataset": None} | kwargs
        if isinstance(env, str):
            opened: tuple[gym.Env, dict[str, Any]] = cls._open_id(env)  # type: ignore[attr-defined]
            env, kwargs = opened[0], opened[1] | kwargs
        try:  # SB3 takes what `given` holds and unpickles the rest, so nothing
            with BoundedNetworks(tensors, name):
                content = file.without_variables()
                model = super().load(content, env, device, given, print_system_info, force_reset, **kwargs)
            file.restore_variables(model, tensors)
            try:
                model.check_loaded()  # type: ignore[attr-defined]
            except (ValueError, TypeError) as error:
                raise FileRefused(f"{name}: {error}") from error
            return model
        except OptionError as error:
            raise _does_not_make(cls, name, {**kwargs, **(custom_objects or {})}, error) from error
        except (ValueError, ImportError, MemoryError, OSError):
            raise
        except Exception as error:  # of hyperparameters and tensors that do not belong together
            raise _does_not_make(cls, name, {**kwargs, **(custom_objects or {})}, error) from error

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3; a file's tensors are read, nothing else of it."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = ModelFile(load_path_or_dict).parameters(self.device if device == "auto" else device)
        super().set_parameters(checked_parameters(self, load_path_or_dict), exact_match, device)

    # --- the buffer ---

    dataset: Any

    def save_replay_buffer(self, path: FilePath) -> None:
        """
        Write the logged data, and what was collected online, as an npz file that ``dataset=`` takes; never a pickle.

        :param path: the file, ``.npz`` if it has no suffix or ``.pkl``, or a stream
        """
        online = self.replay_buffer is not None and hasattr(self.replay_buffer, "timeouts")
        source = self.replay_buffer if online else self.load_dataset()  # type: ignore[attr-defined]
        data = open_dataset(source, observation_space=self.observation_space, action_space=self.action_space).load()
        arrays = {name: getattr(data, name) for name in ARRAY_NAMES}
        if isinstance(self.replay_buffer, OfflineOnlineBuffer) and self.replay_buffer.n_online > 0:
            arrays["truncations"] = arrays["truncations"].copy()
            arrays["truncations"][-1] |= not arrays["terminations"][-1]  # online rows do not follow the data's last
            arrays = {name: np.concatenate([arrays[name], rows]) for name, rows in self.replay_buffer.online_rows().items()}
        if isinstance(path, (str, pathlib.Path)) and str(path).endswith(".pkl"):  # CheckpointCallback's name for it
            path = pathlib.Path(path).with_suffix(".npz")
        if isinstance(path, (str, pathlib.Path)):
            file = pathlib.Path(path) if pathlib.Path(path).suffix else pathlib.Path(f"{path}.npz")
            write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))
        else:
            np.savez_compressed(open_path(path, "w"), **arrays)

    def load_replay_buffer(self, path: FilePath, truncate_last_traj: bool = True, *, trust: bool = False) -> None:
        """
        Take a file as the data of the next ``learn``: one of :meth:`save_replay_buffer`, or any that ``dataset=`` takes.

        :param path: the file; where there is none, and the name has no suffix or ``.pkl``, the ``.npz`` that was saved for it
        :param trust: also read SB3's replay buffers, which are pickled: only those whose writer you trust
        :raises ValueError: if it is no data file, or pickled
        """
        file = pathlib.Path(path) if isinstance(path, (str, pathlib.Path)) else None
        if file is not None and file.suffix in ("", ".pkl") and not file.exists():
            written = file.with_suffix(".npz")
            path = file = written if written.exists() else file
        if file is not None and (file.is_dir() or file.suffix in (".npz", ".hdf5", ".h5")):
            open_dataset(str(path), observation_space=self.observation_space, action_space=self.action_space)
            self.dataset = str(path)
        elif is_trusted(trust):
            super().load_replay_buffer(path, truncate_last_traj)
            self.dataset = self.replay_buffer
        else:
            raise FileRefused(
                f"{name_of(path)} is no .npz or .hdf5 file. SB3's replay buffers are pickled, and reading one can run "
                "any code. If you trust who wrote it, say trust=True."
            )


def _does_not_make(cls: type, name: str, given: dict[str, Any], error: Exception) -> FileRefused:
    """
    :param name: of the file
    :param given: the hyperparameters in place of the file's
    :param error: what came of them
    """
    cause = error.__context__ or error
    what = " ".join(str(cause).split())[:300]
    changes = f" with the given {', '.join(sorted(given))}" if given else ""
    return FileRefused(f"{name} does not make a {cls.__name__}{changes}: {type(cause).__name__}: {what}")
