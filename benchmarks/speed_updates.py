"""Updates of every algorithm, of the usual loop and of d3rlpy, by turns; see :mod:`benchmarks.speed`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import d3rlpy_peer
from benchmarks.reference_cql import ReferenceCQL, make_reference
from benchmarks.speed_dynamics import CLOCKS, MODES, product_rate, seconds
from benchmarks.speed_storage import own_memory
from sb3_offline import COMBO, CQL, DROMO, MOPO
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.common.updates import Execution, Precision, available_precision
from sb3_offline.datasets import DatasetInfo, OfflineDataset, SpacesOnlyEnv

Say = Callable[[str], None]

OBSERVATION_DIM, ACTION_DIM, EPISODE, N_ROWS, BATCH_SIZE, WIDTH = 11, 3, 1000, 100_000, 256, 256


class Setting(NamedTuple):
    """What of an algorithm is timed: its hidden layers, what it does, and the d3rlpy algorithm that it is held against."""

    algorithm: type[OfflineSAC]
    layers: int
    work: str
    peer: str
    reference: type[SAC] | None = None


SETTINGS = {
    "OfflineSAC": Setting(OfflineSAC, 2, "2x256", "SAC", SAC),
    "CQL": Setting(CQL, 3, "3x256, N=10", "CQL", ReferenceCQL),
    "COMBO": Setting(COMBO, 2, "2x256, Eq 8", "CQL"),
    "DROMO": Setting(DROMO, 2, "2x256, 10+10 actions", "CQL"),
    "MOPO": Setting(MOPO, 2, "2x256", "SAC"),
}
PEER_WORK = {"CQL": "3x256, N=10", "SAC": "2x256"}


def random_data(n_rows: int = N_ROWS) -> OfflineDataset:
    """Episodes of 1000 steps of the size of hopper's, none of which terminates."""
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        "random",
        spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32),
        spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32),
    )
    states = rng.standard_normal((n_rows + 1, OBSERVATION_DIM), dtype=np.float32)
    ends = np.arange(1, n_rows + 1) % EPISODE == 0
    ends[-1] = True
    return OfflineDataset(
        info=info,
        observations=states[:-1],
        actions=rng.uniform(-1, 1, (n_rows, ACTION_DIM)).astype(np.float32),
        rewards=rng.standard_normal(n_rows, dtype=np.float32),
        next_observations=states[1:],
        terminations=np.zeros(n_rows, dtype=bool),
        truncations=ends,
        valid_next=np.ones(n_rows, dtype=bool),
    )


def make_model(
    name: str, data: OfflineDataset, precision: Precision, execution: Execution, device: str, **options: Any
) -> OfflineSAC:
    """
    An algorithm ready for its updates. Its dynamics are not fitted: their weights are random, and cost as much to roll out.
    """
    algorithm = SETTINGS[name].algorithm
    options = {"policy_kwargs": {"net_arch": [WIDTH] * SETTINGS[name].layers}, "batch_size": BATCH_SIZE, **options}
    if issubclass(algorithm, DROMO):
        options["behavior_kwargs"] = {"n_steps": 10}
    env = SpacesOnlyEnv(data.info.observation_space, data.info.action_space)
    ways: dict[str, Any] = {"precision": precision, "execution": execution, "device": device}
    model = algorithm("MlpPolicy", env, dataset=data, check_data=False, seed=0, **ways, **options)
    if isinstance(model, ModelBasedAlgorithm):
        model.dynamics.fitted.fill_(True)
    model.learn(1, log_interval=None)
    if isinstance(model, ModelBasedAlgorithm):
        for _ in range(model.rollout_retain - 1):  # a full model buffer, as most of a run has
            model.rollout_model()
    return model


# --- taking turns ---


