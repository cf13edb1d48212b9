"""
One training run of d3rlpy, by d3rlpy's own python, which knows nothing of this library: a child of
:mod:`benchmarks.peer_runs`, to which it says a line of JSON an evaluation.

    python d3rlpy_run.py DATA.npz ENV_ID ALGORITHM SEED STEPS EVAL_EVERY EPISODES FINAL_EPISODES
"""

from __future__ import annotations

import json
import sys
import time

answers, sys.stdout = sys.stdout, sys.stderr  # d3rlpy prints too

import d3rlpy  # noqa: E402
import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
import torch as th  # noqa: E402
from d3rlpy.logging.noop_adapter import NoopAdapterFactory  # noqa: E402


def evaluate(algorithm: d3rlpy.algos.QLearningAlgoBase, env: gym.Env, n_episodes: int, seed: int) -> dict[str, float]:
    """Of the deterministic policy, from starts that the seed of the first one decides."""
    returns = []
    for episode in range(n_episodes):
        observation, over, total = env.reset(seed=seed if episode == 0 else None)[0], False, 0.0
        while not over:
            action = algorithm.predict(np.asarray(observation, dtype=np.float32)[None])[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return {"mean_return": float(np.mean(returns)), "std_return": float(np.std(returns))}


def main(path: str, env_id: str, name: str, *numbers: str) -> None:
    seed, steps, eval_every, n_episodes, n_final = map(int, numbers)
    th.set_num_threads(1)
    d3rlpy.seed(seed)
    data = np.load(path)
    dataset = d3rlpy.dataset.MDPDataset(**{column: data[column] for column in data.files})
    env = gym.make(env_id)

    def say(record: dict[str, float]) -> None:
        print(json.dumps(record), file=answers, flush=True)

    start = time.perf_counter()
    algorithm = getattr(d3rlpy.algos, f"{name}Config")().create(device="cpu:0")
    algorithm.build_with_dataset(dataset)
    preparation = round(time.perf_counter() - start, 2)
    epochs = algorithm.fitter(
        dataset,
        n_steps=steps,
        n_steps_per_epoch=eval_every,
        show_progress=False,
        logger_adapter=NoopAdapterFactory(),
    )
    for epoch, _ in epochs:
        step, seconds = epoch * eval_every, round(time.perf_counter() - start, 2)
        times = {"seconds": seconds, "preparation_seconds": preparation}
        say({"step": step} | evaluate(algorithm, env, n_episodes, seed + step) | times)
    seconds = round(time.perf_counter() - start, 1)
    say({"final": True} | evaluate(algorithm, env, n_final, seed + steps) | {"seconds": seconds})


if __name__ == "__main__":
    main(*sys.argv[1:])
