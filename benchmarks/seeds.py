"""
Seconds of a gradient step of several seeds in one process, beside that of one run and of so many runs in sequence.

    OMP_NUM_THREADS=1 python -m benchmarks.seeds --seeds 8 --algos td3bc iql offline_sac combo cql

One run and the stacked seeds take turns in one process, on random data of hopper's size, 2x256 networks (CQL 3x256) and
batches of 256; rounds of rollouts, which every seed has for itself, are spread over ``rollout_freq`` steps. Beside the ratio
of the two stands the arithmetic's floor: how much longer this machine takes for the products of all seeds, batched, than an
update of one run takes, with nothing else done. The CPU's clock counts the process alone, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch as th

from benchmarks.equations import AS_PUBLISHED
from benchmarks.run import RESULTS, machine
from benchmarks.speed_updates import BATCH_SIZE, count_flops, random_data
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.datasets import OfflineDataset, SpacesOnlyEnv
from sb3_offline.execution import critics
from sb3_offline.execution.precision import precision_scope
from sb3_offline.registry import find_algorithm, names
from sb3_offline.seeds.together import Together

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def make(name: str, data: OfflineDataset, seed: int, device: str) -> Any:
    """An algorithm ready for its updates; its dynamics are not fitted, and cost as much to roll out."""
    algorithm = find_algorithm(name)
    layers = 3 if name == "cql" else 2
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [256] * layers}, "batch_size": BATCH_SIZE, "device": device}
    if "behavior_kwargs" in inspect.signature(algorithm).parameters:
        options["behavior_kwargs"] = {"n_steps": 10}
    options |= AS_PUBLISHED.get(name, {})
    env = SpacesOnlyEnv(data.info.observation_space, data.info.action_space)
    model = algorithm("MlpPolicy", env, dataset=data, check_data=False, seed=seed, **options)
    if isinstance(model, ModelBasedAlgorithm):
        model.dynamics.fitted.fill_(True)
    model.learn(1, log_interval=None)
    return model


def timed(step: Callable[[], Any], n: int, clock: Callable[[], float], device: str) -> float:
    """Seconds a step."""
    start = clock()
    for _ in range(n):
        step()
    if device == "cuda":
        th.cuda.synchronize()
    return (clock() - start) / n


def products_floor(flops: float, n_seeds: int, device: str, clock: Callable[[], float]) -> float:
    """Seconds of so much arithmetic for every seed, at the rate of hidden layers batched over all seeds' twin critics."""
    x = th.randn(2 * n_seeds, BATCH_SIZE, 256, device=device)
    w = th.randn(2 * n_seeds, 256, 256, device=device)
    with precision_scope("float32", device):  # as in an update
        once = min(timed(lambda: th.bmm(x, w), 20, clock, device) for _ in range(5))
    return n_seeds * flops * once / (2 * 2 * n_seeds * BATCH_SIZE * 256 * 256)


def measure(name: str, data: OfflineDataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """One algorithm's figures."""
    clock, device, n = CLOCKS[arguments.clock], arguments.device, arguments.seeds
    one, *members = (make(name, data, seed, device) for seed in range(n + 1))
    together = Together(members)
    flops = count_flops(one.update)
    for _ in range(2):  # each kind of step
        together.update()
        one.update()
    raw: dict[str, list[float]] = {"one": [], "seeds": [], "by_vmap": [], "rollout": []}
    n_updates = max(arguments.updates // 4, 2)
    for _ in range(arguments.repeats):
        raw["one"].append(timed(one.update, arguments.updates, clock, device))
        raw["seeds"].append(timed(together.update, n_updates, clock, device))
        if arguments.beside_vmap:
            with mock.patch.object(critics, "LARGE", 2**62):
                raw["by_vmap"].append(timed(together.update, n_updates, clock, device))
        if isinstance(one, ModelBasedAlgorithm):
            raw["rollout"].append(timed(one.rollout_model, 1, clock, device))
    rollout = statistics.median(raw["rollout"]) / one.rollout_freq if raw["rollout"] else 0.0
    alone, all_seeds = statistics.median(raw["one"]) + rollout, statistics.median(raw["seeds"]) + n * rollout
    return {
        "algorithm": name,
        "seeds": n,
        "one_seconds": alone,
        "seeds_seconds": all_seeds,
        "ratio": all_seeds / alone,
        "by_vmap_ratio": (statistics.median(raw["by_vmap"]) + n * rollout) / alone if raw["by_vmap"] else None,
        "in_sequence": n,
        "floor_ratio": (products_floor(flops, n, device, clock) + n * rollout) / alone,
        "flops": flops,
        "raw": raw,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", choices=names(), default=["td3bc", "iql", "offline_sac", "combo", "cql"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--updates", type=int, default=40, help="of one run in a turn")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=[*CLOCKS], default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beside-vmap", action="store_true", help="also with networks whose layers vmap runs, in turns")
    parser.add_argument("--name", default="", help="put after each file's own")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale")
    arguments = parser.parse_args(argv)
    data = random_data()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.algos:
        figures = measure(name, data, arguments)
        record = {**figures, "clock": arguments.clock, "device": arguments.device, "machine": machine()}
        (arguments.out / f"seeds_{name}_{arguments.device}{arguments.name}.json").write_text(
            json.dumps(record, indent=1) + "\n"
        )
        print(
            f"{name}: one {1e3 * figures['one_seconds']:.2f} ms, {arguments.seeds} seeds "
            f"{1e3 * figures['seeds_seconds']:.2f} ms: {figures['ratio']:.2f} times one (in sequence {arguments.seeds}, floor "
            f"{figures['floor_ratio']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
