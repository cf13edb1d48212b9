"""
d3rlpy's updates, run by d3rlpy's own python (which knows nothing of this library) on behalf of :mod:`benchmarks.speed`.

    python d3rlpy_child.py DATA.npz THREADS DEVICE CLOCK

Says its versions once, as JSON. Then a line "CQL 20" asks for 20 updates of CQL, and the answer is the seconds they took.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable

answers, sys.stdout = sys.stdout, sys.stderr  # d3rlpy prints too

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch as th  # noqa: E402
from d3rlpy.models.encoders import VectorEncoderFactory  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(path: str, threads: str, device: str, clock: str) -> None:
    th.set_num_threads(int(threads))
    data = np.load(path)
    dataset = d3rlpy.dataset.MDPDataset(**{name: data[name] for name in data.files})
    algorithms = {}
    for name, config, layers, more in (
        # alpha fixed, as ours
        ("CQL", d3rlpy.algos.CQLConfig, 3, {"n_action_samples": 10, "alpha_learning_rate": 0.0}),
        ("SAC", d3rlpy.algos.SACConfig, 2, {}),
        ("BC", d3rlpy.algos.BCConfig, 2, {}),  # deterministic, as its default is
        ("TD3BC", d3rlpy.algos.TD3PlusBCConfig, 2, {}),
        ("IQL", d3rlpy.algos.IQLConfig, 2, {}),
        ("AWAC", d3rlpy.algos.AWACConfig, 2, {}),
    ):
        encoder = VectorEncoderFactory([256] * layers)
        encoders = {field.name: encoder for field in dataclasses.fields(config) if field.name.endswith("encoder_factory")}
        algorithms[name] = config(batch_size=256, **encoders, **more).create(device=device)
        algorithms[name].build_with_dataset(dataset)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer({name: importlib.metadata.version(name) for name in ("d3rlpy", "torch", "numpy")})
    now: Callable[[], float] = CLOCKS[clock]
    for line in sys.stdin:
        name, n_updates = line.split()
        start = now()
        for _ in range(int(n_updates)):  # as its own fit() does; the losses it returns are read on the way
            algorithms[name].update(dataset.sample_transition_batch(256))
        answer(now() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
