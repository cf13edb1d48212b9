"""What a study's report says: statistics by hand, and every figure that is shown from the runs' own files."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from sb3_offline.commands import printable
from sb3_offline.files.page import figures_table
from sb3_offline.studies.figures import line_of
from sb3_offline.studies.records import append
from sb3_offline.studies.report import rows, sentences, to_html, to_markdown, write_report
from sb3_offline.studies.results import read_results
from sb3_offline.studies.statistics import bootstrap, interquartile_mean, probability_of_improvement, profile


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([np.array([0.0, 1, 2, 3]), np.array([4.0, 5, 6, 700])]) == 3.5  # of 2, 3, 4, 5
    assert interquartile_mean([np.array([7.0])]) == 7.0
    runs = np.random.default_rng(0).normal(size=23)
    assert interquartile_mean([runs]) == pytest.approx(stats.trim_mean(runs, 0.25))  # rliable's call


def test_probability_of_improvement_by_hand() -> None:
    one, two = [np.array([3.0, 1.0])], [np.array([2.0, 0.0])]
    assert probability_of_improvement(one, two) == 0.75  # 3 > 2, 3 > 0, 1 < 2, 1 > 0
    assert probability_of_improvement(two, one) == 0.25
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0])]) == 0.75  # a tie is half
    assert probability_of_improvement([one[0], two[0]], [two[0], one[0]]) == 0.5  # the mean over two tasks
    many, few = np.random.default_rng(0).integers(5, size=9), np.random.default_rng(1).integers(5, size=7)
    u = stats.mannwhitneyu(many, few, alternative="greater").statistic / (9 * 7)  # rliable's call
    assert probability_of_improvement([many], [few]) == pytest.approx(u)


def test_profile_by_hand() -> None:
    scores = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    assert profile(scores, np.array([0.0, 2.0, 2.5, 4.0])).tolist() == [1.0, 0.5, 0.5, 0.0]


def test_the_figures_are_those_of_rliable() -> None:
    """Recorded by scripts/record_rliable.py; intervals agree as far as two bootstraps of as many draws do."""
    recorded = json.loads(Path(__file__).with_name("rliable.json").read_text())
    scores = {name: [*np.array(values).T] for name, values in recorded["scores"].items()}  # (runs, tasks) there
    for name, own in scores.items():
        found = bootstrap([own], interquartile_mean, repeats=5000)
        assert found.value == pytest.approx(recorded["iqm"][name][0], rel=1e-12)
        assert found == pytest.approx(recorded["iqm"][name], abs=0.8)  # the intervals are 20 and 15 wide
        assert profile(own, np.array(recorded["thresholds"])).tolist() == pytest.approx(recorded["profiles"][name])
    found = bootstrap([scores["a"], scores["b"]], probability_of_improvement)
    assert found.value == pytest.approx(recorded["improvement"][0], rel=1e-12)
    assert found == pytest.approx(recorded["improvement"], abs=0.02)


def test_bootstrap_is_stratified_and_as_wide_as_theory_says() -> None:
    apart = [np.full(4, 0.0), np.full(4, 100.0)]  # runs of one task never stand for another's
    assert bootstrap([apart], interquartile_mean)[:] == (50.0, 50.0, 50.0)
    runs = [np.random.default_rng(0).normal(size=100)]
    value, low, high = bootstrap([runs], lambda scores: float(scores[0].mean()))
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * runs[0].std() / 10, rel=0.15)
    assert math.isnan(bootstrap([[np.array([1.0])]], interquartile_mean).low)


def made(folder: Path, algo: str, dataset: str, seed: int, last: float, curve: list[float], score: bool = True) -> None:
    path = folder / f"{algo}_{dataset}_{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, {"config": {"algo": algo, "dataset": dataset, "fraction": 1.0, "seed": seed, "steps": 20}})
    for step, value in enumerate(curve, start=1):
        append(path, {"step": 10 * step, "mean_return": 10 * value, "normalized_score": value if score else None})
    summary = {
        "mean_last_5": 10 * last,
        "normalized_mean_last_5": last if score else None,
        "data_mean_return": 300.0,
        "normalized_data_mean_return": 30.0 if score else None,
        "seconds": 120.0,
    }
    append(path, {"summary": summary})


def test_a_study_of_two_on_two(tmp_path: Path) -> None:
    """iql scores 40 + seed, td3bc 60 + seed on "hop", both ten more on "walk"."""
    for algo, dataset, base in (("iql", "hop", 40), ("td3bc", "hop", 60), ("iql", "walk", 50), ("td3bc", "walk", 70)):
        for seed in range(5):
            made(tmp_path, algo, dataset, seed, base + seed, [base / 2, base + seed])
    made(tmp_path, "cql", "hop", 0, 1.0, [1.0])
    results = read_results(tmp_path)
    assert (results.names, results.datasets, results.shared) == (["cql", "iql", "td3bc"], ["hop", "walk"], ["hop"])
    assert results.left_out == ["walk: not all algorithms have finished runs on it"]
    assert results.improvement["td3bc", "iql"].value == 1.0
    (tmp_path / "cql_hop_0.jsonl").unlink()
    results = read_results(tmp_path)
    assert results.shared == ["hop", "walk"]
    assert results.pooled["iql"].value == 47.0  # 40..44, 50..54: the middle six are 42, 43, 44, 50, 51, 52
    line = results.lines["iql", "walk"]
    assert line.curve[0].tolist() == [10, 20]
    assert [part.tolist() for part in line.curve[1:]] == [[25.0, 52.0], [25.0, 50.0], [25.0, 54.0]]
    said = sentences(results)
    assert said[0].startswith("The highest interquartile mean has td3bc: 67.0 (")
    assert "the seeds tell them apart" in said[1]
    assert rows(results)[0] == ("iql", "hop", "5", "42.0 ± 2.0", "40.0", "44.0", "30.0", "420.0", "2.0")  # 2.776 sqrt(2.5/5)
    assert "| iql | hop | 5 | 42.0 ± 2.0 |" in to_markdown(results, {})


def test_two_seeds_tell_nothing_apart(tmp_path: Path) -> None:
    for algo, base in (("iql", 40), ("td3bc", 60)):
        for seed in range(2):
            made(tmp_path, algo, "hop", seed, base + seed, [base / 2, base + seed])
    results = read_results(tmp_path)
    assert results.improvement["td3bc", "iql"].low == 1.0
    said = sentences(results)
    assert "these seeds do not tell them apart" in said[1]
    assert said[2] == "Some have 2 seeds only: intervals of fewer than 5 are too narrow."


def test_files_of_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import image

    for seed in range(2):
        made(tmp_path / "runs", "iql", "hop", seed, 40.0 + seed, [20.0, 41.0])
        made(tmp_path / "runs" / "wide", "iql", "hop", seed, 50.0 + seed, [30.0, 51.0])
    files = write_report(read_results(tmp_path / "runs"), tmp_path / "out")
    assert sorted(file.name for file in files) == [
        "report.csv",
        "report.html",
        "report.md",
        "report_curves_1.png",
        "report_improvement.png",
        "report_profiles.png",
        "report_scores.png",
    ]
    for file in files:
        if file.suffix == ".png":
            assert np.ptp(image.imread(file)[..., 0]) > 0.5  # something is drawn
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "iql wide" in page
    assert (tmp_path / "out" / "report.csv").read_text().splitlines()[1] == "iql,hop,40.0,400.0,30.0"


def test_no_two_lines_of_a_picture_are_alike() -> None:
    """More names than colours differ by their dashes."""
    names = [f"algorithm {n}" for n in range(20)]
    drawn = [line_of(SimpleNamespace(names=names), name) for name in names]  # type: ignore[arg-type]
    assert len({(line["color"], line["linestyle"]) for line in drawn}) == 20
    assert [line["label"] for line in drawn] == names
    assert {line["linestyle"] for line in drawn[:8]} == {"-"}


def test_returns_of_different_tasks_are_not_pooled(tmp_path: Path) -> None:
    for dataset in ("hop", "walk"):
        made(tmp_path, "iql", dataset, 0, 1.0, [1.0], score=False)
    results = read_results(tmp_path)
    assert (results.normalized, results.pooled) == (False, {})
    assert "not pooled" in " ".join(results.left_out)


def test_received_results_say_nothing_but_letters(tmp_path: Path) -> None:
    made(tmp_path, "cql\x1b[31m\u202e", "a<script>", 0, 1.0, [1.0])
    results = read_results(tmp_path)
    assert results.names == ["cql\\x1b[31m\\u202e"]
    assert all(printable(sentence) == sentence for sentence in sentences(results))
    pytest.importorskip("matplotlib")
    assert "<script>" not in write_report(results, tmp_path)[0].read_text()


@pytest.mark.parametrize(
    "content",
    [
        b"[1]\n",
        b"{]\n",
        b"[" * 5000 + b"\n",
        b"\xff\n",
        b'{"config": 3}\n{"summary": {}}\n',
        b'{"config": {}}\n{"summary": {}}\n',
    ],
)
def test_damaged_results_are_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|no file of a run"):
        read_results(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_among_results_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="a pipe"):
        read_results(tmp_path)


def test_a_report_says_how_it_judges_and_sets_words_left(tmp_path: Path) -> None:
    made(tmp_path, "cql", "Hopper medium", 0, 3.0, [1.0, 2.0, 3.0])
    for score, words in (("final", "of each run its final model."), ("mean_last_5", "of each run the mean of its last five")):
        assert words in to_html(replace(read_results(tmp_path), score=score), {})
    shown = figures_table(("name", "data", "score"), [("7", "CQL", "-1.0"), ("x", "-1st", "nan"), ("y", "CQL", "3")])
    assert shown.count('class="words"') == 0  # "-1st" begins like a number
    shown = figures_table(("name", "data", "score"), [("7", "CQL", "-1.0"), ("x", "Hopper", "-")])
    assert shown.count('class="words"') == 3
    assert '<th class="words">data</th>' in shown
