"""A study's file, its runs by a pool and by Ray, killed workers, and the shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sb3_offline.cli import main
from sb3_offline.studies import engine
from sb3_offline.studies.engine import StudyStopped, run_by_ray, run_in_pool, work
from sb3_offline.studies.estimate import seconds_of
from sb3_offline.studies.plan import Cell, StudyError, read_study
from sb3_offline.studies.records import is_finished, partial_of, read_lines, read_runs
from sb3_offline.studies.single import CurveCallback, run_one

DATA = "sb3_offline/Pendulum-medium-v0"
STUDY = f"""
algorithms:
  td3bc: {{alpha: 1.0}}
  iql:
datasets: [{DATA}]
seeds: 0-1
steps: 8
eval_every: 2
episodes: 1
final_episodes: 1
options: {{batch_size: 8, policy_kwargs: {{net_arch: [8]}}, device: cpu, n_action_samples: 3}}
"""


def written(folder: Path, text: str = STUDY) -> Path:
    path = folder / "pendulum.yaml"
    path.write_text(text)
    return path


def figures(path: Path) -> list[dict[str, Any]]:
    """A run's lines, without their times."""
    lines = [line.get("summary", line) for line in read_lines(path)[1:]]
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]


def test_what_a_file_says(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert [(cell.run.algo, cell.run.seed) for cell in study.cells] == [("td3bc", 0), ("td3bc", 1), ("iql", 0), ("iql", 1)]
    assert study.folder == tmp_path / "pendulum"
    first, last = study.cells[0], study.cells[-1]
    assert first.protocol.options == {"batch_size": 8, "policy_kwargs": {"net_arch": [8]}, "device": "cpu", "alpha": 1.0}
    assert "alpha" not in last.protocol.options
    assert (first.protocol.steps, first.protocol.eval_every, study.cores, study.gpus) == (8, 2, 1, 0.0)
    sets = read_study(
        written(
            tmp_path, STUDY.replace("iql:", "").replace("  td3bc: {alpha: 1.0}", " [td3bc]") + "sets: {a: , b: {alpha: 2}}"
        )
    )
    assert [cell.path.parent.name for cell in sets.cells] == ["a", "a", "b", "b"]
    assert sets.cells[-1].protocol.options["alpha"] == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seeds: 0-1", "sedes: 0-1", "there is no 'sedes' in a study"),
        ("seeds: 0-1\n", "", "'seeds' is missing"),
        ("seeds: 0-1", "seeds: 1-0", "seeds are written"),
        ("td3bc: {alpha: 1.0}", "td3cb:", "td3bc"),
        ("alpha: 1.0", "alhpa: 1.0", "Did you mean 'alpha'"),
        ("steps: 8", "steps: none", "steps"),
        (DATA, "sb3_offline/Pendulum-none", "Pendulum-none"),
        (f"[{DATA}]", f"[{DATA}, {DATA}]", "have the file of another"),
        ("algorithms:", "algorithms: [", "no YAML"),
    ],
)
def test_what_a_file_cannot_say(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in STUDY
    with pytest.raises(StudyError, match=message):
        read_study(written(tmp_path, STUDY.replace(before, after)))


class Killed(CurveCallback):
    """Kills its process at the third evaluation, once, after it is written and before it is saved."""

    def evaluate(self, n_episodes: int) -> dict[str, Any]:
        mark = self.path.with_suffix(".killed")
        if self.num_timesteps == 6 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(n_episodes)


def killed_work(cell: Cell, cores: int) -> dict[str, Any]:
    from sb3_offline.studies import single

    single.CurveCallback = Killed  # type: ignore[misc]
    return work(cell, cores)


def dead_work(*_: Any) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def failing_work(cell: Cell, _cores: int) -> dict[str, Any]:
    if cell.run.seed == 0:
        raise ValueError("no such thing")
    return {"final": 1.0, "seconds": 0.0}


def test_a_killed_worker_changes_no_figure(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    cells = study.cells[::2]
    outcomes = list(run_in_pool(study, cells, 1, killed_work))
    assert sorted(outcome.cell.run.algo for outcome in outcomes) == ["iql", "td3bc"]
    for cell in cells:
        assert cell.path.with_suffix(".killed").exists()
        assert not partial_of(cell.path).exists()
        run_one(cell.run, cell.protocol, tmp_path / "unbroken" / cell.path.name)
        assert figures(cell.path) == figures(tmp_path / "unbroken" / cell.path.name)
        assert [line["step"] for line in figures(cell.path)[:-1]] == [2, 4, 6, 8]
    assert {path.suffix for path in study.folder.iterdir()} == {".jsonl", ".killed"}  # no checkpoint is left behind


ALONE = """
import sys, time
from pathlib import Path
from sb3_offline.studies.engine import run_in_pool
from sb3_offline.studies.plan import read_study

def beat(cell, cores):
    while True:
        with Path(sys.argv[1]).open("a") as file:
            file.write(".")
        time.sleep(0.1)

if __name__ == "__main__":
    study = read_study(Path(sys.argv[2]))
    list(run_in_pool(study, study.cells[:1], 1, beat))
"""


@pytest.mark.skipif(os.name == "nt", reason="a parent's id stays there")
def test_workers_end_with_a_study_that_was_killed(tmp_path: Path) -> None:
    """A worker that writes a dot every tenth of a second has stopped some seconds after."""
    script, dots = tmp_path / "alone.py", tmp_path / "dots"
    script.write_text(ALONE)
    with subprocess.Popen([sys.executable, str(script), str(dots), str(written(tmp_path))]) as process:
        deadline = time.monotonic() + 120
        while not dots.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
    deadline, before = time.monotonic() + 60, -1
    while dots.stat().st_size != before and time.monotonic() < deadline:
        before = dots.stat().st_size
        time.sleep(3)
    assert dots.stat().st_size == before > 0


def test_workers_that_die_for_ever_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_DEATHS", 2)
    study = read_study(written(tmp_path))
    with pytest.raises(StudyStopped, match="2 workers were killed"):
        list(run_in_pool(study, study.cells[:1], 1, dead_work))


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    outcomes = {(o.cell.run.algo, o.cell.run.seed): o for o in run_in_pool(study, study.cells, 2, failing_work)}
    assert len(outcomes) == 4
    assert outcomes["iql", 0].error == "ValueError: no such thing"
    assert outcomes["iql", 1].summary == {"final": 1.0, "seconds": 0.0}


def test_ray_runs_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    study = read_study(written(tmp_path))
    (outcome,) = run_by_ray(study, study.cells[:1], "local", killed_work)
    assert outcome.error is None
    cell = outcome.cell
    assert cell.path.with_suffix(".killed").exists()
    run_one(cell.run, cell.protocol, tmp_path / "unbroken" / cell.path.name)
    assert figures(cell.path) == figures(tmp_path / "unbroken" / cell.path.name)


def test_the_shell_plans_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["study", str(path), "--dry-run", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "4 runs of 8 steps, about 00 h" in said
    assert "sb3_offline/Pendulum-medium-v0" in said  # whole: the ends of names tell data sets apart
    assert not (tmp_path / "pendulum").exists()
    assert main(["study", str(path), "--workers", "1"]) == 0
    assert "4/4" in capsys.readouterr().out
    assert all(is_finished(cell.path) for cell in read_study(path).cells)
    before = {file: file.read_text() for file in (tmp_path / "pendulum").glob("*.jsonl")}
    assert main(["study", str(path), "--workers", "1"]) == 0  # nothing is left to do
    assert {file: file.read_text() for file in before} == before
    pytest.importorskip("matplotlib")
    assert main(["report", str(tmp_path / "pendulum")]) == 0
    assert "interquartile mean" in capsys.readouterr().out
    runs = read_runs(tmp_path / "pendulum")
    rows = (tmp_path / "pendulum" / "report.csv").read_text().splitlines()[1:]
    assert sorted(float(row.split(",")[3]) for row in rows) == sorted(run["mean_last_5"] for run in runs)


def test_a_fit_of_many_epochs_is_estimated_by_an_epochs_time(tmp_path: Path) -> None:
    """Not by that of the whole preparation, most of which comes once: an epoch of one batch takes the less of it."""
    seconds = []
    for epochs in (2, 1002):
        study = (
            STUDY.split("algorithms:")[0]
            + f"""
algorithms: [combo]
datasets: [{DATA}]
fractions: [0.02]
seeds: 0
steps: 2
eval_every: 2
episodes: 1
final_episodes: 1
options: {{policy_kwargs: {{net_arch: [8]}}, device: cpu, dynamics_kwargs: {{hidden_sizes: [8], max_epochs: {epochs}}}}}
"""
        )
        (cell,) = read_study(written(tmp_path, study)).cells
        seconds.append(seconds_of(cell, []))
    few, many = seconds
    assert 0.0 < (many - few) / 1000 < few / 3


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no finished runs" in capsys.readouterr().err
    if not engine.has_ray():
        assert main(["study", str(written(tmp_path)), "--address", "local"]) == 2
        assert "sb3-offline[ray]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sets: {../../escaped: {}}", r"'\.\./\.\./escaped' is no name of a folder"),
        ("sets: {..: {}}", "is no name of a folder"),
        ("sets: {/tmp/x: {}}", "is no name of a folder"),
        ("options: {env: 'received_module:X-v0'}", "'env' is the study's own"),
        ("options: {policy: received_module.X}", "'policy' is the study's own"),
        ("options: {tensorboard_log: elsewhere}", "'tensorboard_log' is the study's own"),
        ("sets: {a: {_init_setup_model: false}}", "'_init_setup_model' is the study's own"),
        ("seeds: 0-99999999999", "more than 10,000"),
    ],
)
def test_a_received_study_imports_nothing_and_writes_into_its_folder(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "received_module.py").write_text("open('ran', 'w').close()")
    text = "algorithms: [td3bc]\ndatasets: sb3_offline/Pendulum-medium-v0\nseeds: [0]\nsteps: 2\n"
    key = line.partition(":")[0]
    (tmp_path / "s.yaml").write_text("\n".join([*(old for old in text.splitlines() if not old.startswith(key)), line]))
    with pytest.raises(StudyError, match=rf"s\.yaml: .*{message}"):
        read_study(tmp_path / "s.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["received_module.py", "s.yaml"]


@pytest.mark.parametrize(
    "content",
    ["seeds: 1".encode("utf-16"), b"a: \0", b"a: 2020-13-45", b"a: " + b"[" * 20_000, b"a: !!int ''", b"a: !!timestamp x"],
)
def test_a_study_that_is_no_yaml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(StudyError, match=r"mine\.yaml (is no YAML|cannot be read): "):
        read_study(tmp_path / "mine.yaml")
