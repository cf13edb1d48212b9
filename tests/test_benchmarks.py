"""The runner of benchmarks: its grid, its files, and what is read from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data_size import curves, draw
from benchmarks.run import Run, main
from benchmarks.table import read
from sb3_offline import load_dataset

DATA = "sb3_offline/Pendulum-medium-v0"


def test_file_names_tell_the_cells_apart() -> None:
    assert Run("combo", DATA, 1.0, 2).file_name == "combo_sb3_offline.Pendulum-medium-v0_seed2.jsonl"
    assert Run("combo", "data/hopper.hdf5", 0.1, 0).file_name == "combo_hopper_10percent_seed0.jsonl"


def test_fractions_of_the_data(tmp_path: Path) -> None:
    """Two shares, one seed, three steps: the configuration and the data's return are those of the drawn episodes."""
    options = ["--option", 'policy_kwargs={"net_arch": [8]}', "--option", "batch_size=8", "--steps", "3", "--eval-every", "1"]
    main(
        [
            "--algos",
            "cql",
            "--datasets",
            DATA,
            "--fractions",
            "0.02",
            "0.05",
            "--episodes",
            "1",
            *options,
            "--out",
            str(tmp_path),
        ]
    )
    data = load_dataset(DATA)
    runs = {run["fraction"]: run for run in read(tmp_path)}
    assert sorted(runs) == [0.02, 0.05]
    for fraction, run in runs.items():
        part = data.sample_episodes(fraction, run["seed"])
        assert run["transitions"] == len(part) == pytest.approx(fraction * len(data), abs=199)  # episodes of 200 steps
        assert run["data_mean_return"] == pytest.approx(part.episode_returns().mean())
    first = tmp_path / Run("cql", DATA, 0.02, 0).file_name
    before = first.read_text()
    main(["--algos", "cql", "--datasets", DATA, "--fractions", "0.02", *options, "--out", str(tmp_path)])
    assert first.read_text() == before  # finished: not run again, or its timings would differ


def test_curves_of_scores(tmp_path: Path) -> None:
    runs = [
        {"algo": "combo", "fraction": 0.1, "transitions": 3000, "normalized_mean_last_5": 40.0, "mean_last_5": -700.0},
        {"algo": "combo", "fraction": 0.1, "transitions": 3200, "normalized_mean_last_5": 60.0, "mean_last_5": -600.0},
        {"algo": "dromo", "fraction": 1.0, "transitions": 30000, "normalized_mean_last_5": None, "mean_last_5": -130.0},
    ]
    found = curves(json.loads(json.dumps(runs)))
    assert found["combo"][0.1] == [(3000, 40.0), (3200, 60.0)]
    assert found["dromo"][1.0] == [(30000, -130.0)]
    pytest.importorskip("matplotlib")
    draw(found, tmp_path / "figure.png")
    from matplotlib import image

    pixels = image.imread(tmp_path / "figure.png")
    assert np.ptp(pixels[..., 0]) > 0.5  # something is drawn
