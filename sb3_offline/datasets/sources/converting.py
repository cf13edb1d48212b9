"""Any source as a memory-mapped folder: block by block, and on from where an earlier run was interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources.folder import MappedWriter
from sb3_offline.datasets.sources.opening import DatasetSource
from sb3_offline.files.atomic import named_target, put_in_place


def stream_to_folder(
    source: DatasetSource,
    target: Path,
    info: DatasetInfo,
    origin: str,
    change: Callable[[OfflineDataset], OfflineDataset] | None = None,
    advance: Callable[[int], object] | None = None,
) -> int:
    """
    Write all rows of a source. Until all are written they lie in ``<target>.partial``; an interruption leaves it, and the next
    call with the same ``origin`` reads past the rows that are in it. What is at the target is replaced.

    :param info: what the folder says about itself
    :param origin: tells the source and its options apart from others
    :param change: what is done to each block
    :param advance: called with the number of rows done
    :return: the number of rows
    :raises DatasetError: naming the key, the row and the remedy
    """
    partial = target.with_name(f"{target.name}.partial")
    with named_target(target):
        dropped, reading = 0, None
        with MappedWriter(partial, info, origin) as writer:
            read = 0
            for block in source.blocks(partial):
                n_dropped = block.info.card.get("dropped_rows", 0)
                dropped += int(str(n_dropped).partition(":")[0])
                new = block if change is None else change(block)
                fresh = slice(max(writer.n_rows - read, 0), None)
                if fresh.start < len(block):
                    writer.append(new.arrays(fresh))
                    writer.checkpoint()
                read += len(block)
                if advance is not None:
                    advance(read)
                reading = block.info.card.get("reading", reading)
            found = {"reading": reading} if reading else {}
            if dropped:
                found["dropped_rows"] = f"{dropped}: the last of each cut episode"
            writer.info = replace(writer.info, card={**writer.info.card, **found})
        put_in_place(partial, target)
        if partial.is_dir():  # what was at the target
            shutil.rmtree(partial)
    return writer.n_rows
