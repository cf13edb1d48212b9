"""Models on disk: SB3's zip file, whose hyperparameters are also there as JSON, so that loading it never unpickles."""

from __future__ import annotations

import io
import json
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_offline._version import __version__
from sb3_offline.arguments import OptionError, check_count, check_flag, check_names
from sb3_offline.buffers.statistics import check_statistics
from sb3_offline.common.data_backed import carries_data, check_env, keep_statistics, match_normalization, open_id, open_source
from sb3_offline.common.policy_options import check_policy_kwargs, whole_policy_kwargs
from sb3_offline.common.signature import NO_OPTIONS, arguments_of_sb3, check_device
from sb3_offline.common.sizes import check_rows
from sb3_offline.datasets.bounds import with_bounds
from sb3_offline.execution import ranks
from sb3_offline.files.archives import BoundedNetworks, FileRefused
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.encoding import NotPlain, encode
from sb3_offline.files.model_file import FORMAT, HEADER, PICKLED, PLAIN, FilePath, ModelFile, name_of
from sb3_offline.files.parameters import checked_parameters
from sb3_offline.files.refusal import Misfit, OtherParts
from sb3_offline.files.trust import is_trusted
from sb3_offline.training.health import TrainingDivergedError, non_finite_parameter

#: ``custom_objects`` that RL-Zoo gives for any algorithm
_OF_ZOOS = frozenset({"lr_schedule", "clip_range"})


def zip_path(path: str | pathlib.Path) -> pathlib.Path:
    """
    Where a model is saved: ``.zip`` is added to a name without a suffix.

    :raises ValueError: for a path that ends in no name
    """
    named = pathlib.Path(path)
    if not named.name:
        raise ValueError(f"save({str(path)!r}): give the file's name, such as 'model'.")
    return named if named.suffix else named.with_name(f"{named.name}.zip")


