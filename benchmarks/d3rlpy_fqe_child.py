"""
d3rlpy's fitted Q evaluation, run by d3rlpy's own python on behalf of :mod:`benchmarks.ope_peer`.

    python d3rlpy_fqe_child.py DATA.npz STEPS CRITICS BATCH WIDTH RATE

Says its versions once, as JSON. Then a line with the path of a traced policy asks for its value, and the answer is that and
the CPU seconds it took.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from types import SimpleNamespace

answers, sys.stdout = sys.stdout, sys.stderr  # d3rlpy prints too

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch as th  # noqa: E402
from d3rlpy.models.encoders import VectorEncoderFactory  # noqa: E402


def main(path: str, steps: str, critics: str, batch: str, width: str, rate: str) -> None:
    th.set_num_threads(1)
    data = dict(np.load(path))
    first = data.pop("first")
    dataset = d3rlpy.dataset.MDPDataset(**data)
    config = {
        "n_critics": int(critics),
        "batch_size": int(batch),
        "learning_rate": float(rate),
        "encoder_factory": VectorEncoderFactory([int(width)] * 2),
    }

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer({name: importlib.metadata.version(name) for name in ("d3rlpy", "torch", "numpy")})
    for line in sys.stdin:
        start = time.process_time()
        d3rlpy.seed(0)
        policy = th.jit.load(line.strip())
        judged = SimpleNamespace(impl=SimpleNamespace(predict_best_action=policy))
        fqe = d3rlpy.ope.FQE(judged, d3rlpy.ope.FQEConfig(gamma=0.99, **config))
        fqe.build_with_dataset(dataset)
        for _ in range(int(steps)):  # as its own fit() does
            fqe.update(dataset.sample_transition_batch(int(batch)))
        with th.no_grad():
            actions = policy(th.from_numpy(first)).numpy()
        value = float(fqe.predict_value(first, actions).mean())
        answer({"value": value, "seconds": round(time.process_time() - start, 2)})


if __name__ == "__main__":
    main(*sys.argv[1:])
