"""
Seconds an epoch of the dynamics model, beside a loop that materialises a copy of the data for each member, and imagined
transitions a second.

    python -m benchmarks.speed_dynamics --threads 2

Both loops have the same networks, data and batches (hopper: 11+3 dims, 120,000 rows, 7 members of 4x200, batch 256) and take
turns in one process; an epoch is extrapolated from a part of its batches, and the copies are added once. The floor is the
arithmetic of the matrix products over the rate that this machine reaches on the largest of them alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch as th
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from benchmarks.run import RESULTS, machine
from sb3_offline.dynamics import EnsembleDynamics, rollout
from sb3_offline.dynamics.epoch import train_batches
from sb3_offline.dynamics.rules import never_ended
from sb3_offline.execution.precision import Precision
from sb3_offline.shell.consoles import print_whole

OBSERVATION_DIM, ACTION_DIM, N_MEMBERS, WIDTH, DEPTH, BATCH_SIZE = 11, 3, 7, 200, 4, 256
N_INPUTS, N_TARGETS = OBSERVATION_DIM + ACTION_DIM, OBSERVATION_DIM + 1
DECAYS = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = "wall"
MODES: tuple[Precision, ...] = ("float32", "bf16")


class ReferenceEnsemble(nn.Module):
    """The usual stacked ensemble: products and biases apart, swish as x * sigmoid(x), one pair of bounds for all members."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [N_INPUTS, *[WIDTH] * DEPTH, 2 * N_TARGETS]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([0.5 / n**0.5 * th.randn(N_MEMBERS, n, m) for n, m in shapes])
        self.biases = nn.ParameterList([th.zeros(N_MEMBERS, 1, m) for _, m in shapes])
        self.max_logvar = nn.Parameter(th.full((1, N_TARGETS), 0.5))
        self.min_logvar = nn.Parameter(th.full((1, N_TARGETS), -10.0))

    def forward(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        hidden = inputs
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = th.bmm(hidden, weight) + bias
            if layer < DEPTH:
                hidden = hidden * th.sigmoid(hidden)
        mean, logvar = hidden.chunk(2, dim=-1)
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        return mean, self.min_logvar + F.softplus(logvar - self.min_logvar)


class ReferenceLoop:
    """An epoch as it is usually written: the members' bootstrap samples are copied out, then cut into batches."""

    def __init__(self, inputs: th.Tensor, targets: th.Tensor, ensemble_idx: th.Tensor):
        self.inputs, self.targets, self.ensemble_idx = inputs, targets, ensemble_idx
        self.model = ReferenceEnsemble()
        self.optimizer = th.optim.Adam(self.model.parameters(), lr=1e-3)

    def materialize(self) -> None:
        """Shuffle each member's sample, and copy it out."""
        self.ensemble_idx = self.ensemble_idx.gather(1, th.rand(self.ensemble_idx.shape).argsort(dim=1))
        self.copies = self.inputs[self.ensemble_idx], self.targets[self.ensemble_idx]

    def train(self, n_batches: int) -> None:
        losses = []
        for batch in range(n_batches):
            rows = slice(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE)
            inputs, targets = (copy[:, rows] for copy in self.copies)
            mean, logvar = self.model(inputs)
            loss = ((mean - targets).square() * th.exp(-logvar)).mean(dim=(1, 2)).sum() + logvar.mean(dim=(1, 2)).sum()
            for decay, weight in zip(DECAYS, self.model.weights, strict=True):
                loss = loss + decay * weight.square().sum() / 2.0
            loss = loss + 0.01 * self.model.max_logvar.sum() - 0.01 * self.model.min_logvar.sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())


def epoch(n_rows: int = 120_000, n_batches: int = 40, repeats: int = 5) -> dict[str, Any]:
    """Seconds an epoch of either loop; the reference in float32, ours in each precision, medians of the repeats."""
    generator = th.Generator().manual_seed(0)
    data = th.randn(n_rows, N_INPUTS + N_TARGETS, generator=generator)
    bootstrap = th.randint(n_rows, (N_MEMBERS, n_rows), generator=generator)
    batches = [(columns, 0.5) for columns in th.randperm(n_rows, generator=generator).split(BATCH_SIZE)]
    model = EnsembleDynamics(OBSERVATION_DIM, ACTION_DIM, n_members=N_MEMBERS, hidden_sizes=(WIDTH,) * DEPTH)
    optimizer = th.optim.Adam(model.member_parameters(), lr=1e-3, fused=True)
    inputs, targets = (part.contiguous() for part in data.tensor_split([N_INPUTS], dim=1))
    reference = ReferenceLoop(inputs, targets, bootstrap)
    reference.materialize()
    reference.train(3)

    def ours(precision: Precision) -> None:
        train_batches(
            model, optimizer, lambda rows: data.index_select(0, rows), bootstrap, batches[:n_batches], 0.01, precision
        )

    times: dict[str, list[float]] = {name: [] for name in ("copies", "reference", *MODES)}
    for precision in MODES:
        ours(precision)
    for _ in range(repeats):
        times["copies"].append(seconds(reference.materialize))
        times["reference"].append(seconds(lambda: reference.train(n_batches)))
        for precision in MODES:
            times[precision].append(seconds(lambda p=precision: ours(p)))  # type: ignore[misc]
    medians = {name: statistics.median(values) for name, values in times.items()}
    share = len(batches) / n_batches
    figures: dict[str, Any] = {"reference_seconds": medians["copies"] + share * medians["reference"]}
    for precision in MODES:
        figures[f"{precision}_seconds"] = share * medians[precision]
        figures[f"{precision}_speedup"] = figures["reference_seconds"] / figures[f"{precision}_seconds"]
        figures[f"{precision}_floor_seconds"] = len(batches) * batch_flops() / product_rate(precision)
    return {"rows": n_rows, "batches": len(batches), "timed_batches": n_batches, "repeats": repeats, **figures, "raw": times}