def save(model: Any, path: FilePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
    """
    As SB3's, but written whole or not at all; the file is SB3's own, and its tools can read it. While ``learn`` runs, a
    ``.resume`` file follows at the end of the gradient step, from which ``resume`` goes on exactly; a folder keeps a run's
    last two. Of several processes that train one model (torchrun) the first one saves, and the others do nothing here.

    Warns of hyperparameters that are not plain data (a schedule or a policy class of your own): ``load`` will need them
    by ``custom_objects``.

    :param path: the file, ``.zip`` if it has no suffix, or a stream
    :param exclude: attributes to leave out, besides those that always are
    :param include: attributes to write that would be left out
    :raises TrainingDivergedError: if the model holds NaN or infinite numbers; no file is touched.
    :raises OSError: if the file cannot be written; what was there before stays.
    """
    exclude, include = check_names("exclude", exclude), check_names("include", include)
    if not ranks.is_first():
        return
    if model._run is not None:
        model._run.check_health()
    parameter = non_finite_parameter(model)
    if parameter is not None:
        raise TrainingDivergedError(f"Not saved: the parameter {parameter} holds NaN or infinite numbers.")
    keep_statistics(model)
    _write(model, path, exclude, include)
    if model._run is not None and isinstance(path, (str, pathlib.Path)):
        model._run.saved(zip_path(path))


def _write(model: Any, path: FilePath, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
    written = io.BytesIO()
    OffPolicyAlgorithm.save(model, written, exclude, include)
    with zipfile.ZipFile(written) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    data = json.loads(members["data"])
    for key, item in data.items():
        if isinstance(item, dict) and PICKLED in item:
            try:
                item[PLAIN] = encode(vars(model)[key], key)
            except NotPlain as error:
                warnings.warn(
                    f"{error}, which is not plain data. {type(model).__name__}.load will not unpickle it: give it "
                    f"again by custom_objects={{{key!r}: ...}}, or say trust=True.",
                    stacklevel=3,  # above OfflineAlgorithm's own save
                )
    members["data"] = json.dumps(data, indent=4).encode()
    header = {"format": FORMAT, "class": type(model).__name__, "version": __version__, "members": [*members]}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(HEADER, json.dumps(header))
        for name, content in members.items():
            archive.writestr(name, content)
    if isinstance(path, (str, pathlib.Path)):
        write_atomically(zip_path(path), lambda file: file.write(whole.getbuffer()))
    else:
        open_path(path, "w").write(whole.getbuffer())


def load(
    cls: Any,
    path: FilePath,
    env: GymEnv | str | None,
    device: th.device | str,
    custom_objects: dict[str, Any] | None,
    print_system_info: bool,
    force_reset: bool,
    trust: bool,
    kwargs: dict[str, Any],
) -> Any:
    """See :meth:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm.load`."""
    _check_custom_objects(custom_objects)
    check_device(device)
    check_flag("print_system_info", print_system_info)
    check_flag("force_reset", force_reset)
    if env is not None and not isinstance(env, str):
        check_env(env)
    file, name = ModelFile(path), name_of(path)
    given = {name: value for name, value in kwargs.items() if name != "policy_kwargs"} | (custom_objects or {})
    header = file.header()
    if header is not None:
        file.check(header, cls.__name__)
        given = file.hyperparameters(cls, given, is_trusted(trust))
        try:
            given = cls.upgraded(given)
        except ValueError as error:
            raise FileRefused(f"{name}: {error}") from error
        if (custom_objects or {}).get("policy_kwargs") is not None and isinstance(given.get("policy_class"), type):
            given["policy_kwargs"] = whole_policy_kwargs(cls, given["policy_class"], given["policy_kwargs"])
        sb3s = arguments_of_sb3(cls)  # which a file holds for SB3's own load
        unnamed = {key: value for key, value in (custom_objects or {}).items() if key not in given and key not in _OF_ZOOS}
        cls.check_arguments(unnamed | {key: value for key, value in kwargs.items() if key not in given or key in sb3s})
        kwargs = unnamed | kwargs
    elif not is_trusted(trust):
        raise FileRefused(
            f"{name} is pickled: it was saved by an older sb3_offline, or is another library's. Loading it can run any "
            f"code. If you trust who wrote it: {cls.__name__}.load(path, trust=True), then save it again."
        )
    tensors = file.tensors()
    if env is not None and not isinstance(env, str) and carries_data(env):
        kwargs = {"dataset": None} | kwargs
    if isinstance(env, str):
        opened: tuple[gym.Env, dict[str, Any]] = open_id(cls, env)
        env, kwargs = opened[0], opened[1] | kwargs
    own = {**kwargs, **(custom_objects or {})}
    if "policy_kwargs" in kwargs and "policy_kwargs" in given:
        _check_same_policy(cls, name, check_policy_kwargs(kwargs.pop("policy_kwargs")), given["policy_kwargs"] or {})
    bounded: Any = env if env is None else with_bounds(env, given.get("action_space"))
    try:  # SB3 takes what `given` holds and unpickles the rest, so nothing
        with BoundedNetworks(tensors, name):
            content = file.without_variables()
            model: Any = OffPolicyAlgorithm.load.__func__(  # type: ignore[attr-defined]
                cls, content, bounded, device, given, print_system_info, force_reset, **kwargs
            )
        file.restore_variables(model, tensors, own)
        try:
            model.check_loaded()
        except (ValueError, TypeError) as error:
            raise FileRefused(f"{name}: {error}") from error
        if not is_trusted(trust):
            check_rows(model, name, own)
        if own.get("dataset") is not None:
            open_source(model, own["dataset"])
        return model
    except (OptionError, Misfit) as error:
        raise _does_not_make(cls, name, own, error) from error
    except (ValueError, ImportError, MemoryError, OSError):
        raise
    except Exception as error:  # of hyperparameters and tensors that do not belong together
        raise _does_not_make(cls, name, own, error) from error


def read_parameters(model: Any, load_path_or_dict: Any, exact_match: bool, device: th.device | str) -> TensorDict:
    """What SB3's ``set_parameters`` takes; a file's tensors are read, nothing else of it."""
    if not isinstance(load_path_or_dict, dict):
        load_path_or_dict = ModelFile(load_path_or_dict).parameters(model.device if device == "auto" else device)
    return checked_parameters(model, load_path_or_dict, whole=exact_match)


def check_loaded(model: Any) -> None:
    """:raises ValueError: if a file, or ``load``'s arguments, bring what ``set_env`` refuses"""
    for name in ("num_timesteps", "_n_updates"):
        check_count(name, getattr(model, name), least=0)
    if model.observation_statistics is not None:
        check_statistics(model.observation_statistics, model.observation_space.shape or ())
    if model.env is not None:
        match_normalization(model, model._vec_normalize_env)


def _check_custom_objects(custom_objects: object) -> None:
    """
    :raises ValueError: if they are no dict by names, or ``policy_kwargs`` cannot be
    :raises TypeError: for ``policy_kwargs`` of the wrong kind
    """
    if custom_objects is None:
        return
    if not isinstance(custom_objects, dict) or not all(isinstance(key, str) for key in custom_objects):
        raise ValueError("custom_objects must be a dict of hyperparameters by name, or None.")
    check_policy_kwargs(custom_objects.get("policy_kwargs"))


def _check_same_policy(cls: type, name: str, given: dict[str, Any], saved: dict[str, Any]) -> None:
    """:raises FileRefused: if ``load`` is given other ``policy_kwargs`` than the file's, to which a class adds its own"""
    other = sorted(key for key, value in given.items() if key not in saved or saved[key] != value)
    if other:
        raise FileRefused(
            f"{name} was saved with policy_kwargs={saved!r:.300}, and its networks are of that make: load cannot change "
            f"{', '.join(other)}. Leave policy_kwargs out, or train a new {cls.__name__} with them."
        )


def _does_not_make(cls: type, name: str, given: dict[str, Any], error: Exception) -> FileRefused:
    """
    :param name: of the file
    :param given: the hyperparameters in place of the file's
    :param error: what came of them
    """
    cause = error.__context__ or error
    what = " ".join(str(cause).split())[:300]
    kind = "" if isinstance(cause, FileRefused) else f"{type(cause).__name__}: "
    options = ", ".join(sorted(given.keys() - NO_OPTIONS))
    changes, advice = f" with the given {options}" if options else "", ""
    if options and isinstance(cause, (Misfit, RuntimeError)):
        advice = f" The file's networks belong to its own options: leave {options} out, or train a new {cls.__name__} so."
        if isinstance(cause, OtherParts):
            own = f"{cls.__name__}.load(path).policy.state_dict()"
            advice += f" It can begin with the file's policy: model.policy.load_state_dict({own})."
    return FileRefused(f"{name} does not make a {cls.__name__}{changes}: {kind}{what}{advice}")