@dataclass
class Contender:
    """
    One of those that take turns.

    :param peer: d3rlpy's algorithm that it is held against.
    :param run: n -> the seconds of n updates.
    :param refresh: The seconds of a round of rollouts, of which there is one in ``rollout_freq`` updates.
    :param flops: Of the matrix products of an update, and of a second at this machine's best.
    """

    name: str
    work: str
    peer: str
    precision: str
    execution: str
    run: Callable[[int], float]
    refresh: Callable[[], float] | None = None
    rollout_freq: int = 1
    flops: float | None = None
    peak: float | None = None
    block: int = 0
    update_times: list[float] = field(default_factory=list)
    refresh_times: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.name} {self.precision} {self.execution}"

    def warm_up(self, block_seconds: float, n_updates: int | None) -> None:
        """Allocate and capture; then find how many updates a turn has."""
        self.run(5)
        self.block = n_updates or max(3, round(block_seconds / (self.run(3) / 3)))

    def take_turn(self) -> None:
        self.update_times.append(self.run(self.block) / self.block)
        if self.refresh is not None:
            self.refresh_times.append(self.refresh())

    def figures(self) -> dict[str, Any]:
        """Medians over the turns; ``per_second`` is end to end, a round of rollouts spread over ``rollout_freq`` updates."""
        update = statistics.median(self.update_times)
        rollouts = statistics.median(self.refresh_times) / self.rollout_freq if self.refresh_times else 0.0
        floor = None if self.flops is None or self.peak is None else self.flops / self.peak
        return {
            **{name: getattr(self, name) for name in ("name", "work", "peer", "precision", "execution", "block", "flops")},
            "update_seconds": update,
            "rollout_seconds_per_update": rollouts,
            "per_second": 1.0 / (update + rollouts),
            "floor_seconds": floor,
            "raw": {"updates": self.update_times, "rollouts": self.refresh_times},
        }


def take_turns(
    contenders: Sequence[Contender],
    repeats: int,
    block_seconds: float,
    n_updates: int | None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """All of them, one after the other, ``repeats`` times: what else the machine does meets all alike."""
    for contender in contenders:
        contender.warm_up(block_seconds, n_updates)
        say(f"{contender.key}: {contender.block} updates a turn")
    for repeat in range(repeats):
        for contender in contenders:
            contender.take_turn()
        say(f"turn {repeat + 1} of {repeats} done")
    return [contender.figures() for contender in contenders]


# --- who takes part ---


def count_flops(work: Callable[[], Any]) -> float:
    """Of all matrix products, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return float(counter.get_total_flops())


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds, once the device is done."""

    def all_of_it() -> None:
        work()
        if device == "cuda":
            th.cuda.synchronize()

    return seconds(all_of_it)


def contender_of(name: str, model: OfflineSAC, work: str, device: str, peak: float | None) -> Contender:
    peer = SETTINGS[name].peer

    def updates(n: int) -> float:
        def work() -> None:
            for _ in range(n):
                model.update()

        return timed(work, device)

    flops = count_flops(model.update) if model.execution == "eager" else None
    contender = Contender(name, work, peer, model.precision, model.execution, updates, flops=flops, peak=peak)
    if isinstance(model, ModelBasedAlgorithm):
        contender.refresh = lambda: timed(model.rollout_model, device)
        contender.rollout_freq = model.rollout_freq
    return contender


def peaks(device: str) -> dict[str, float]:
    """FLOP/s that a product of 256 columns reaches here, on the rows of a small batch or of a large one."""
    if device == "cuda":
        return {}  # a product on its own would time its launch
    rates = {name: max(product_rate(name, 1, rows, WIDTH) for rows in (256, 7680)) for name in MODES if is_here(name, device)}
    return {str(name): rate for name, rate in rates.items()}


def is_here(precision: Precision, device: str) -> bool:
    return available_precision(precision, device) == precision


def ways(device: str) -> tuple[Execution, ...]:
    return ("eager", "cuda_graph") if device == "cuda" else ("eager",)


def updates(
    names: Iterable[str],
    device: str,
    python: Path | None,
    clock: str,
    repeats: int = 5,
    block_seconds: float = 2.0,
    n_updates: int | None = None,
) -> dict[str, Any]:
    """
    Updates a second of each algorithm in each precision, of the usual loops and of d3rlpy.

    :param python: The interpreter that has d3rlpy; None leaves it out.
    """
    names, data, best = list(names), random_data(), peaks(device)
    versions: dict[str, str] = {}
    contenders = []
    with ExitStack() as stack:
        if python is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            columns = {name: getattr(data, name) for name in ("observations", "actions", "rewards")}
            ends = {"terminals": data.terminations.astype(np.float32), "timeouts": data.truncations.astype(np.float32)}
            np.savez(folder / "data.npz", **columns, **ends)  # type: ignore[arg-type]
            print("d3rlpy starts", flush=True)
            theirs = {"cpu": "cpu:0", "cuda": "cuda:0"}[device]
            peer = stack.enter_context(d3rlpy_peer(python, folder / "data.npz", th.get_num_threads(), theirs, clock))
            versions = peer.versions
            for algorithm in sorted({SETTINGS[name].peer for name in names}):
                run = partial(peer.seconds, algorithm)
                contenders.append(Contender(f"d3rlpy {algorithm}", PEER_WORK[algorithm], algorithm, "float32", "eager", run))
        for name in names:
            setting = SETTINGS[name]
            if setting.reference is not None:
                usual = make_reference(setting.reference, data, [WIDTH] * setting.layers, device)
                train = partial(_train, usual, device)
                loop = Contender(f"usual {name} loop", setting.work, setting.peer, "float32", "eager", train)
                contenders.append(loop)
            for precision in MODES:
                for execution in ways(device):
                    if is_here(precision, device):
                        model = make_model(name, data, precision, execution, device)
                        contenders.append(contender_of(name, model, setting.work, device, best.get(precision)))
            print(f"{name} is ready", flush=True)
        rows = take_turns(contenders, repeats, block_seconds, n_updates, say=partial(print, flush=True))
    return {"rows": rows, "peak_flops": best, "peer_versions": versions}


def _train(model: SAC, device: str, n: int) -> float:
    return timed(lambda: model.train(n, BATCH_SIZE), device)


# --- what else an update costs ---


class LoopClock(BaseCallback):
    """Seconds between the start and the end of training."""

    def __init__(self, clock: str):
        super().__init__()
        self.now = CLOCKS[clock]
        self.seconds = 0.0

    def _on_training_start(self) -> None:
        self.seconds = -self.now()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.seconds += self.now()


def loop_overhead(clock: str, steps: int = 3000, repeats: int = 5) -> dict[str, Any]:
    """
    Seconds that ``learn`` spends on a step beside the update: callbacks, a log line each 1000 steps, TensorBoard, the progress
    bar. The update is replaced by what it does with its logs, so this is a little more than the overhead.
    """
    data = random_data(2000)
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            model = make_model("OfflineSAC", data, "float32", "eager", "cpu", tensorboard_log=folder)
            logs = {name: th.zeros(()) for name in model._log_sums}
            model.update = partial(model._accumulate, logs)  # type: ignore[method-assign]
            loop = LoopClock(clock)
            model.learn(steps, callback=[loop], progress_bar=True)
            taken.append(loop.seconds / steps)
    return {"seconds_per_step": statistics.median(taken), "steps": steps, "repeats": repeats, "raw": taken}


def peak_memory(name: str, threads: int, device: str) -> dict[str, float]:
    """MB of a process that trains this algorithm alone: resident now, at most, and on the device at most."""
    command = [sys.executable, "-m", "benchmarks.speed_updates", name, str(threads), device]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.strip().splitlines()[-1])


