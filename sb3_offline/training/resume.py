"""
What a run needs to go on as if it had never stopped, beside the portable model: ``NAME.resume``.

The file embeds the portable model and adds the state that only a continuation needs
(:mod:`sb3_offline.training.training_state`). It is a checksummed archive of tensors, numbers and text
(:mod:`sb3_offline.files.checksum`).
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_offline._version import __version__
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.sources import Source
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.checksum import DamagedFileError, read_checked, read_label
from sb3_offline.files.structure import read_json
from sb3_offline.training.rng import Streams
from sb3_offline.training.state_checks import check_about, put_in_place
from sb3_offline.training.tensorboard import hyperparameters
from sb3_offline.training.trained import SelfTrained, Trained
from sb3_offline.training.training_state import to_moments

SUFFIX = ".resume"


class Continuation:
    """
    A checkpoint that is about to be continued by ``learn``.

    :param path: its file
    :raises DamagedFileError: if it is cut off or altered, or not of a run
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = read_checked(path)
        if "about" not in self.state:
            raise DamagedFileError(f"{path} is no checkpoint of a run")
        try:
            self.about: dict[str, Any] = read_json(self.state["about"], str(path))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedFileError(f"{path} is no checkpoint of a run: {error}") from error
        check_about(self.about, self.state, path)

    def check_dataset(self, dataset: OfflineDataset) -> None:
        """
        :raises ValueError: if the run was trained on other data
        """
        if dataset.fingerprint() != self.about["fingerprint"]:
            raise ValueError(
                f"{self.path} was trained on other data: {self.about['dataset']}, {self.about['rows']:,} transitions, "
                f"fingerprint {self.about['fingerprint'][:12]}; given are {dataset.info.dataset_id}, {len(dataset):,}, "
                f"{dataset.fingerprint()[:12]}. Pass the data of that run as dataset=, or train on from the portable .zip "
                "by load()."
            )

    def remaining(self, total_timesteps: int | None) -> int:
        """Gradient steps left of a ``learn(total_timesteps)``; of the one that was interrupted, if not given."""
        end = self.about["total_timesteps"] if total_timesteps is None else self.about["start"] + total_timesteps
        if end < self.about["total_timesteps"]:
            whole, done = (self.about[name] - self.about["start"] for name in ("total_timesteps", "num_timesteps"))
            warnings.warn(
                f"learn({total_timesteps:,}) of a resumed run counts from the interrupted call's start, and ends before its "
                f"{whole:,} steps, of which {done:,} are done: learn() without a number, or learn({whole:,}), finishes it.",
                stacklevel=4,
            )
        return max(end - self.about["num_timesteps"], 0)


def describe(model: Trained, start: int) -> dict[str, Any]:
    """
    What the checkpoint says about its model.

    :param start: ``num_timesteps`` when ``learn`` was called
    """
    return {
        "algorithm": type(model).__name__,
        "options": _options(model),
        "device": str(model.device),
        "normalized": model.get_vec_normalize_env() is not None,
        "num_timesteps": model.num_timesteps,
        "total_timesteps": model._total_timesteps,
        "start": start,
        "machine": _machine(model.device),
    }


def open_checkpoint(
    cls: type[SelfTrained], path: str | Path, env: GymEnv | str | None, dataset: Source | None, **load_options: Any
) -> SelfTrained:
    """See :meth:`OfflineAlgorithm.resume`."""
    continuation = newest_valid(Path(path))
    about, state = continuation.about, continuation.state
    if about["algorithm"] != cls.__name__:
        raise ValueError(f"{continuation.path} is a run of {about['algorithm']}: {about['algorithm']}.resume() continues it.")
    if th.device(about["device"]).type == "cuda" and not th.cuda.is_available():
        raise ValueError(
            f"{continuation.path} ran on {about['device']}, which is not here: its random streams cannot go on. "
            "load() of the portable .zip trains on, but not exactly."
        )
    normalizer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    if about["normalized"] != (normalizer is not None):
        wanted = "with env=VecNormalize(...)" if about["normalized"] else "without VecNormalize"
        raise ValueError(f"{continuation.path} was trained {wanted}: resume it with the same kind of env.")
    portable = io.BytesIO(state["model"].numpy().tobytes())
    try:
        model = cls.load(portable, env=env, device=about["device"], **load_options)
    except FileRefused as error:
        raise FileRefused(f"{continuation.path}: {error} They go to resume() as to load().") from error
    check_options(continuation, model)
    _warn_of_another_machine(continuation, model.device)
    if normalizer is not None and state["normalizer"] is not None:
        moments = state["normalizer"]
        put_in_place(lambda: setattr(normalizer, "obs_rms", to_moments(moments, normalizer.obs_rms)), continuation.path)  # type: ignore[arg-type]
    if dataset is not None:
        model.dataset = dataset
    seed, offset = (state.get("streams", {}).get(name) for name in ("seed", "offset"))
    if not (type(seed) is int and type(offset) is int and min(seed, offset) >= 0):
        raise DamagedFileError(f"{continuation.path} does not hold the random streams of a run")
    model.streams = Streams(seed, model.device, offset=offset)
    model._continuation = continuation
    return model


