"""What the scripts that make the packaged data sets share: their command line, the facts of a card, and the files."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

Made = dict[str, tuple[OfflineDataset, dict[str, Any]]]  # data sets with their cards, by name

FOLDER = Path(__file__).parent.parent / "sb3_offline" / "datasets" / "builtin"


def origin(script: str, seed: int) -> dict[str, Any]:
    """How a data set came about."""
    return {
        "made_by": f"scripts/{script}",
        "command": f"OMP_NUM_THREADS=1 python scripts/{script} --seed {seed}",
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__,
            "gymnasium": gym.__version__,
            "numpy": np.__version__,
        },
    }


def figures(dataset: OfflineDataset, random: float, expert: float) -> dict[str, Any]:
    """What the data hold; scores are 0 at the return ``random`` and 100 at ``expert``."""
    mean = float(dataset.episode_returns().mean())
    return {
        "transitions": len(dataset),
        "mean_return": mean,
        "mean_normalized_score": 100 * (mean - random) / (expert - random),
        "fingerprint": dataset.fingerprint(),
    }


def write_or_check(make: Callable[[int], Made], description: str | None) -> None:
    """The command line of a script: write the files, or compare with them."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the npz files")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)  # the order of sums, and so the last digits, depend on it
    for name, (dataset, card) in make(options.seed).items():
        print(name, {key: card[key] for key in ("transitions", "mean_return", "mean_normalized_score", "fingerprint")})
        path = options.out / f"{name}.npz"
        if not options.check:
            _write(path, dataset, card)
            print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
        elif load_dataset(path).fingerprint() != dataset.fingerprint():
            raise SystemExit(f"{path} differs: other versions, or another processor, give other last digits.")
        else:
            print(f"{path} holds the same arrays")


def _write(path: Path, dataset: OfflineDataset, card: dict[str, Any]) -> None:
    """The arrays and the card, in place at once or not at all."""
    stream = io.BytesIO()
    arrays = {name: getattr(dataset, name) for name in ARRAY_NAMES if name != "valid_next"}
    np.savez_compressed(stream, metadata=np.array(json.dumps(card)), **arrays)
    partial = path.with_suffix(".partial")
    partial.write_bytes(stream.getvalue())
    partial.replace(path)
