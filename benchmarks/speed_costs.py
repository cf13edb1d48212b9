"""What training costs beside its updates: the loop around them, and memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.speed_dynamics import CLOCKS
from benchmarks.speed_storage import own_memory
from benchmarks.speed_updates import make_model, random_data, ways


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
            logs = {name: th.zeros(()) for name in model.log_sums.sums}
            model.update = partial(model.log_sums.add, logs)
            loop = LoopClock(clock)
            model.learn(steps, callback=[loop], progress_bar=True)
            taken.append(loop.seconds / steps)
    return {"seconds_per_step": statistics.median(taken), "steps": steps, "repeats": repeats, "raw": taken}


def peak_memory(name: str, threads: int, device: str) -> dict[str, float]:
    """MB of a process that trains this algorithm alone: resident now, at most, and on the device at most."""
    command = [sys.executable, "-m", "benchmarks.speed_costs", name, str(threads), device]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.strip().splitlines()[-1])


def _memory_child(name: str, threads: str, device: str) -> None:
    th.set_num_threads(int(threads))
    model = make_model(name, random_data(), "float32", ways(device)[-1], device)
    for _ in range(20):
        model.update()
    on_device = th.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    print(json.dumps({**own_memory(), "device": on_device}))


if __name__ == "__main__":
    _memory_child(*sys.argv[1:])