def rollouts(n_starts: int = 5_000, horizon: int = 5, repeats: int = 7) -> dict[str, Any]:
    """Imagined transitions a second: a policy of 2x256 in the five elites of seven members, no row ends."""
    model = EnsembleDynamics(OBSERVATION_DIM, ACTION_DIM, n_members=N_MEMBERS, n_elites=5, hidden_sizes=(WIDTH,) * DEPTH)
    model.fitted.fill_(True)
    layers = [nn.Linear(OBSERVATION_DIM, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, ACTION_DIM)]
    policy = nn.Sequential(*layers, nn.Tanh())
    generator = th.Generator().manual_seed(0)
    starts = th.randn(n_starts, OBSERVATION_DIM, generator=generator)

    def imagine(precision: Precision) -> None:
        rollout(model, starts, policy, lambda _o, _a, following: never_ended(following), horizon, generator, precision)

    times: dict[str, list[float]] = {precision: [] for precision in MODES}
    for repeat in range(repeats + 1):
        for precision in MODES:
            taken = seconds(lambda p=precision: imagine(p))  # type: ignore[misc]
            if repeat:  # the first allocates
                times[precision].append(taken)
    rates = {f"{name}_per_second": n_starts * horizon / statistics.median(values) for name, values in times.items()}
    return {"starts": n_starts, "horizon": horizon, "repeats": repeats, **rates, "raw": times}


def batch_flops() -> float:
    """Of the matrix products of one step: forward, gradients of the weights, and of all inputs but the first layer's."""
    sizes = [N_INPUTS, *[WIDTH] * DEPTH, 2 * N_TARGETS]
    products = [n * m for n, m in itertools.pairwise(sizes)]
    return 2.0 * N_MEMBERS * BATCH_SIZE * (3 * sum(products) - products[0])


def product_rate(precision: Precision, members: int = N_MEMBERS, n_rows: int = BATCH_SIZE, width: int = WIDTH) -> float:
    """FLOP/s of a hidden layer's product alone, the best of 30."""
    rows, weights = th.randn(members, n_rows, width), th.randn(members, width, width)
    if precision == "bf16":
        rows, weights = rows.bfloat16(), weights.bfloat16()
    best = min(seconds(lambda: th.bmm(rows, weights)) for _ in range(30))
    return 2.0 * members * n_rows * width * width / best


def seconds(work: Callable[[], Any]) -> float:
    start = CLOCKS[_clock]()
    work()
    return CLOCKS[_clock]() - start


def set_clock(name: str) -> None:
    """ "wall", or "cpu": the processor's time of this process, for a machine that is busy with other things."""
    global _clock
    _clock = name


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40, help="timed batches of an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's time, on a busy machine")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_dynamics.json")
    arguments = parser.parse_args(argv)
    th.set_num_threads(arguments.threads)
    set_clock(arguments.clock)
    figures = epoch(n_batches=arguments.batches, repeats=arguments.repeats)
    imagined = rollouts(repeats=arguments.repeats)
    table = Table(
        "dynamics", "seconds an epoch", "times the reference", "floor", "transitions a second", title="hopper, 7x4x200"
    )
    table.add_row("reference, float32", f"{figures['reference_seconds']:.1f}", "1.00", "", "")
    for name in MODES:
        speed = [f"{figures[f'{name}_seconds']:.1f}", f"{figures[f'{name}_speedup']:.2f}"]
        table.add_row(name, *speed, f"{figures[f'{name}_floor_seconds']:.1f}", f"{imagined[f'{name}_per_second']:,.0f}")
    print_whole(table)
    record = {"machine": machine(), "clock": arguments.clock, "epoch": figures, "rollouts": imagined}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
