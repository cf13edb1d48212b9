"""Make the packaged CartPole data set by training Stable-Baselines3's DQN (two minutes on one core).

    python scripts/make_cartpole_datasets.py            # writes sb3_offline/datasets/builtin/CartPole-medium-replay-v0.npz
    python scripts/make_cartpole_datasets.py --check    # trains again and compares with the packaged arrays

`CartPole-medium-replay-v0` are the newest 20,000 rows of the replay buffer of a DQN run with RL-Zoo's hyperparameters,
stopped at step 45,000, when it had begun to balance for long but not yet reliably. Scores are returns on the scale where 0
is the uniform random policy and 100 the time limit, 500 steps, which a trained policy reaches.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from make_pendulum_datasets import write
from stable_baselines3 import DQN

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

ENV_ID = "CartPole-v1"
NAME = "CartPole-medium-replay-v0"
EVAL_EPISODES = 1000
STEPS = 45_000
ROWS = 20_000
DQN_OPTIONS: dict[str, Any] = {  # rl-baselines3-zoo's, for CartPole-v1
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "learning_starts": 1000,
    "train_freq": 256,
    "gradient_steps": 128,
    "target_update_interval": 10,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}


def random_return(seed: int) -> float:
    """Mean return of the uniform random policy."""
    env = gym.make(ENV_ID)
    env.action_space.seed(seed)
    total = 0.0
    for episode in range(EVAL_EPISODES):
        env.reset(seed=seed + 10_000 + episode)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, ended = total + float(reward), terminated or truncated
    return total / EVAL_EPISODES


def make(seed: int) -> tuple[OfflineDataset, dict[str, Any]]:
    """The data set and its card."""
    model = DQN("MlpPolicy", ENV_ID, buffer_size=STEPS, seed=seed + 1, device="cpu", **DQN_OPTIONS)
    model.learn(STEPS)
    replay = load_dataset(model.replay_buffer, env_id=ENV_ID)
    newest = {name: getattr(replay, name)[-ROWS:] for name in ARRAY_NAMES}
    dataset = load_dataset(newest, env_id=ENV_ID)
    returns = dataset.episode_returns()
    random, expert = random_return(seed), float(model.env.get_attr("spec")[0].max_episode_steps)  # type: ignore[union-attr]
    return dataset, {
        "env_id": ENV_ID,
        "reference_min_score": random,
        "reference_max_score": expert,
        "reference_scores": (
            f"0: uniform random actions, mean return over {EVAL_EPISODES} episodes; 100: the time limit, {expert:.0f}"
        ),
        "made_by": "scripts/make_cartpole_datasets.py",
        "command": f"OMP_NUM_THREADS=1 python scripts/make_cartpole_datasets.py --seed {seed}",
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__,
            "gymnasium": gym.__version__,
            "numpy": np.__version__,
        },
        "dqn": {**DQN_OPTIONS, "steps": STEPS, "note": "RL-Zoo's hyperparameters for CartPole-v1"},
        "license": "MIT",
        "description": f"The newest {ROWS} rows of the replay buffer of one DQN run, stopped at step {STEPS}.",
        "transitions": len(dataset),
        "mean_return": float(returns.mean()),
        "mean_normalized_score": 100 * (float(returns.mean()) - random) / (expert - random),
        "fingerprint": dataset.fingerprint(),
    }


def main() -> None:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).parent.parent / "sb3_offline" / "datasets" / "builtin"
    parser.add_argument("--out", type=Path, default=default, help="folder of the npz file")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)  # the order of sums, and so the last digits, depend on it
    dataset, card = make(options.seed)
    print({key: card[key] for key in ("reference_min_score", "transitions", "mean_return", "mean_normalized_score")})
    path = options.out / f"{NAME}.npz"
    if not options.check:
        write(path, dataset, card)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    elif load_dataset(path).fingerprint() != dataset.fingerprint():
        raise SystemExit(f"{path} differs: other versions, or another processor, give other last digits.")
    else:
        print(f"{path} holds the same arrays")


if __name__ == "__main__":
    main()