# --- files ---


def newest_valid(path: Path) -> Continuation:
    """
    The newest checkpoint of a folder that is not damaged; or a file's own: a ``.resume`` file, or the ``.zip`` beside it.

    :raises ValueError: if there is none, or the file that is named is damaged
    """
    if not path.is_dir():
        file = path if path.suffix == SUFFIX else sibling(path)
        if not file.exists():
            raise ValueError(
                f"There is no {file}. A run is continued from the {SUFFIX} file that save() writes while learn() runs "
                "(by CheckpointCallback, for instance); load() reads the portable .zip."
            )
        return Continuation(file)
    candidates = _newest_first(path)
    for file in candidates:
        try:
            return Continuation(file)
        except (DamagedFileError, OSError) as error:
            warnings.warn(f"{error}: it is skipped.", stacklevel=4)
    found = "holds no" if not candidates else f"holds only damaged ({len(candidates)})"
    raise ValueError(
        f"{path} {found} {SUFFIX} files, which save() writes while learn() runs (by CheckpointCallback, for instance). "
        "A run that was stopped earlier starts anew; its fit of the dynamics continues by itself."
    )


def sibling(path: Path) -> Path:
    """``runs/model.zip`` -> ``runs/model.resume``."""
    return path.with_suffix(SUFFIX) if path.suffix == ".zip" else Path(f"{path}{SUFFIX}")


class Label(NamedTuple):
    """What a checkpoint says without being read: a run's 32 hexadecimal digits, its step, and when it was saved, in ms."""

    run: str
    step: int
    moment: int = 0

    @classmethod
    def of(cls, file: Path) -> Label:
        """("", -1, 0) where the beginning of the file is damaged."""
        match = re.fullmatch(r"([0-9a-f]{32}) (\d+)(?: (\d+))?", read_label(file) or "")
        return cls(match[1], int(match[2]), int(match[3] or 0)) if match else cls("", -1)

    def __str__(self) -> str:
        return f"{self.run} {self.step} {self.moment}"


def forget_older(folder: Path, run: str, keep: int = 2) -> None:
    """Delete the run's checkpoints in this folder but those of the last ``keep`` moments at which it saved any."""
    labels = {file: label for file, label in _labels(folder) if label.run == run}
    moments = {file: (label.moment, label.step) for file, label in labels.items()}
    kept = sorted(set(moments.values()))[-keep:]
    for file, moment in moments.items():
        if moment not in kept:
            file.unlink(missing_ok=True)


def checkpoints(folder: Path) -> dict[int, Path]:
    """Those of the newest run in a folder, by their step; whether they are sound is not looked at."""
    files = _newest_first(folder)
    labels = {file: Label.of(file) for file in files}
    return {label.step: file for file, label in labels.items() if label.run == labels[files[0]].run}


def _newest_first(folder: Path) -> list[Path]:
    """Runs by the time of their last file, and their files by what they say, as copying may have changed the times."""
    labels = dict(_labels(folder))
    times = {file: file.stat().st_mtime for file in labels}
    last = {run: max(times[file] for file in labels if labels[file].run == run) for run, *_ in labels.values()}
    return sorted(labels, key=lambda file: (last[labels[file].run], labels[file].moment, labels[file].step), reverse=True)


def _labels(folder: Path) -> Iterator[tuple[Path, Label]]:
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        yield file, Label.of(file)


# --- what must not have changed ---


def _options(model: Trained) -> dict[str, Any]:
    """The constructor's options as JSON has them, which knows no tuples, and no addresses of functions."""

    def text(value: Any) -> str:
        return re.sub(r" at 0x[0-9a-f]+", "", getattr(value, "__name__", None) or str(value))

    options = {name: getattr(model, name) for name in hyperparameters(model)}
    return json.loads(json.dumps(options, default=text, skipkeys=True))


def check_options(continuation: Continuation, model: Trained) -> None:
    """
    :raises ValueError: if custom objects or a newer version have changed an option
    """
    before, now = continuation.about["options"], _options(model)
    changed = [
        f"{name}={now.get(name)} (was {before.get(name)})" for name in before | now if before.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"{continuation.path} was trained with other options: {', '.join(changed)}. A resumed run keeps its options; "
            "load() of the portable .zip takes new ones."
        )


def _machine(device: th.device) -> dict[str, Any]:
    """What decides on the last bit of a float."""
    hardware = th.cuda.get_device_name(device) if device.type == "cuda" else f"{th.get_num_threads()} CPU threads"
    return {"torch": th.__version__, "sb3_offline": __version__, "computed by": hardware}


def _warn_of_another_machine(continuation: Continuation, device: th.device) -> None:
    before, now = continuation.about["machine"], _machine(device)
    changed = [f"{name}: {before.get(name)}, now {now[name]}" for name in now if now[name] != before.get(name)]
    if changed:
        warnings.warn(
            f"{continuation.path} goes on, but its last bits may differ from the uninterrupted run's: {'; '.join(changed)}.",
            stacklevel=4,
        )
