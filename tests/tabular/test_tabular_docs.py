"""The code in the theory pages runs and prints what the pages say; the example writes its picture."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_how_do_we_know_runs_and_prints_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how_do_we_know.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec(blocks[0], {})
    printed = capsys.readouterr().out
    numbers = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in printed.splitlines()]
    promised = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in re.findall(r"^# (.*)$", blocks[0], re.MULTILINE)]
    assert np.array(numbers) == pytest.approx(np.array(promised), abs=1e-8)
    exec(blocks[1], {})
    difference, _, by_hand = capsys.readouterr().out.partition("\n")
    assert float(difference) < 1e-8
    assert by_hand.strip() == "[[0.4 1.8]]"


def test_gridworld_maps(tmp_path):
    pytest.importorskip("matplotlib")
    example = runpy.run_path(str(ROOT / "examples" / "gridworld_maps.py"))
    found = example["study"]()
    assert found.starts["true"] < 0.01 < 0.3 < found.starts["model alone"]
    assert max(found.starts[name] for name in ("CQL", "COMBO", "DROMO")) < 0.01
    unseen = (found.counts == 0) & ~np.isin(found.letters.ravel(), ["H", "G"])
    assert np.ptp(found.maps["DROMO"][unseen], axis=1).max() < 1e-9 < np.ptp(found.maps["COMBO"][unseen], axis=1).min()
    example["main"](tmp_path / "maps.png")
    assert 10_000 < (tmp_path / "maps.png").stat().st_size < 200_000
