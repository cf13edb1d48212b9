"""The study of the robust term: its small task, its grid, and what its figures say of made-up runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.run import RESULTS
from benchmarks.study import field, figures, inside, trap
from benchmarks.study.figures import rates, sizes_of, verdict
from benchmarks.study.run import PARTS, read_part
from benchmarks.study.together import grouped, run_group
from benchmarks.study.trap_optimum import Grid, mean_return
from sb3_offline import load_dataset
from sb3_offline.registry import find_algorithm
from sb3_offline.shell.study import work_with
from sb3_offline.studies.plan import read_study
from sb3_offline.studies.records import append, is_finished, read_lines, read_runs
from sb3_offline.studies.single import begin_run, run_one
from sb3_offline.studies.statistics import Interval
from sb3_offline.training.resume import sibling

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
    for part, n_runs, n_groups in (("small", 8 * 2 * 10, 8 * 2 * 2), ("size", 2 * 2 * 4 * 5 + 2 * 2 * 5 * 5, 164)):
        cells = read_part(part, tmp_path).cells
        assert len(cells) == len({cell.path for cell in cells}) == n_runs
        seeds = [cell.run.seed for cell in cells]
        assert seeds == sorted(seeds)
        groups = grouped(cells, 5)
        assert len(groups) == n_groups
        assert sorted(cell.path for group in groups for cell in group) == sorted(cell.path for cell in cells)
        blocks = [[cell.run.seed for cell in group] for group in groups]
        if part == "small":
            assert blocks == 16 * [[0, 1, 2, 3, 4]] + 16 * [[5, 6, 7, 8, 9]]
            assert [group[0].path.parent.name for group in groups[:7:2]] == ["small", "std_0.1", "std_1", "std_0.03"]
    assert PARTS == ("locomotion", "small", "size")


def test_every_cell_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a set of options refuses is refused here, not after a day."""
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    seen = set()
    for part in ("small", "size"):
        for cell in read_part(part, tmp_path).cells:
            options = dict(sorted(cell.protocol.options.items()))
            if (cell.run.algo, str(options)) not in seen:
                seen.add((cell.run.algo, str(options)))
                model: Any = find_algorithm(cell.run.algo)("MlpPolicy", dataset=trap.FILE, seed=0, device="cpu", **options)
                assert model.learning_rate(0.0) == 0.0
                assert model.batch_size == 128
    assert len(seen) == 8 + 2


def test_seeds_of_one_process_are_those_of_runs_alone(tmp_path: Path) -> None:
    """Cut off at the second of three evaluations and gone on with; to rounding."""
    path = tmp_path / "trap.yaml"
    text = SMALL.format(file=trap.FILE).replace("seeds: [0]", "seeds: [0, 1]").replace("steps: 3\n", "steps: 9\n")
    path.write_text(text.replace("[dromo, td3bc]", "[td3bc]"))
    cells = read_study(path).cells
    (group,) = grouped(cells, 5)
    assert [cell.run.seed for cell in group] == [0, 1]
    begun = [begin_run(cell.run, cell.protocol, cell.path, load_dataset(trap.FILE)) for cell in cells]
    for one in begun:
        one.model.learn(9, callback=[one.callback, StopAfter()])
    assert not is_finished(cells[0].path)
    run_group(cells[0], 1, {cells[0].path: group})
    assert run_group(cells[0], 1, {cells[0].path: group}) == read_lines(cells[0].path)[-1]["summary"]  # nothing is left
    for cell in cells:
        alone = run_one(cell.run, cell.protocol, tmp_path / "alone" / cell.path.name)
        together = read_lines(cell.path)
        assert [line["step"] for line in together if "step" in line] == [3, 6, 9]
        assert together[-1]["summary"]["final"] == pytest.approx(alone["final"], rel=1e-3)
        assert not sibling(cell.path.with_suffix(".zip")).exists()


def test_verdicts_by_the_plan() -> None:
    assert verdict(Interval(0.7, 0.51, 0.9), 5) == "yes"
    assert verdict(Interval(0.3, 0.1, 0.49), 5) == "no"
    assert verdict(Interval(0.52, 0.41, 0.59), 5) == "no"
    assert verdict(Interval(0.625, 0.375, 0.875), 5).endswith("about 20 seeds would decide it")  # twice as narrow: four times


