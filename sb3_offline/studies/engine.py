"""Who runs a study: a pool of processes on this machine, or Ray. Both run one function, and begin again what was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, NamedTuple

from sb3_offline.studies.plan import Cell, Study

MAX_DEATHS = 5  # of workers in a row, without a run that ends: then it is not bad luck
Work = Callable[[Cell, int], dict[str, Any]]


class Outcome(NamedTuple):
    """
    How a run ended.

    :param summary: None if it failed
    :param error: what it raised, if so
    """

    cell: Cell
    summary: dict[str, Any] | None
    error: str | None = None


class StudyStopped(OSError):
    """Workers keep dying."""


def work(cell: Cell, cores: int) -> dict[str, Any]:
    """One run, in a worker. What a run killed before left on the disk is gone on from, exactly."""
    import torch as th

    from sb3_offline.studies.single import run_one

    th.set_num_threads(cores)
    return run_one(cell.run, cell.protocol, cell.path)


def run_in_pool(study: Study, cells: Sequence[Cell], n_workers: int, task: Work = work) -> Iterator[Outcome]:
    """
    Run them by processes of this machine, as they end.

    :param n_workers: runs at once
    :raises StudyStopped: if workers die again and again, as for want of memory
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(study.cores))  # before the workers import torch
    waiting, deaths, others = list(cells), 0, {*multiprocessing.active_children()}
    while waiting:
        with ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), _begin_worker, (os.getpid(),)) as pool:
            futures: dict[Future[dict[str, Any]], Cell] = {}
            try:
                queue = iter(list(waiting))
                while True:
                    for cell in queue:  # few are handed over at a time
                        futures[pool.submit(task, cell, study.cores)] = cell
                        if len(futures) >= 2 * n_workers:
                            break
                    if not futures:
                        break
                    for future in wait(futures, return_when=FIRST_COMPLETED).done:
                        outcome = _outcome(futures.pop(future), future.result)
                        waiting.remove(outcome.cell)
                        deaths = 0
                        yield outcome
            except BrokenProcessPool as error:  # a worker was killed, and the pool ends the others
                deaths += 1
                if deaths >= MAX_DEATHS:
                    raise StudyStopped(
                        f"{deaths} workers were killed one after the other, and no run ended in between: by want of memory? "
                        "Run fewer at once (--workers). What is finished, and every checkpoint, is kept."
                    ) from error
            except BaseException:  # Ctrl-C: what runs goes on from its checkpoint another time
                for process in {*multiprocessing.active_children()} - others:
                    process.kill()
                raise


def _begin_worker(study: int) -> None:
    """
    In a worker: Ctrl-C, which the terminal sends to all, is the study's process alone to decide on; and without that process,
    as when it was killed, nobody waits for the run, which would stand in the way of the study's next start.

    :param study: id of its process
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(study,), daemon=True).start()


def _end_with(process: int) -> None:
    while os.getppid() == process:  # on Windows a parent's id stays, and so does the worker
        time.sleep(1.0)
    os._exit(1)


def run_by_ray(study: Study, cells: Sequence[Cell], address: str, task: Work = work) -> Iterator[Outcome]:
    """
    Run them as Ray's tasks, as they end. A task whose worker dies is begun again, and goes on from its checkpoint: on a
    cluster the study's folder lies where all machines see it.

    :param address: of a cluster; "local" starts Ray on this machine
    """
    import ray

    begun = not ray.is_initialized()
    if begun:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)

    def remote_task(cell: Cell, cores: int) -> dict[str, Any]:
        return task(cell, cores)

    remote = ray.remote(remote_task).options(num_cpus=study.cores, num_gpus=study.gpus, max_retries=MAX_DEATHS)
    try:
        waiting = {remote.remote(cell, study.cores): cell for cell in cells}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield _outcome(waiting.pop(done), partial(ray.get, done))
    finally:
        if begun:
            ray.shutdown()


def _outcome(cell: Cell, result: Callable[[], dict[str, Any]]) -> Outcome:
    try:
        return Outcome(cell, result())
    except BrokenProcessPool:
        raise
    except Exception as error:  # of a run: the others go on
        cause = getattr(error, "cause", None) or error  # Ray's wraps it
        return Outcome(cell, None, f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}")


def has_ray() -> bool:
    """Whether the extra is installed."""
    from importlib.util import find_spec

    return find_spec("ray") is not None


class Estimate:
    """How long the rest takes, from the runs that have ended."""

    def __init__(self, n_cells: int):
        self.n_cells, self.n_done, self.start = n_cells, 0, time.perf_counter()

    def done(self) -> None:
        """One more has ended."""
        self.n_done += 1

    @property
    def seconds_left(self) -> float | None:
        """None until one has ended."""
        if self.n_done == 0:
            return None
        return (time.perf_counter() - self.start) * (self.n_cells - self.n_done) / self.n_done
