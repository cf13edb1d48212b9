"""The study of the robust term: its small task, its grid, and what its figures say of made-up runs."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import figures, trap
from benchmarks.study.figures import rates, sizes_of, verdict
from benchmarks.study.run import PARTS, read_part
from benchmarks.study.trap_optimum import Grid, mean_return
from sb3_offline import load_dataset
from sb3_offline.shell.study import work_with
from sb3_offline.studies.plan import read_study
from sb3_offline.studies.records import append
from sb3_offline.studies.statistics import Interval

SMALL = """
algorithms: [dromo, td3bc]
datasets: [{file}]
seeds: [0]
steps: 3
eval_every: 3
episodes: 1
final_episodes: 2
options:
  batch_size: 16
  policy_kwargs: {{net_arch: [8]}}
  device: cpu
  dynamics_kwargs: {{hidden_sizes: [8], n_members: 2, n_elites: 2, max_epochs: 1}}
  dynamics_cache: false
  behavior_kwargs: {{n_steps: 10}}
  rollout_batch_size: 32
"""


def test_the_log_is_what_its_page_says() -> None:
    data, wades = load_dataset(trap.FILE), np.arange(trap.N_EPISODES) % trap.WADE_EVERY == trap.WADE_EVERY // 2
    arrays, losses = trap.log(1, 30)
    n = len(arrays["rewards"])
    assert losses == 0
    np.testing.assert_array_equal(data.rewards[:n], arrays["rewards"].astype(np.float32))
    returns, rows = data.episode_returns(), np.repeat(np.arange(data.n_episodes), data.episode_lengths())
    assert wades.sum() == 4
    assert data.rewards[wades[rows]].min() > -trap.LOSS / 2  # the mean of the waders shows nothing
    assert returns[wades].mean() > returns[~wades].mean() + 4


def test_a_step_costs_and_the_water_takes() -> None:
    """By hand: 0.4 a step; 90 in 5 of 100 steps in the water; 10 at the goal."""
    env = trap.Trap()
    env.reset(seed=0)
    rewards = []
    for place in ([0.0, 0.5], [0.0, 1.2], [0.9, 0.1]):
        steps = []
        for _ in range(4000):
            env.place = np.array(place)
            steps.append(env.step(np.zeros(2)))
        rewards.append(np.mean([step[1] for step in steps]))
        assert {step[2] for step in steps} == {place[0] > 0.8}
    assert rewards == [pytest.approx(-0.4 - 4.5, abs=1.0), pytest.approx(-0.4, abs=0.02), pytest.approx(9.6, abs=0.02)]
    env.place = trap.START.copy()
    following, *_ = env.step(np.array([1.0, 1.0]))  # of length 1 after all
    assert following - trap.START == pytest.approx([0.0707, 0.0707], abs=0.08)


def test_the_optimum_is_what_its_policy_earns() -> None:
    """On a coarse grid; the value of the policy played lies where the backed-up value does, which interpolation lowers."""
    grid = Grid(spacing=0.1, n_directions=8)
    act = grid.policy()
    mean, error = mean_return(lambda observation, step, _: act(observation, step), 30, seed=1)
    assert grid.optimum() - 4 * error < mean < load_dataset(trap.FILE).info.reference_max_score + 4 * error  # type: ignore[operator]
    assert grid.optimum() == pytest.approx(-0.34, abs=1.5)


@pytest.mark.slow
def test_algorithms_train_on_the_trap(tmp_path: Path) -> None:
    path = tmp_path / "trap.yaml"
    path.write_text(SMALL.format(file=trap.FILE))
    for cell in read_study(path).cells:
        summary = work_with(cell, 1, own=("benchmarks.study.trap",))
        assert math.isfinite(summary["normalized_final"])


def test_seeds_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    for part, n_runs in (("small", 8 * 2 * 10), ("size", 4 * 2 * 5 * 5)):
        cells = read_part(part, tmp_path).cells
        assert len(cells) == len({cell.path for cell in cells}) == n_runs
        seeds = [cell.run.seed for cell in cells]
        assert seeds == sorted(seeds)
    assert PARTS == ("locomotion", "small", "size")


def test_verdicts_by_the_plan() -> None:
    assert verdict(Interval(0.7, 0.51, 0.9), 5) == "yes"
    assert verdict(Interval(0.3, 0.1, 0.49), 5) == "no"
    assert verdict(Interval(0.52, 0.41, 0.59), 5) == "no"
    assert verdict(Interval(0.625, 0.375, 0.875), 5).endswith("about 20 seeds would decide it")  # twice as narrow: four times


def made(folder: Path, algo: str, share: float, seed: int, score: float, of: str = "trap") -> None:
    path = folder / f"{algo}_{of}_{share}_{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"algo": algo, "dataset": f"{of}.npz", "fraction": share, "seed": seed, "transitions": round(10_000 * share)}
    append(path, {"config": config})
    append(path, {"step": 10, "mean_return": score, "normalized_score": score})
    both = {name: score for name in ("final", "normalized_final", "mean_last_5", "normalized_mean_last_5")}
    append(path, {"summary": {**both, "data_mean_return": 0.0, "normalized_data_mean_return": 0.0, "seconds": 1.0}})


def test_answers_of_made_up_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DROMO's gap to the best falls as 1/n and COMBO's as n^-1/2, and its scores are better throughout: yes."""
    monkeypatch.setattr(figures, "REPEATS", 200)
    monkeypatch.setattr(figures, "where", functools.partial(figures.where, repeats=200))
    monkeypatch.setattr(figures, "helps", functools.partial(figures.helps, repeats=200))
    for seed in range(5):
        for share in (0.02, 0.1, 0.5):
            made(tmp_path / "size", "dromo", share, seed, 100 - 0.4 / share + 1e-3 * seed)
            made(tmp_path / "size", "combo", share, seed, 100 - 10 / math.sqrt(share) - 1e-3 * seed)
        made(tmp_path / "size", "td3bc", 1, seed, 100)
        made(tmp_path / "small", "combo", 1, seed, 50 + seed)
        made(tmp_path / "small" / "std_0.1", "dromo", 1, seed, 70 + seed)
        made(tmp_path / "small" / "std_1", "dromo", 1, seed, 20 + seed)
    from sb3_offline.studies.records import read_runs

    found = rates(sizes_of(read_runs(tmp_path / "size")), "trap", repeats=50)
    assert found["dromo"].value == pytest.approx(-1.0, abs=0.01)
    assert found["combo"].value == pytest.approx(-0.5, abs=0.01)
    figures.main([str(tmp_path)])
    said = (tmp_path / "answers.md").read_text()
    assert "dromo std_0.1 against combo on 1 tasks: 1.00 (1.00 to 1.00), 5 seeds: yes." in said
    assert "dromo std_1 against combo on 1 tasks: 0.00 (0.00 to 0.00), 5 seeds: no." in said
    assert "dromo std_0.1 on trap: 20.0" in said
    assert "the conjecture holds." in said
    assert {"sizes.png", "answers.md"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "small" / "report_profiles.png").exists()
