"""Make the packaged CartPole data set by training Stable-Baselines3's DQN (two minutes on one core).

    python scripts/make_cartpole_datasets.py            # writes sb3_offline/datasets/builtin/CartPole-medium-replay-v0.npz
    python scripts/make_cartpole_datasets.py --check    # trains again and compares with the packaged arrays

`CartPole-medium-replay-v0` are the newest 20,000 rows of the replay buffer of a DQN run with RL-Zoo's hyperparameters,
stopped at step 45,000, when it had begun to balance for long but not yet reliably. Scores are returns on the scale where 0
is the uniform random policy and 100 the time limit, 500 steps, which a trained policy reaches.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from packaged_data import Made, figures, origin, write_or_check
from stable_baselines3 import DQN

from sb3_offline.datasets import load_dataset
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


def make(seed: int) -> Made:
    """The data set and its card."""
    model = DQN("MlpPolicy", ENV_ID, buffer_size=STEPS, seed=seed + 1, device="cpu", **DQN_OPTIONS)
    model.learn(STEPS)
    replay = load_dataset(model.replay_buffer, env_id=ENV_ID)
    newest = {name: getattr(replay, name)[-ROWS:] for name in ARRAY_NAMES}
    dataset = load_dataset(newest, env_id=ENV_ID)
    random, expert = random_return(seed), float(model.env.get_attr("spec")[0].max_episode_steps)  # type: ignore[union-attr]
    card = {
        "env_id": ENV_ID,
        "reference_min_score": random,
        "reference_max_score": expert,
        "reference_scores": (
            f"0: uniform random actions, mean return over {EVAL_EPISODES} episodes; 100: the time limit, {expert:.0f}"
        ),
        **origin("make_cartpole_datasets.py", seed),
        "dqn": {**DQN_OPTIONS, "steps": STEPS, "note": "RL-Zoo's hyperparameters for CartPole-v1"},
        "license": "MIT",
        "description": f"The newest {ROWS} rows of the replay buffer of one DQN run, stopped at step {STEPS}.",
        **figures(dataset, random, expert),
    }
    return {NAME: (dataset, card)}


if __name__ == "__main__":
    write_or_check(make, __doc__)