def _memory_child(name: str, threads: str, device: str) -> None:
    th.set_num_threads(int(threads))
    model = make_model(name, random_data(), "float32", ways(device)[-1], device)
    for _ in range(20):
        model.update()
    on_device = th.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    print(json.dumps({**own_memory(), "device": on_device}))


def sweep(device: str, repeats: int = 5, block_seconds: float = 1.0, n_updates: int | None = None) -> list[dict[str, Any]]:
    """CQL (3x256, N=10, batch 256) with one of these changed at a time: batch size, width, N."""
    data, best, execution = random_data(), peaks(device), ways(device)[-1]
    changes: dict[str, list[dict[str, Any]]] = {
        "batch size": [{"batch_size": size} for size in (64, 256, 1024)],
        "width": [{"policy_kwargs": {"net_arch": [width] * 3}} for width in (128, 512)],
        "N": [{"n_action_samples": n} for n in (1, 30)],
    }
    contenders = []
    for what, values in changes.items():
        for options in values:
            (value,) = options.values()
            shown = value["net_arch"][0] if isinstance(value, dict) else value
            for precision in MODES:
                if is_here(precision, device):
                    model = make_model("CQL", data, precision, execution, device, **options)
                    contenders.append(contender_of("CQL", model, f"{what} {shown}", device, best.get(precision)))
    return take_turns(contenders, repeats, block_seconds, n_updates, say=partial(print, flush=True))


if __name__ == "__main__":
    _memory_child(*sys.argv[1:])
