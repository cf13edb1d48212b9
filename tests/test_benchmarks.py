"""The runner of benchmarks: its grid, its files, and what is read from them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from benchmarks import speed_critics, speed_report, time_to_good, two_modes
from benchmarks.data_size import curves, draw
from benchmarks.peers import Peer
from benchmarks.reference_cql import ReferenceCQL, make_reference
from benchmarks.run import Run, main
from benchmarks.speed_updates import count_flops, make_model, random_data
from benchmarks.table import read
from benchmarks.turns import Contender, take_turns
from sb3_offline import CQL, load_dataset
from sb3_offline.studies import single

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


def test_seeds_together_have_the_figures_that_they_have_alone(tmp_path: Path) -> None:
    """A file a seed either way, and the evaluations agree to rounding."""
    small = ["--option", 'policy_kwargs={"net_arch": [8]}', "--option", "batch_size=8", "--steps", "4", "--eval-every", "2"]
    words = ["--algos", "td3bc", "--datasets", DATA, "--seeds", "1,3", "--episodes", "1", "--final-episodes", "2", *small]
    main([*words, "--out", str(tmp_path / "alone")])
    main([*words, "--together", "--out", str(tmp_path / "together")])
    alone, together = (sorted(read(tmp_path / name), key=lambda run: run["seed"]) for name in ("alone", "together"))
    assert [run["seed"] for run in together] == [1, 3]
    for one, other in zip(alone, together, strict=True):
        for name in ("final", "mean_last_5", "best"):
            assert other[name] == pytest.approx(one[name], rel=1e-4)
    assert alone[0]["final"] != pytest.approx(alone[1]["final"], rel=1e-4)


class Stopped(Exception):
    """The process ends here."""


def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes its fourth evaluation of five, after the third's checkpoint: the same figures."""
    words = [
        "--algos",
        "cql",
        "--datasets",
        DATA,
        "--episodes",
        "1",
        "--final-episodes",
        "2",
        "--steps",
        "10",
        "--eval-every",
        "2",
    ]
    words += ["--option", 'policy_kwargs={"net_arch": [8]}', "--option", "batch_size=8"]
    file = Run("cql", DATA, 1.0, 0).file_name

    def figures(folder: Path) -> list[Any]:
        lines = [json.loads(line) for line in (folder / file).read_text().splitlines()][1:]
        timeless = [{name: value for name, value in line.items() if "seconds" not in name} for line in lines[:-1]]
        return [*timeless, {name: value for name, value in lines[-1]["summary"].items() if "seconds" not in name}]

    main([*words, "--out", str(tmp_path / "unbroken")])
    append, written = single.append, []

    def stop_at_the_fourth(path: Path, record: dict[str, Any]) -> None:
        append(path, record)
        written.append(record)
        if len(written) == 4:  # evaluations
            raise Stopped

    monkeypatch.setattr(single, "append", stop_at_the_fourth)
    with pytest.raises(Stopped):
        main([*words, "--out", str(tmp_path / "broken")])
    monkeypatch.setattr(single, "append", append)
    updates, update = [], CQL.update
    monkeypatch.setattr(CQL, "update", lambda model: updates.append(update(model)))
    main([*words, "--out", str(tmp_path / "broken")])
    assert len(updates) == 4  # from step 6 on
    assert [point["step"] for point in figures(tmp_path / "broken")[:-1]] == [2, 4, 6, 8, 10]
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == [file]  # no checkpoint is left behind


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


# --- speed ---


def test_flops_of_an_update_by_hand() -> None:
    """SAC with 8 hidden units, 16 rows of 11+3 dims: an actor has 136 weights, each of the two critics 120."""
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 16}
    model = make_model("OfflineSAC", random_data(2000), "float32", "eager", "cpu", **options)
    actor, critics = 11 * 8 + 8 * 3 + 8 * 3, 2 * (14 * 8 + 8)
    target = actor + critics
    critic_step = critics + critics + 2 * 8  # forward; gradients of the weights, and of the hidden units
    # forward; back to the actions through each row's lesser critic alone; the actor
    actor_step = actor + critics + critics // 2 + actor + 2 * (8 * 3)
    assert count_flops(model.update) == 2 * 16 * (target + critic_step + actor_step)


def test_a_peer_is_asked_and_answers(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, sys\n"
        "print(json.dumps({'torch': '1.0'}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    name, n = line.split()\n"
        "    if name == 'unknown': sys.exit('no such algorithm')\n"
        "    print(json.dumps({'CQL': 0.5, 'SAC': 0.25}[name] * int(n)), flush=True)\n"
    )
    with Peer([sys.executable, str(script)]) as peer:
        assert peer.versions == {"torch": "1.0"}
        assert [peer.seconds("CQL", 4), peer.seconds("SAC", 4), peer.seconds("CQL", 1)] == [2.0, 1.0, 0.5]
        with pytest.raises(RuntimeError, match="no such algorithm"):
            peer.seconds("unknown", 1)
    assert peer.process.poll() is not None


