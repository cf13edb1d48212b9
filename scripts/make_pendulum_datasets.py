"""Make the two packaged Pendulum data sets by training Stable-Baselines3's SAC (about six minutes on one core).

    python scripts/make_pendulum_datasets.py            # writes sb3_offline/datasets/builtin/*.npz
    python scripts/make_pendulum_datasets.py --check    # trains again and compares with the packaged arrays

One SAC run, slowed down by few gradient steps and a small learning rate, gives both:
`Pendulum-medium-replay-v0` is its whole replay buffer, from random to good behaviour, and `Pendulum-medium-v0` are
episodes of the checkpoint whose score was nearest to 50, with the noise of its stochastic policy. Scores are returns
on the scale where 0 is the uniform random policy and 100 an SAC trained at the usual speed, acting by its mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from packaged_data import Made, figures, origin, write_or_check
from stable_baselines3 import SAC

from sb3_offline.datasets import load_dataset

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


def make(seed: int) -> Made:
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
        **origin("make_pendulum_datasets.py", seed),
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
    return {
        name: (dataset, {**card, "description": descriptions[name], **figures(dataset, random, expert)})
        for name, dataset in {"Pendulum-medium-replay-v0": replay, "Pendulum-medium-v0": medium}.items()
    }


if __name__ == "__main__":
    write_or_check(make, __doc__)
