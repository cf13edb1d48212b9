"""Make the two packaged Pendulum data sets by training Stable-Baselines3's SAC (about six minutes on one core).

    python scripts/make_pendulum_datasets.py            # writes sb3_offline/datasets/builtin/*.npz
    python scripts/make_pendulum_datasets.py --check    # trains again and compares with the packaged arrays

One SAC run, slowed down by few gradient steps and a small learning rate, gives both:
`Pendulum-medium-replay-v0` is its whole replay buffer, from random to good behaviour, and `Pendulum-medium-v0` are
episodes of the checkpoint whose score was nearest to 50, with the noise of its stochastic policy. Scores are returns
on the scale where 0 is the uniform random policy and 100 an SAC trained at the usual speed, acting by its mean.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3 import SAC

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

ENV_ID = "Pendulum-v1"
EPISODE_STEPS = 200
EVAL_EPISODES = 100
TARGET_SCORE = 50.0
SLOW = {"learning_rate": 3e-4, "train_freq": 6, "gradient_steps": 1, "learning_starts": 1000, "steps": 30_000}
EXPERT = {"learning_rate": 1e-3, "steps": 15_000}
CHECKPOINT_EVERY = 600
MEDIUM_EPISODES = 150

Policy = Callable[[np.ndarray], np.ndarray]


def rollout(policy: Policy, n_episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Whole episodes of a batch policy, one after the other in the arrays; episode i is reset with seed + i."""
    envs = [gym.make(ENV_ID) for _ in range(n_episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("observations", "actions", "rewards", "next")}
    for _ in range(EPISODE_STEPS):
        actions = policy(obs)
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        next_obs = np.stack([step[0] for step in steps])
        rewards = np.array([step[1] for step in steps], dtype=np.float32)
        for column, value in zip(columns.values(), (obs, actions, rewards, next_obs), strict=True):
            column.append(value)
        obs = next_obs
    flat = {name: np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for name, parts in columns.items()}
    ends = np.arange(1, n_episodes * EPISODE_STEPS + 1) % EPISODE_STEPS == 0
    flat["next_observations"] = flat.pop("next")
    return {**flat, "terminations": np.zeros_like(ends), "truncations": ends}


def mean_return(policy: Policy, n_episodes: int, seed: int) -> float:
    return float(rollout(policy, n_episodes, seed)["rewards"].sum(dtype=np.float64) / n_episodes)


def acting(model: SAC, deterministic: bool) -> Policy:
    return lambda obs: model.predict(obs, deterministic=deterministic)[0]


def reference_returns(seed: int) -> tuple[float, float]:
    """Mean returns of the uniform random policy and of a trained SAC's mean action."""
    rng = np.random.default_rng(seed)
    random = mean_return(lambda obs: rng.uniform(-2, 2, (len(obs), 1)).astype(np.float32), EVAL_EPISODES, seed + 10_000)
    expert = SAC("MlpPolicy", ENV_ID, learning_rate=EXPERT["learning_rate"], seed=seed, device="cpu")
    expert.learn(int(EXPERT["steps"]))
    return random, mean_return(acting(expert, deterministic=True), EVAL_EPISODES, seed + 10_000)


def train_slowly(seed: int, random: float, expert: float) -> tuple[SAC, dict[str, Any], int, float]:
    """The slowed run, and the weights, the step and the score of its medium checkpoint."""
    options = {key: value for key, value in SLOW.items() if key != "steps"}
    steps = int(SLOW["steps"])
    model = SAC("MlpPolicy", ENV_ID, buffer_size=steps, seed=seed, device="cpu", **options)  # type: ignore[arg-type]
    best: tuple[float, float, int, dict[str, Any]] | None = None
    for step in range(CHECKPOINT_EVERY, steps + 1, CHECKPOINT_EVERY):
        model.learn(CHECKPOINT_EVERY, reset_num_timesteps=False)
        score = 100 * (mean_return(acting(model, False), 20, seed + 20_000) - random) / (expert - random)
        print(f"step {step}: stochastic policy scores {score:.1f}", flush=True)
        if best is None or abs(score - TARGET_SCORE) < best[0]:
            weights = {name: value.clone() for name, value in model.policy.state_dict().items()}
            best = (abs(score - TARGET_SCORE), score, step, weights)
    assert best is not None
    return model, best[3], best[2], best[1]


def write(path: Path, dataset: OfflineDataset, card: dict[str, Any]) -> None:
    """The arrays and the card, in place at once or not at all."""
    stream = io.BytesIO()
    arrays = {name: getattr(dataset, name) for name in ARRAY_NAMES if name != "valid_next"}
    np.savez_compressed(stream, metadata=np.array(json.dumps(card)), **arrays)
    partial = path.with_suffix(".partial")
    partial.write_bytes(stream.getvalue())
    partial.replace(path)


def make(seed: int) -> dict[str, tuple[OfflineDataset, dict[str, Any]]]:
    """Both data sets with their cards, by name."""
    random, expert = reference_returns(seed)
    print(f"random {random:.1f}, trained {expert:.1f}", flush=True)
    model, weights, medium_step, medium_score = train_slowly(seed + 1, random, expert)
    replay = load_dataset(model.replay_buffer, env_id=ENV_ID)
    model.policy.load_state_dict(weights)
    th.manual_seed(seed)
    medium = load_dataset(rollout(acting(model, False), MEDIUM_EPISODES, seed + 30_000), env_id=ENV_ID)

    card = {
        "env_id": ENV_ID,
        "reference_min_score": random,
        "reference_max_score": expert,
        "reference_scores": (
            f"0: uniform random actions; 100: mean action of SAC after {EXPERT['steps']} steps at learning rate "
            f"{EXPERT['learning_rate']}; mean returns over {EVAL_EPISODES} episodes"
        ),
        "made_by": "scripts/make_pendulum_datasets.py",
        "command": f"OMP_NUM_THREADS=1 python scripts/make_pendulum_datasets.py --seed {seed}",
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__,
            "gymnasium": gym.__version__,
            "numpy": np.__version__,
        },
        "sac": {**SLOW, "note": "one gradient step every train_freq steps; otherwise Stable-Baselines3's defaults"},
        "license": "MIT",
    }
    descriptions = {
        "Pendulum-medium-replay-v0": f"The whole replay buffer of {SLOW['steps']} steps of one slowed SAC run.",
        "Pendulum-medium-v0": (
            f"{MEDIUM_EPISODES} episodes of the stochastic policy of the same run at step {medium_step}, which scored "
            f"{medium_score:.0f} over 20 episodes (the checkpoint nearest to {TARGET_SCORE:.0f})."
        ),
    }
    made = {}
    for name, dataset in {"Pendulum-medium-replay-v0": replay, "Pendulum-medium-v0": medium}.items():
        returns = dataset.episode_returns()
        figures = {
            "description": descriptions[name],
            "transitions": len(dataset),
            "mean_return": float(returns.mean()),
            "mean_normalized_score": 100 * (float(returns.mean()) - random) / (expert - random),
            "fingerprint": dataset.fingerprint(),
        }
        made[name] = (dataset, {**card, **figures})
        print(name, {key: value for key, value in figures.items() if key != "description"}, flush=True)
    return made


def main() -> None:
    """Write the files, or compare with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).parent.parent / "sb3_offline" / "datasets" / "builtin"
    parser.add_argument("--out", type=Path, default=default, help="folder of the npz files")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)  # the order of sums, and so the last digits, depend on it
    made = make(options.seed)
    for name, (dataset, card) in made.items():
        path = options.out / f"{name}.npz"
        if not options.check:
            write(path, dataset, card)
            print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
        elif load_dataset(path).fingerprint() != dataset.fingerprint():
            raise SystemExit(f"{path} differs: other versions, or another processor, give other last digits.")
        else:
            print(f"{path} holds the same arrays")


if __name__ == "__main__":
    main()