def test_turns_are_taken_and_rollouts_spread() -> None:
    """Ten milliseconds an update and 5 s of rollouts in 1000 updates: 1 / (0.010 + 0.005) updates a second."""
    asked: list[tuple[str, int]] = []

    def contender(name: str, seconds: float) -> Contender:
        def run(n: int) -> float:
            asked.append((name, n))
            return n * seconds

        return Contender(name, "", "CQL", "float32", "eager", run)

    quick, slow = contender("quick", 0.010), contender("slow", 1.0)
    quick.refresh, quick.rollout_freq = lambda: 5.0, 1000
    quick.flops, quick.peak = 6e9, 2e12
    figures = take_turns([quick, slow], repeats=2, block_seconds=2.0, n_updates=None, say=lambda _: None)
    assert asked[4:] == [("quick", 200), ("slow", 3)] * 2  # after two warm-ups each; three updates at the least
    assert [row["per_second"] for row in figures] == pytest.approx([1 / 0.015, 1.0])
    assert figures[0]["floor_seconds"] == pytest.approx(0.003)
    assert figures[1]["floor_seconds"] is None


def test_soft_maximum_of_the_reference() -> None:
    """Q = c everywhere and policy densities e^-0.7 make it c + log((2^3 + 2 e^0.7) / 3): uniform density is 2^-3."""
    data = random_data(2000)
    model: Any = make_reference(ReferenceCQL, data, [8], "cpu")
    for network in model.critic.q_networks:
        for parameter in network.parameters():
            th.nn.init.zeros_(parameter)
    model.critic.q_networks[1][-1].bias.data.fill_(2.0)
    model.actor.action_log_prob = lambda states: (th.zeros(len(states), 3), th.full((len(states),), -0.7))
    batch = model.replay_buffer.sample(16)
    found = [value.item() for value in model.soft_maxima(batch)]
    expected = math.log((2**3 + 2 * math.exp(0.7)) / 3)
    assert found == pytest.approx([expected, expected + 2.0], rel=1e-5)
    rows = (data.observations[:, None] == batch.observations.numpy()[None]).all(axis=-1).argmax(axis=0)
    np.testing.assert_array_equal(data.next_observations[rows], batch.next_observations.numpy())


def record(repeats: int) -> dict[str, Any]:
    def row(name: str, precision: str, per_second: float) -> dict[str, Any]:
        figures = {"per_second": per_second, "update_seconds": 1 / per_second, "floor_seconds": 0.002, "flops": None}
        return {"name": name, "work": "2x256", "peer": "CQL", "precision": precision, "execution": "eager", **figures}

    rows = [row("d3rlpy CQL", "float32", 10.0), row("CQL", "float32", 12.0), row("CQL", "bf16", 19.0)]
    how = {"device": "cpu", "clock": "wall", "repeats": repeats, "peer_versions": {"d3rlpy": "2.8.1"}}
    machine = {"cpu": "some chip", "threads": 2, "gpu": None, "versions": {"torch": "2.13.0"}}
    rows.append(row("OfflineSAC", "float32", 100.0))
    loop = {"seconds_per_step": 0.0004}
    sizes = [{"rows": 10_000_000, "mmap_per_second": 40.0, "memory_per_second": 50.0, "ratio": 0.8}]
    sizes[0]["mmap_memory_mb"] = {"RssAnon": 1200.0, "RssFile": 900.0}  # type: ignore[assignment]
    return {
        "updates": {**how, "machine": machine, "rows": rows, "loop": loop},
        "storage": {**how, "machine": machine, "sizes": sizes},
    }


def test_goals_and_the_page(tmp_path: Path) -> None:
    found = {goal.what: (goal.value, goal.reached) for goal in speed_report.goals(record(5))}
    assert found == {
        "CQL, float32, times d3rlpy CQL": (pytest.approx(1.2), True),
        "CQL, bf16, times d3rlpy CQL": (pytest.approx(1.9), False),  # 2 was asked for
        "learn's loop beside the cheapest update (OfflineSAC), %": (pytest.approx(4.0), False),  # at most 3
        "10 million rows: mapped, times in memory": (0.8, True),
        "10 million rows: RssAnon, MB": (1200.0, False),
    }
    pages = []
    for repeats in (4, 5):
        speed_report.write_page(record(repeats), tmp_path / "table.md")
        pages.append((tmp_path / "table.md").read_text(encoding="utf-8"))
    assert "| CQL (2x256) | float32 | 12.0 | 83.33 | 2.00 | 1.20 (CQL) |  |" in pages[1]
    assert ["A trial" in page for page in pages] == [True, False]
    pytest.importorskip("matplotlib")
    speed_report.draw(record(5), tmp_path / "speed.png")
    from matplotlib import image

    assert np.ptp(image.imread(tmp_path / "speed.png")[..., 0]) > 0.5  # something is drawn


