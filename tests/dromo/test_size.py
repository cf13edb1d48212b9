"""DROMO stays a size that one can read: its parents, its options, and what one update goes through."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import sb3_offline
from sb3_offline import DROMO
from tests.conftest import FAST_DROMO

PACKAGE = Path(sb3_offline.__file__).parent
MOST_PARENTS, MOST_OPTIONS, MOST_FILES = 8, 46, 30


def test_parents() -> None:
    ours = [cls.__name__ for cls in DROMO.__mro__ if cls.__module__.partition(".")[0] == "sb3_offline"]
    assert ours[0] == "DROMO"
    assert len(ours) <= MOST_PARENTS, ours


def test_options() -> None:
    options = list(inspect.signature(DROMO).parameters)
    assert {"policy", "env", "dataset", "robust_weight", "seed"} <= {*options}
    assert len(options) <= MOST_OPTIONS, options


def test_one_update_goes_through_few_files(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = DROMO("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST_DROMO).learn(2)
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            entered.add(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(note)
    try:
        model.update()
    finally:
        sys.setprofile(None)
    assert {"dromo/dromo.py", "combo/conservative.py", "common/gradient_algorithm.py"} <= entered
    assert len(entered) <= MOST_FILES, sorted(entered)


def test_the_algorithm_fits_on_a_few_pages() -> None:
    assert len((PACKAGE / "dromo" / "dromo.py").read_text().splitlines()) < 250