class StopAfter(BaseCallback):
    """Ends the training at the second evaluation."""

    def _on_step(self) -> bool:
        return self.num_timesteps < 6


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
    for seed in range(5):
        for share in (0.02, 0.1, 0.5):
            made(tmp_path / "size", "dromo", share, seed, 100 - 0.4 / share + 1e-3 * seed)
            made(tmp_path / "size", "combo", share, seed, 100 - 10 / math.sqrt(share) - 1e-3 * seed)
        made(tmp_path / "size", "td3bc", 1, seed, 100)
        made(tmp_path / "small", "combo", 1, seed, 50 + seed, "river")
        made(tmp_path / "small" / "std_0.1", "dromo", 1, seed, 70 + seed, "river")
        made(tmp_path / "small" / "std_1", "dromo", 1, seed, 20 + seed, "river")
    made(tmp_path / "small", "combo", 1, 0, 90, "pond")  # one seed has no interval, and is left out of question 1
    made(tmp_path / "small" / "std_0.1", "dromo", 1, 0, 10, "pond")
    monkeypatch.setattr(figures, "field_runs", lambda: [])
    tenths = [{"ratio": 1.0} for _ in range(10)]
    for name, rank in (("combo", 0.0), ("dromo std_0.1", 0.5)):
        hope = {"value": -1.0, "truth": -3.0, "beats_the_data": True}
        ratios = {"rank_correlation": rank, "median_ratio": 0.9, "collapsed": 0.25, "deciles": tenths}
        append(tmp_path / "inside.jsonl", {"name": name, "dataset": "trap.npz", "seed": 0, **ratios, **hope})
    found = rates(sizes_of(read_runs(tmp_path / "size")), "trap", repeats=50)
    assert found["dromo"].value == pytest.approx(-1.0, abs=0.01)
    assert found["combo"].value == pytest.approx(-0.5, abs=0.01)
    figures.main([str(tmp_path), "--repeats", "200"])
    said = (tmp_path / "answers.md").read_text()
    assert "dromo std_0.1 against combo on 1 tasks: 1.00 (1.00 to 1.00), 5 seeds: yes." in said
    assert "dromo std_1 against combo on 1 tasks: 0.00 (0.00 to 0.00), 5 seeds: no." in said
    assert "dromo std_0.1 on river: 20.0" in said
    assert "the conjecture holds." in said
    assert "- combo on trap: value minus simulated return 2.00 over 1 policies that beat the data." in said
    assert "n(s) 0.50, above 0 on 1 of 1 seeds; median ratio 0.90; collapsed at 25.0% of states" in said
    assert "hopper-medium, 5 runs" in said  # runs whose checkpoints benchmarks.ope has judged
    assert {"sizes.png", "inside.png", "answers.md"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "small" / "report_profiles.png").exists()


def test_spreads_beside_the_rivals() -> None:
    """By hand: spreads that grow with n(s) over equal ones; one state of a hundred has lost its spread."""
    visits = np.arange(1.0, 101.0)
    own = 0.01 * visits + 0.005
    own[0] = 0.001
    found = inside.compared(visits, own, np.ones(100), 0.5)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert found["collapsed"] == 0.01
    assert found["median_ratio"] == pytest.approx(0.51)
    assert len(found["deciles"]) == 10
    assert found["deciles"][9]["n"] == pytest.approx(95.5)
    assert found["deciles"][9]["ratio"] == pytest.approx(0.96)
    assert found["deciles"][9]["radius"] == pytest.approx(0.5 * np.mean(np.arange(91, 101) ** -0.5))


def field_run(algo: str, options: dict[str, Any], scores: tuple[float, ...], **more: Any) -> dict[str, Any]:
    curve = [
        {"step": 10 * n, "mean_return": 32 * score, "normalized_score": score, "seconds": 60.0 * n}
        for n, score in enumerate(scores, start=1)
    ]
    about = {"algo": algo, "dataset": "offline/hopper/medium-replay-v0", "fraction": 1.0, "seed": 0, "steps": 30_000}
    return {**about, "options": options, "set": ".", "normalized_final": scores[-1], "seconds": 240.0, "curve": curve, **more}