def test_what_critics_cost(tmp_path: Path) -> None:
    speed_critics.main(
        ["--critics", "2", "3", "--repeats", "1", "--updates", "1", "--threads", "1", "--out", f"{tmp_path}/s.json"]
    )
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["work"] for row in rows] == ["2 critics", "3 critics"]
    assert [row["times_the_first"] for row in rows] == [1.0, rows[1]["update_seconds"] / rows[0]["update_seconds"]]


def test_pillars_are_passed_on_either_side_and_not_by_the_mean() -> None:
    """Ten pillars pay 10; straight on is the end; what the data do has two modes, and a mean between them."""
    env = two_modes.Pillars()
    for way, expected in ((0.6, 10.0), (-0.6, 10.0), (0.0, 0.0)):
        observation, total, ended = env.reset(seed=0)[0], 0.0, False
        while not ended:
            observation, reward, hit, cut, _ = env.step(observation + way)
            total, ended = total + reward, hit or cut
        assert total == expected
    data = two_modes.passages(100)
    aside = (data["actions"] - data["observations"]).flatten()
    assert abs(aside.mean()) < 0.1
    assert [0.4 < (np.abs(aside - mode) < 0.1).mean() < 0.55 for mode in (-0.6, 0.6)] == [True, True]
    hits = np.abs(data["actions"] - data["observations"]).flatten() < 0.4
    np.testing.assert_array_equal(data["terminations"], hits)
    np.testing.assert_array_equal(data["rewards"], ~hits)


def test_time_to_a_good_policy() -> None:
    """2,240 is 80% of hopper's goal: reached after 90 and 120 s, median 105; of CQL by one run in three, no median."""

    def run(algo: str, seed: int, returns: list[float], dataset: str = "offline/hopper/medium-replay-v0") -> dict[str, Any]:
        curve = [{"step": 100 * k, "mean_return": value, "seconds": 30.0 * k} for k, value in enumerate(returns, 1)]
        return {"dataset": dataset, "set": "s", "algo": algo, "seed": seed, "curve": curve, "preparation_seconds": 12.0}

    runs = [run("combo", 0, [300, 2239, 2240, 900]), run("combo", 1, [0, 0, 0, 3000])]
    runs += [run("cql", seed, [2500 if seed == 0 else 100]) | {"library": "d3rlpy"} for seed in range(3)]
    runs += [run("combo", 0, [9000], "offline/hopper/expert-v0")]  # there is no goal on these
    hopper = "offline/hopper/medium-replay-v0"
    assert time_to_good.rows(runs, 0.8) == [
        (hopper, "s", "d3rlpy", "cql", "2,240", "1 of 3", "-", "-", "0.2"),
        (hopper, "s", "sb3_offline", "combo", "2,240", "2 of 2", "1.8", "350", "0.2"),
    ]


def test_estimates_are_taken_from_a_file_of_the_same_configuration_only(tmp_path: Path) -> None:
    from benchmarks.ope import figures, known
    from benchmarks.ope_picks import picks
    from benchmarks.run import append, begin, finish

    path, config = tmp_path / "cartpole.jsonl", {"task": "cartpole", "fit_steps": 2000}
    partial = begin(path, "ope", tmp_path, config)
    points = [(10, 1.0, 3.0), (20, 5.0, 2.0), (30, 4.0, 1.0)]  # steps, truth, estimate
    records = [{"policy": f"cql_0_{s}", "estimator": "FQE", "truth": t, "value": v, "low": -v} for s, t, v in points]
    for record in records:
        append(partial, record)
    assert known(path, config) == records
    finish(partial, path, {"figures": {}})
    assert known(path, config) == records
    assert known(path, config | {"fit_steps": 5000}) == []
    assert picks(records) == {"cql_0": {"estimate": 1.0, "lower bound": 4.0, "last": 4.0, "best": 5.0}}
    found = figures(np.array([1.0, 5.0, 4.0]), np.array([3.0, 2.0, 1.0]))
    assert (found["regret_at_1"], found["regret_at_3"]) == (1.0, 0.0)
    assert found["spearman"] == pytest.approx(-0.5)
