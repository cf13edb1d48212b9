"""Minari data sets: written beside the store, by a process of their own, and moved into it when they are whole."""

from __future__ import annotations

import errno
import inspect
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.parts import flat_rows
from sb3_offline.files.atomic import draft_of

_STORE = "MINARI_DATASETS_PATH"


def write_minari(dataset: OfflineDataset, target: str, facts: Mapping[str, Any]) -> None:
    """
    Put a data set into the local store; what is there under this id is replaced.

    :param target: its id
    :param facts: about how the data were made
    :raises OSError: if it cannot be written; the store is then as it was
    :raises ValueError: for a key of observations that Minari would take for a path
    """
    import_minari(target)
    paths = [key for key in dataset.observations.dtype.names or () if "/" in key]
    if paths:
        raise ValueError(f"{target}: Minari takes the key {paths[0]!r} for a path. Rename it, or write another format.")
    from minari.storage.datasets_root_dir import get_dataset_path

    store, place = Path(get_dataset_path("")), Path(get_dataset_path(target))
    with draft_of(place) as draft:
        _apart(lambda: _create(dataset, target, facts, draft))
        for namespace in draft.rglob("namespace_metadata.json"):
            known = store / namespace.relative_to(draft)
            if not known.exists():
                shutil.copy(namespace, known)
        written = draft.with_name("written")
        (draft / target).replace(written)
        shutil.rmtree(draft)
        written.replace(draft)


def _create(dataset: OfflineDataset, target: str, facts: Mapping[str, Any], store: Path) -> None:
    import minari

    os.environ[_STORE] = str(store)
    info = dataset.info
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of facts that are not known
        minari.create_dataset_from_buffers(
            target,
            _episodes(dataset),
            env=info.env_spec,
            eval_env=info.env_spec,
            observation_space=info.observation_space,
            action_space=info.action_space,
            algorithm_name=str(facts.get("algorithm", facts.get("algorithm_name", "unknown"))),
            author=str(facts.get("author", "unknown")),
            author_email=str(facts.get("author_email", "unknown")),
            code_permalink=str(facts.get("code_permalink", "unknown")),
            ref_min_score=info.reference_min_score,
            ref_max_score=info.reference_max_score,
            description=str(facts.get("description", f"written by sb3-offline from {info.dataset_id}")),
            **_exactly(minari.create_dataset_from_buffers),
        )
    for file in store.rglob("*.hdf5"):
        _add_checksums(file)


def _add_checksums(file: Path) -> None:
    """Minari writes none, and a flipped bit would be read as another number: arrays get checksums, and headers."""
    checked = file.with_suffix(".checked")
    with h5py.File(file, "r") as plain, h5py.File(checked, "w", libver=("v110", "latest")) as written:
        _copy(plain, written)
    checked.replace(file)


def _copy(source: h5py.Group, target: h5py.Group) -> None:
    target.attrs.update(source.attrs)
    for key, item in source.items():
        if isinstance(item, h5py.Group):
            _copy(item, target.create_group(key))
        else:
            options = {"fletcher32": True, "compression": item.compression} if item.shape and item.size else {}
            target.create_dataset(key, data=item[()], dtype=item.dtype, **options).attrs.update(item.attrs)


def _exactly(create: Callable[..., Any]) -> dict[str, bool]:
    """Images to the bit; Minari would make JPEG of them, and did not in its older versions."""
    return {"jpeg_encoding": False} if "jpeg_encoding" in inspect.signature(create).parameters else {}


def _apart(work: Callable[[], None]) -> None:
    """
    Do it in a process of its own, which HDF5 may crash: it does so when it cannot write what it still holds.

    :raises OSError: if it crashed
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        before = os.environ.get(_STORE)
        try:
            work()
        finally:
            os.environ.pop(_STORE, None)
            if before is not None:
                os.environ[_STORE] = before
        return
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for what HDF5 says of objects that it could not close
        try:
            work()
        except Exception as error:
            theirs.send((type(error).__name__, getattr(error, "errno", None), str(error)))
        else:
            theirs.send(None)
        theirs.close()
        os._exit(0)  # HDF5 would flush once more, and crash

    process = context.Process(target=run)
    process.start()
    theirs.close()
    try:
        failure = ours.recv()
    except EOFError:
        failure = ("crash", errno.ENOSPC, os.strerror(errno.ENOSPC))
    process.join()
    if failure is not None:
        kind, number, text = failure
        if number == errno.ENOSPC or "No space left" in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(number or errno.EIO, f"{kind}: {text}")


def _episodes(dataset: OfflineDataset) -> list[Any]:
    """
    Minari's episodes, of T + 1 observations. Where the next observation of a row is not the observation of the following
    one (a row in between was dropped), Minari's format needs a cut.
    """
    from minari.data_collector import EpisodeBuffer

    ends = dataset.terminations | dataset.truncations
    ends[-1] = True
    follows = np.all(flat_rows(dataset.next_observations[:-1]) == flat_rows(dataset.observations[1:]), axis=1)
    if dataset.action_masks is not None and dataset.next_action_masks is not None:
        follows &= np.all(dataset.next_action_masks[:-1] == dataset.action_masks[1:], axis=1)
    ends[:-1] |= ~follows
    episodes: list[Any] = []
    start = 0
    for end in (np.flatnonzero(ends) + 1).tolist():
        rows = slice(start, end)
        observations: Any = np.concatenate([dataset.observations[rows], dataset.next_observations[end - 1 : end]])
        if observations.dtype.names is not None:
            observations = {key: observations[key] for key in observations.dtype.names}
        truncations = dataset.truncations[rows].copy()
        truncations[-1] = not dataset.terminations[end - 1]
        episodes.append(
            EpisodeBuffer(
                id=len(episodes),
                observations=observations,
                actions=dataset.actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminations[rows],
                truncations=truncations,
                infos=_infos(dataset, rows),
            )
        )
        start = end
    return episodes


def _infos(dataset: OfflineDataset, rows: slice) -> dict[str, np.ndarray]:
    """What Minari's reader here takes from infos, of T + 1 entries each."""
    infos: dict[str, np.ndarray] = {}
    if dataset.action_masks is not None and dataset.next_action_masks is not None:
        last = dataset.next_action_masks[rows][-1:]
        infos["action_masks"] = np.concatenate([dataset.action_masks[rows], last])
    if not dataset.valid_next[:].all():
        infos["valid_next"] = np.append(dataset.valid_next[rows], True)
    return infos


def import_minari(target: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError(
            f'{target!r} is no .npz or .hdf5 file, and writing to Minari needs Minari: pip install "sb3-offline[minari]".'
        ) from error
    return minari
