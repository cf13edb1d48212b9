"""Several processes that train one model are one process with the larger batch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_offline import TD3BC
from sb3_offline.dynamics import EnsembleDynamics
from sb3_offline.execution import ranks
from tests.contract.subjects import ROOT, Subject
from tests.training import two_ranks

NAMES = ["td3bc", "offline_sac", "iql", "cql", "rebrac", "fql"]


class Threads:
    """Ranks as threads of this process, in place of torch.distributed's."""

    def __init__(self, n: int):
        self.n, self.barrier, self.own = n, threading.Barrier(n, timeout=60), threading.local()
        self.given: list[Any] = [None] * n

    def rank(self) -> int:
        return self.own.rank

    def together(self, collective: Any, tensor: th.Tensor) -> None:
        self.given[self.own.rank] = tensor.clone()
        self.barrier.wait()
        if isinstance(collective, partial) and "src" in collective.keywords:
            whole = self.given[0]
        elif isinstance(collective, partial):
            whole = th.stack(self.given).amax(dim=0)
        else:
            whole = th.stack(self.given).sum(dim=0)
        self.barrier.wait()
        tensor.copy_(whole)

    def run(self, work: Any) -> list[Any]:
        results: list[Any] = [None] * self.n

        def one(rank: int) -> None:
            self.own.rank = rank
            try:
                results[rank] = work()
            except BaseException as error:
                results[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, threading.BrokenBarrierError):
                raise result
        return results


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Threads:
    threads = Threads(2)
    monkeypatch.setattr(ranks, "size", lambda: 2 if hasattr(threads.own, "rank") else 1)
    monkeypatch.setattr(ranks, "rank", lambda: getattr(threads.own, "rank", 0))
    monkeypatch.setattr(ranks, "_together", threads.together)
    return threads


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(th.Tensor, "float", th.Tensor.double)
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def furthest(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one_process_with_twice_the_batch(name: str, two: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "updating", contextlib.nullcontext)  # threads share the module's state
    monkeypatch.setattr(ranks, "_updating", True)
    first, second = models = [Subject(name).make() for _ in range(2)]
    drawn, others = two.run(lambda: two_ranks.recorded(models[ranks.rank()]))
    assert furthest(first.policy.state_dict(), second.policy.state_dict()) == 0.0
    assert not th.equal(drawn[0][0].observations, others[0][0].observations)
    monkeypatch.setattr(ranks, "_updating", False)
    whole = two_ranks.alone(name, [drawn, others])
    assert furthest(first.policy.state_dict(), whole.policy.state_dict()) < 1e-12
    start = Subject(name).make()
    assert furthest(first.policy.state_dict(), start.policy.state_dict()) > 1e-4


def test_members_of_the_dynamics_are_spread_over_the_ranks(two: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three members by two ranks: each is fitted once, and the world is that of one process."""
    options = {"dynamics_kwargs": {"hidden_sizes": (8,), "n_members": 3, "n_elites": 2, "max_epochs": 2, "batch_size": 64}}
    alone, first, second = (Subject("mopo").make(**options) for _ in range(3))
    monkeypatch.setattr(EnsembleDynamics, "networks", EnsembleDynamics.networks)  # restored afterwards
    fitted = two_ranks.note_fits()
    two.run(lambda: (first, second)[ranks.rank()].fit_dynamics())
    assert {*fitted} == {(0,), (1, 2)}
    alone.fit_dynamics()
    for one in (first, second):
        assert furthest(one.dynamics.state_dict(), alone.dynamics.state_dict()) < 1e-5
    assert furthest(first.dynamics.state_dict(), second.dynamics.state_dict()) == 0.0


def torchrun(*words: str, n: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), *words]
    usual = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes: Any = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env=usual, **pipes)


def ended_well(*words: str, n: int = 2) -> None:
    process = torchrun("-m", "tests.training.two_ranks", *words, n=n)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_two_processes_of_gloo_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    ended_well("train", str(tmp_path), *NAMES)
    for name in NAMES:
        found = [th.load(tmp_path / f"{name}_{rank}.pt", weights_only=False) for rank in range(2)]
        (drawn, first), (others, second) = found
        assert furthest(first, second) == 0.0
        whole = two_ranks.alone(name, [drawn, others])
        assert furthest(first, whole.policy.state_dict()) < 1e-12


@pytest.mark.slow
def test_two_processes_of_gloo_share_the_fit_of_the_dynamics(tmp_path: Path) -> None:
    """COMBO: each fits one member of two, both hold both, imagine from their own states, and step as one."""
    ended_well("imagine", str(tmp_path))
    (one, rows, first, world), (other, others, second, same_world) = (
        th.load(tmp_path / f"combo_{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert one == {(0,)}
    assert other == {(1,)}
    assert furthest(first, second) == furthest(world, same_world) == 0.0
    assert all(value.isfinite().all() for value in first.values())
    for mine, yours in zip(rows, others, strict=True):
        assert not th.equal(mine.imagined().observations, yours.imagined().observations)


@pytest.mark.slow
def test_ctrl_c_of_torchrun_saves_and_the_run_goes_on_with_more_processes_and_with_fewer(tmp_path: Path) -> None:
    options = ["--save-freq", "200", "--eval-freq", "-1", "-f", str(tmp_path), "-params", "batch_size:32"]
    process = torchrun(*TRAIN, *options, "-n", "200000")
    folder = tmp_path / "td3bc" / "sb3_offline-Pendulum-medium-v0_1"
    wait_for(lambda: len(list(folder.glob("*.resume"))) > 0, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stopped at step" in said
    assert "To go on with any number of processes" in said
    before = None
    for n, out in ((3, tmp_path / "more"), (2, tmp_path / "fewer")):
        out.mkdir()
        ended_well("resume", str(folder), str(out), n=n)
        found = [th.load(out / f"{rank}.pt", weights_only=False) for rank in range(n)]
        began = found[0][1]
        assert [each[:3] for each in found] == [(n, began, began + 10)] * n
        assert before in (None, began)
        assert all(furthest(found[0][3], other) == 0.0 for *_, other in found[1:])
        folder, before = out, began + 10


TRAIN = ["-m", "sb3_offline", "train", "--algo", "td3bc", "--env", "sb3_offline/Pendulum-medium-v0", "--seed", "1"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process's children in /proc")
def test_a_killed_rank_ends_all_and_the_run_goes_on_with_any_number(tmp_path: Path) -> None:
    """The shell's run saves by the first rank alone; whatever its end, its checkpoints resume."""
    options = ["--save-freq", "200", "--eval-freq", "-1", "-f", str(tmp_path), "-params", "batch_size:32"]
    process = torchrun(*TRAIN, *options, "-n", "200000")
    folder = tmp_path / "td3bc" / "sb3_offline-Pendulum-medium-v0_1"
    wait_for(lambda: len(list(folder.glob("*.resume"))) > 0, process)
    kill_a_rank(process.pid)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "lost the others" in said
    assert "resume from the last checkpoint" in said
    assert [path.name for path in tmp_path.iterdir()] == ["td3bc"]
    model = TD3BC.resume(folder, dataset="sb3_offline/Pendulum-medium-v0")
    at = model.num_timesteps
    assert at >= 200
    assert at % 200 == 0
    with pytest.warns(UserWarning, match="counts from the interrupted call's start"):
        model.learn(at + 5)
    assert model.num_timesteps == model._n_updates == at + 5


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if what():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise TimeoutError


def kill_a_rank(launcher: int) -> None:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
