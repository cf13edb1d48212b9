"""
d3rlpy's FQE beside ours: the same policies, data, steps, critics, batch and width.

    python -m benchmarks.ope_peer pendulum --policies runs/ope --python /path/to/d3rlpy/bin/python

The data are given to d3rlpy standardised, observations and rewards, as our FQE does it for itself. Its target networks are
copied every 100 steps and its critics all see the same batches, as is its way. Needs the results of :mod:`benchmarks.ope` for
our side. What a file holds already is not estimated again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import nn

from benchmarks.ope import figures, known
from benchmarks.ope_policies import GAMMA, TASKS, policies, task_data
from benchmarks.peers import D3RLPY_FOLDER, Peer, environment_python, install_d3rlpy
from benchmarks.run import RESULTS, append, begin, finish
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope import FQE
from sb3_offline.ope.estimate import first_rows
from sb3_offline.registry import find_algorithm
from sb3_offline.studies.records import read_lines


class _Standardised(nn.Module):
    """A policy of standardised observations, (n, width) -> actions in [-1, 1], as d3rlpy asks for them."""

    def __init__(self, policy: Any, mean: np.ndarray, std: np.ndarray):
        super().__init__()
        self.policy, self.mean, self.std = policy, th.from_numpy(mean), th.from_numpy(std)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.policy._predict(observations * self.std + self.mean, deterministic=True).clamp(-1, 1)


def write_data(dataset: OfflineDataset, path: Path) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The data as d3rlpy takes them, standardised; mean and spread of the observations and of the rewards."""
    states = np.asarray(dataset.observations, dtype=np.float32)
    mean, std = states.mean(axis=0), states.std(axis=0) + np.float32(1e-6)
    rewards = np.asarray(dataset.rewards, dtype=np.float32)
    centre, spread = float(rewards.mean()), float(rewards.std())
    if bool(np.asarray(dataset.terminations).any()):
        centre = 0.0  # to earn nothing after the end must stay nothing
    np.savez(
        path,
        observations=(states - mean) / std,
        actions=scale_actions(np.asarray(dataset.actions), dataset.action_space),
        rewards=(rewards - centre) / spread,
        terminals=np.asarray(dataset.terminations, dtype=np.float32),
        timeouts=np.asarray(dataset.truncations, dtype=np.float32),
        first=((states - mean) / std)[first_rows(dataset)],
    )
    return mean, std, centre, spread


def trace(model: Any, example: np.ndarray, mean: np.ndarray, std: np.ndarray, path: Path) -> None:
    """The model's deterministic policy as a file that knows nothing of this library."""
    module = _Standardised(model.policy, mean, std).eval()
    seen = th.from_numpy((example - mean) / std)
    with th.no_grad():
        traced = th.jit.trace(module, seen, check_trace=False)
    traced.save(str(path))
    actions, _ = model.predict(example, deterministic=True)
    np.testing.assert_allclose(traced(seen).detach().numpy(), scale_actions(actions, model.action_space), atol=1e-3)


def run(name: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One task: d3rlpy's estimates, and the figures of both over the same policies."""
    ours = {line["policy"]: line for line in read_lines(arguments.ours / f"{name}.jsonl") if line.get("estimator") == "FQE"}
    dataset, judged = task_data(TASKS[name], arguments.data), policies(name, arguments.policies, arguments.data)
    path, defaults = arguments.out / f"{name}_d3rlpy.jsonl", FQE()
    config = {"task": name, "dataset": TASKS[name].dataset, "gamma": GAMMA, "fit_steps": arguments.fit_steps}
    records = known(path, config)
    partial = begin(path, "ope_peer", arguments.out, config)
    for record in records:
        append(partial, record)
    child, done = Path(__file__).with_name("d3rlpy_fqe_child.py"), {record["policy"] for record in records}
    settings = (arguments.fit_steps, defaults.n_critics, defaults.batch_size, defaults.net_arch[0], defaults.learning_rate)
    python = arguments.python or environment_python(D3RLPY_FOLDER)
    if not python.exists():
        python = install_d3rlpy(D3RLPY_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        mean, std, centre, spread = write_data(dataset, data)
        command = [str(python), str(child), str(data), *map(str, settings)]
        with Peer(command, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}) as peer:
            for file, truth in judged:
                if file.stem in done:
                    continue
                model = find_algorithm(file.stem.rsplit("_", 2)[0]).load(file, device="cpu")
                traced = Path(folder) / f"{file.stem}.pt"
                trace(model, np.asarray(dataset.observations[:64], dtype=np.float32), mean, std, traced)
                answer = peer.ask(str(traced))
                value = answer["value"] * spread + centre / (1 - GAMMA)
                record = {"policy": file.stem, "estimator": "d3rlpy's FQE", **truth, "value": value}
                records.append({**record, "seconds": answer["seconds"]})
                append(partial, records[-1])
            versions = peer.versions
    found = {}
    for label, rows in (("ours", [ours[record["policy"]] for record in records]), ("d3rlpy", records)):
        truths, values, seconds = (np.array([row[key] for row in rows]) for key in ("truth", "value", "seconds"))
        error = {"mean_absolute_error": float(np.abs(values - truths).mean()), "seconds": float(seconds.mean())}
        found[label] = figures(truths, values) | error
    finish(partial, path, {"figures": found, "peer": versions})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=[name for name in sorted(TASKS) if name != "cartpole"])
    parser.add_argument("--policies", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--data", type=Path, help="folder of D4RL's files")
    parser.add_argument("--python", type=Path, help="of an environment with d3rlpy, which is installed if not given")
    parser.add_argument("--fit-steps", type=int, default=FQE.n_steps)
    parser.add_argument("--ours", type=Path, default=RESULTS / "ope", help="folder of benchmarks.ope's results")
    parser.add_argument("--out", type=Path, default=RESULTS / "ope")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        for side, found in run(name, arguments).items():
            print(name, side, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
