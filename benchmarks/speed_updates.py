"""Updates of every algorithm, of the usual loop and of d3rlpy, by turns; see :mod:`benchmarks.speed`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.equations import AS_PUBLISHED
from benchmarks.peers import d3rlpy_peer
from benchmarks.reference_cql import ReferenceCQL, make_reference
from benchmarks.speed_dynamics import MODES, product_rate, seconds
from benchmarks.turns import Contender, take_turns
from sb3_offline import AWAC, BC, COMBO, CQL, DROMO, IQL, MOPO, SACN, TD3BC
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.datasets import DatasetInfo, OfflineDataset, SpacesOnlyEnv
from sb3_offline.execution.precision import Precision, available_precision
from sb3_offline.execution.updates import Execution

OBSERVATION_DIM, ACTION_DIM, EPISODE, N_ROWS, BATCH_SIZE, WIDTH = 11, 3, 1000, 100_000, 256, 256


class Setting(NamedTuple):
    """What of an algorithm is timed: its hidden layers, what it does, and the d3rlpy algorithm that it is held against."""

    algorithm: type[Any]
    layers: int
    work: str
    peer: str
    reference: type[SAC] | None = None
    options: Mapping[str, Any] = MappingProxyType({})


SETTINGS = {
    "OfflineSAC": Setting(OfflineSAC, 2, "2x256", "SAC", SAC),
    "CQL": Setting(CQL, 3, "3x256, N=10", "CQL", ReferenceCQL, options=AS_PUBLISHED["cql"]),
    "COMBO": Setting(COMBO, 2, "2x256, Eq 8", "CQL"),
    "DROMO": Setting(DROMO, 2, "2x256, 10+10 actions", "CQL"),
    "MOPO": Setting(MOPO, 2, "2x256", "SAC"),
    "BC": Setting(BC, 2, "2x256, deterministic", "BC", options={"deterministic": True}),
    "TD3BC": Setting(TD3BC, 2, "2x256", "TD3BC", options=AS_PUBLISHED["td3bc"]),
    "IQL": Setting(IQL, 2, "2x256", "IQL", options=AS_PUBLISHED["iql"]),
    "AWAC": Setting(AWAC, 2, "2x256", "AWAC", options=AS_PUBLISHED["awac"]),
    "SACN": Setting(SACN, 2, "2x256, 10 critics", "SAC"),
}
PEER_WORK = {"CQL": "3x256, N=10"}  # of the others 2x256


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
) -> Any:
    """
    An algorithm ready for its updates. Its dynamics are not fitted: their weights are random, and cost as much to roll out.
    """
    algorithm = SETTINGS[name].algorithm
    sizes = {"policy_kwargs": {"net_arch": [WIDTH] * SETTINGS[name].layers}, "batch_size": BATCH_SIZE}
    options = {**sizes, **SETTINGS[name].options, **options}
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


def contender_of(name: str, model: Any, work: str, device: str, peak: float | None) -> Contender:
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
                contenders.append(
                    Contender(f"d3rlpy {algorithm}", PEER_WORK.get(algorithm, "2x256"), algorithm, "float32", "eager", run)
                )
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


def sweep(device: str, repeats: int = 5, block_seconds: float = 1.0, n_updates: int | None = None) -> list[dict[str, Any]]:
    """CQL (3x256, N=10, batch 256) with one of these changed at a time: batch size, width, N."""
    data, best, execution = random_data(), peaks(device), ways(device)[-1]
    changes: dict[str, list[dict[str, Any]]] = {
        "batch size": [{"batch_size": size} for size in (64, 256, 1024)],
        "width": [{"policy_kwargs": {"net_arch": [width] * 3, "layer_norm": False}} for width in (128, 512)],
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