def test_the_field_counts_defaults_alone() -> None:
    plain = field_run("td3bc", {}, (1.0,), set="defaults")
    assert field.is_default(plain)
    assert not field.is_default({**plain, "set": "td3bc_as_published"})  # of other defaults
    gradient = {"alpha": 0.15, "normalize_by": "gradient"}  # what options of None come to
    assert field.is_default({**plain, "options": gradient})
    assert not field.is_default(
        {**plain, "options": gradient, "set": "td3bc_gradient"}
    )  # its other options may have been others
    held = "HoldThenDecay(initial=0.0003, final=0.0, hold=0.5)"  # as a run's file has it
    assert field.is_default({**plain, "options": {"tau": 0.02, "learning_rate": held}})
    assert not field.is_default({**plain, "options": {"learning_rate": held.replace("0.5", "0.4")}})
    assert field.is_default({**plain, "algo": "combo", "options": {"gamma": 0.995}, "set": "gamma_995"})
    assert not field.is_default({**plain, "algo": "combo", "options": {"gamma": 0.99}, "set": "gamma_995"})
    assert not field.is_default({**plain, "algo": "mopo", "set": "gamma_995"})
    assert field.is_default({**plain, "algo": "mopo", "options": {"policy_kwargs": {"layer_norm": True}}})
    assert not field.is_default({**plain, "options": {"policy_kwargs": {"layer_norm": False}}})
    assert not field.is_default({**plain, "options": {"alpha": 1.0}})
    assert not field.is_default({**plain, "options": {"alhpa": 2.5}})
    assert not field.is_default({**plain, "steps": 10_000})
    assert not field.is_default({**plain, "dataset": "offline/hopper/expert-v0"})
    assert field.is_default({**plain, "algo": "TD3PlusBC", "library": "d3rlpy==2.8.1", "set": "d3rlpy"})


def test_the_fields_table_shows_gaps() -> None:
    """80% of hopper's goal is 2240: 70 points here, reached by one run in its second minute and by the other never."""
    runs = [field_run("bc", {}, scores, dataset="hopper medium-replay") for scores in ((50.0, 90.0, 80.0), (10.0, 20.0, 30.0))]
    rows = field.table(runs)
    assert rows[1][:3] == ("bc", "hopper medium-replay", "30,000")
    assert rows[1][3:] == ("2", "55.0", "30.0", "80.0", "60.0", "4", "1 of 2", "-")
    assert rows[2][:4] == ("bc", "halfcheetah medium-replay", "-", "-")
    assert len(rows) == 1 + 2 * len(field.ALGORITHMS)
    assert field.shared_names([*runs, {**runs[0], "dataset": "halfcheetah medium-replay"}]) == ["bc"]
    assert field.shared_names(runs) == []


@pytest.mark.slow
def test_looking_into_kept_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMBO beside itself has the ratio 1 everywhere; a run without its rival, and one that has not ended, are passed over."""
    monkeypatch.setattr(inside, "N_EPISODES", 2)
    text = SMALL.format(file=trap.FILE) + "  robust_weight: 0.1\nkeep_models: true\n"
    for algorithm, folder in (("combo", tmp_path / "small"), ("dromo", tmp_path / "small" / "std_0.1")):
        path = tmp_path / f"{algorithm}.yaml"
        path.write_text(text.replace("[dromo, td3bc]", f"[{algorithm}]"))
        (cell,) = read_study(path, folder).cells
        work_with(cell, 1, own=("benchmarks.study.trap",))
    (tmp_path / "small" / "std_0.1" / "dromo_trap_seed1.zip").touch()
    inside.main([str(tmp_path)])
    rival, own = read_lines(tmp_path / "inside.jsonl")
    assert (rival["name"], own["name"], own["seed"]) == ("combo", "dromo std_0.1", 0)
    assert rival["median_ratio"] == 1.0
    assert own["median_ratio"] != 1.0
    assert "radius" in own["deciles"][0]
    assert own["deciles"][0]["n"] < own["deciles"][9]["n"]
    assert math.isfinite(own["value"])
    assert -trap.LOSS * trap.HORIZON < own["truth"] < trap.PRIZE


def test_the_docs_front_page_shows_the_committed_runs() -> None:
    """The table that docs/index.md includes is made of them, and of the whole table's figures."""
    shown = (RESULTS / "study" / "field" / "front_page.md").read_text().splitlines()
    whole = (RESULTS / "study" / "field" / "field.md").read_text()
    rows = field.front_page(field.field_runs())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    assert shown == [lines[0], "|---|---|---|---|---|---|---|", *lines[1:]], "python -m benchmarks.study.field"
    for name, hopper, *_ in rows[1:]:
        score, runs = hopper.rstrip(")").split(" (")
        assert re.search(
            rf"^\| {name.lower()} \| hopper medium-replay \| [0-9,]+ \| {runs} \| {score} \|", whole, re.MULTILINE
        )
    assert "field/front_page.md" in Path("docs/index.md").read_text()
