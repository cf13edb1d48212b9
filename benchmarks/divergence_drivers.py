"""
What drives divergence? Q-learning on ten states with 36 networks and six learning rates, against what the kernel says.

    python -m benchmarks.divergence_drivers

Achiam, Knight and Abbeel (2019) name three drivers: over-generalisation (off-diagonal entries of the kernel), the
learning rate, the architecture. Here Q-learning runs by full-batch gradient descent, without a target network, on all 20
pairs of a corridor of ten states, and each run's outcome is set beside the indicators of its network at initialisation
and after 20 steps. Writes results/divergence_drivers.json and .png; takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from sb3_offline.diagnostics import ntk

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
GAMMA, N_STATES = 0.95, 10
WIDTHS, DEPTHS, LEARNING_RATES, SEEDS = (16, 64, 256), (1, 2, 3), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0, 1, 2)
STEPS, EARLY, CHECK = 1000, 20, 20
OUTCOMES = ("solved", "unfinished", "diverged")
INDICATORS = ("row_ratio", "beta_modulus", "td_growth", "td_spectral_radius", "effective_rank")


class Sine(nn.Module):
    def __init__(self, frequency: float):
        super().__init__()
        self.frequency = frequency

    def forward(self, x: th.Tensor) -> th.Tensor:
        return th.sin(self.frequency * x)


ACTIVATIONS: dict[str, nn.Module] = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sin": Sine(1.0), "sin 4x": Sine(4.0)}


class Corridor:
    """Left and right along ten states; reward 1 for acting in the last. Pairs are numbered 2 s + a."""

    def __init__(self) -> None:
        states = np.arange(N_STATES)
        self.inputs = th.tensor([[2 * s / (N_STATES - 1) - 1, 2 * a - 1] for s in states for a in (0, 1)], dtype=th.float32)
        left, right = np.maximum(states - 1, 0), np.minimum(states + 1, N_STATES - 1)
        self.successors = th.tensor(np.stack([left, right], axis=1).flatten())
        self.rewards = th.tensor(np.repeat(states == N_STATES - 1, 2), dtype=th.float32)
        self.optimal = th.zeros(2 * N_STATES)
        for _ in range(1000):
            self.optimal = self.target(self.optimal)

    def target(self, q: th.Tensor) -> th.Tensor:
        """T*Q, (..., 20) as q."""
        return self.rewards + GAMMA * q.unflatten(-1, (N_STATES, 2)).amax(-1)[..., self.successors]

    def greedy_successors(self, q: th.Tensor) -> th.Tensor:
        """The number of the pair that follows each pair, (20,)."""
        return 2 * self.successors + q.reshape(N_STATES, 2).argmax(1)[self.successors]


def make_network(activation: str, depth: int, width: int, seed: int) -> nn.Sequential:
    with th.random.fork_rng():
        th.manual_seed(seed)
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(2 if i == 0 else width, width), ACTIVATIONS[activation]]
        return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(-2))


def indicators(network: nn.Sequential, corridor: Corridor, learning_rate: float) -> dict[str, float]:
    """What the kernel says of this network, by name."""
    kernel = ntk.kernel(network, corridor.inputs)
    with th.no_grad():
        next_kernel = kernel[corridor.greedy_successors(network(corridor.inputs))]
    rho = np.full(len(kernel), 1 / len(kernel))
    growth = ntk.td_growth_rate(kernel, next_kernel, rho, GAMMA)
    return {
        "row_ratio": float(ntk.row_ratio(kernel).mean()),
        "beta_modulus": ntk.beta_modulus(kernel, rho, learning_rate, GAMMA),
        "td_growth": growth / float(kernel.diagonal().mean()),
        "td_spectral_radius": ntk.td_spectral_radius(kernel, next_kernel, rho, learning_rate, GAMMA),
        "effective_rank": ntk.effective_rank(kernel),
        "cond16": float(ntk.cond16(kernel, rho, learning_rate)),
        "cond17": float(ntk.cond17(kernel, rho, GAMMA)),
    }


def run_architecture(corridor: Corridor, activation: str, depth: int, width: int) -> Iterator[dict[str, Any]]:
    """Train the architecture with every learning rate and seed at once; yield one record a run."""
    runs = list(itertools.product(LEARNING_RATES, SEEDS))
    networks = [make_network(activation, depth, width, seed) for _, seed in runs]
    parameters, _ = stack_module_state(networks)
    parameters = {name: value.detach() for name, value in parameters.items()}
    rates = th.tensor([rate for rate, _ in runs])
    base = networks[0]
    records: list[dict[str, Any]] = [
        {"activation": activation, "depth": depth, "width": width, "learning_rate": rate, "seed": seed}
        | {"init": indicators(network, corridor, rate)}
        for (rate, seed), network in zip(runs, networks, strict=True)
    ]

    def q_values(values: dict[str, th.Tensor]) -> th.Tensor:
        return functional_call(base, values, (corridor.inputs,))

    def loss(values: dict[str, th.Tensor]) -> th.Tensor:
        q = q_values(values)
        return 0.5 * (q - corridor.target(q.detach())).square().mean()

    gradients = vmap(grad(loss))
    running = list(range(len(runs)))
    bound = 10 * float(corridor.optimal.max())
    for step in range(1, STEPS + 1):
        slopes = gradients(parameters)
        parameters = {
            name: value - rates.reshape(-1, *[1] * (value.ndim - 1)) * slopes[name] for name, value in parameters.items()
        }
        if step % CHECK:
            continue
        alive = vmap(q_values)(parameters).abs().amax(1) <= bound  # False for NaN
        for run, kept in zip(running, alive.tolist(), strict=True):
            if not kept:
                records[run] |= {"outcome": "diverged", "step": step}
        running = [run for run, kept in zip(running, alive.tolist(), strict=True) if kept]
        parameters, rates = {name: value[alive] for name, value in parameters.items()}, rates[alive]
        if not running:
            break
        if step == EARLY:
            for row, run in enumerate(running):
                base.load_state_dict({name: value[row] for name, value in parameters.items()})
                records[run]["early"] = indicators(base, corridor, records[run]["learning_rate"])
    if running:
        errors = (vmap(q_values)(parameters) - corridor.optimal).abs().amax(1) / corridor.optimal.max()
        for run, error in zip(running, errors.tolist(), strict=True):
            records[run] |= {"outcome": "solved" if error < 0.1 else "unfinished", "error": error}
    yield from records


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half; NaN if either class is empty."""
    if positive.all() or not positive.any():
        return float("nan")
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def both_together(records: list[dict[str, Any]]) -> float:
    """AUC of Fisher's linear discriminant on log(beta modulus - 1) and the row ratio at initialisation, in sample."""
    features = np.array([[np.log(r["init"]["beta_modulus"] - 1), r["init"]["row_ratio"]] for r in records])
    diverged = np.array([r["outcome"] == "diverged" for r in records])
    within = np.cov(features[diverged].T) + np.cov(features[~diverged].T)
    return auc(features @ np.linalg.solve(within, features[diverged].mean(0) - features[~diverged].mean(0)), diverged)


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Outcomes by each driver, and how well each indicator separates the diverged runs from the others."""
    by_driver = {
        driver: {
            str(value): dict(Counter(r["outcome"] for r in records if r[driver] == value))
            for value in dict.fromkeys(r[driver] for r in records)
        }
        for driver in ("activation", "depth", "width", "learning_rate")
    }
    separation = {}
    for when in ("init", "early"):
        known = [r for r in records if when in r]
        diverged = np.array([r["outcome"] == "diverged" for r in known])
        rates = np.array([r["learning_rate"] for r in known])
        for name in INDICATORS:
            scores = np.array([r[when][name] for r in known])
            inside = [auc(scores[rates == rate], diverged[rates == rate]) for rate in LEARNING_RATES]
            separation[f"{when} {name}"] = {
                "all": round(auc(scores, diverged), 3),
                "within_learning_rate": round(float(np.nanmean(inside)), 3),
            }
    return {
        "n_runs": len(records),
        "outcomes": dict(Counter(r["outcome"] for r in records)),
        "by_driver": by_driver,
        "auc_for_divergence": separation,
        "auc_of_beta_modulus_and_row_ratio_together": round(both_together(records), 3),
        "cond16_and_17_hold_at_init": sum(r["init"]["cond16"] * r["init"]["cond17"] for r in records),
    }


def plot(records: list[dict[str, Any]], path: Path) -> None:
    architectures = list(dict.fromkeys((r["activation"], r["depth"], r["width"]) for r in records))
    share = np.array(
        [
            [
                np.mean([r["outcome"] == "diverged" for r in records if key(r) == architecture and r["learning_rate"] == rate])
                for rate in LEARNING_RATES
            ]
            for architecture in architectures
        ]
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 7), width_ratios=[1, 1.4], layout="constrained")
    image = left.imshow(share, aspect="auto", cmap="Reds", vmin=0, vmax=1)
    left.set_xticks(range(len(LEARNING_RATES)), [str(rate) for rate in LEARNING_RATES])
    left.set_yticks(range(len(architectures)), [f"{a}, {d} x {w}" for a, d, w in architectures], fontsize=7)
    left.set_xlabel("learning rate")
    left.set_title("share of runs that diverged")
    figure.colorbar(image, ax=left, shrink=0.4)
    for outcome, color in zip(OUTCOMES, ("C2", "C0", "C3"), strict=True):
        chosen = [r for r in records if r["outcome"] == outcome]
        moduli = [r["init"]["beta_modulus"] - 1 for r in chosen]
        right.scatter(moduli, [r["init"]["row_ratio"] for r in chosen], s=14, c=color, label=outcome, alpha=0.6, lw=0)
    right.set_xscale("log")
    right.set_xlabel("beta modulus - 1, at initialisation")
    right.set_ylabel("mean row ratio, at initialisation")
    right.legend()
    figure.savefig(path, dpi=100)


def key(record: dict[str, Any]) -> tuple[str, int, int]:
    return record["activation"], record["depth"], record["width"]


def table(records: list[dict[str, Any]]) -> str:
    """The runs as JSON: the names of the columns, then one row a run, floats to four significant digits."""
    columns = ["activation", "depth", "width", "learning_rate", "seed", "outcome", "step", "error"]
    names = columns + [f"{when} {name}" for when in ("init", "early") for name in INDICATORS]

    def row(record: dict[str, Any]) -> list[Any]:
        values = [record.get(name) for name in columns]
        values += [record.get(when, {}).get(name) for when in ("init", "early") for name in INDICATORS]
        return [float(f"{value:.4g}") if isinstance(value, float) else value for value in values]

    rows = ",\n".join(json.dumps(row(record)) for record in records)
    return f'"columns": {json.dumps(names)},\n "runs": [\n{rows}\n]'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON and the picture")
    output = parser.parse_args().output
    start, corridor = time.time(), Corridor()
    records = [
        record
        for architecture in itertools.product(ACTIVATIONS, DEPTHS, WIDTHS)
        for record in run_architecture(corridor, *architecture)
    ]
    summary = summarise(records)
    made = {
        "command": "python -m benchmarks.divergence_drivers",
        "torch": th.__version__,
        "threads": th.get_num_threads(),
        "seconds": round(time.time() - start),
        "gamma": GAMMA,
        "steps": STEPS,
        "diverged": "max |Q| above 10 times the optimum",
        "solved": "max |Q - Q*| below 10% of the optimum",
    }
    output.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"made": made, "summary": summary}, indent=1)
    (output / "divergence_drivers.json").write_text(f"{head[:-2]},\n {table(records)}}}\n")
    plot(records, output / "divergence_drivers.png")
    print(head)


if __name__ == "__main__":
    main()
