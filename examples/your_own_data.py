"""Logged data as plain arrays, no simulator: train COMBO with a termination rule of your own, save, and act."""

import argparse

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_offline import COMBO, load_dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2000)
arguments = parser.parse_args()

# A cart on a rail, pushed at random: position and speed; an episode ends when it leaves the rail, or after 50 steps.
rng = np.random.default_rng(0)
rows: dict[str, list] = {name: [] for name in ("observations", "actions", "rewards", "terminations", "truncations")}
next_observations = []
for _ in range(100):
    position, speed = rng.uniform(-0.5, 0.5), 0.0
    for step in range(50):
        push = rng.uniform(-1, 1)
        rows["observations"].append([position, speed])
        speed = 0.95 * speed + 0.1 * push
        position += speed
        left = abs(position) > 1.0
        rows["actions"].append([push])
        rows["rewards"].append(1.0 - abs(position))
        rows["terminations"].append(left)
        rows["truncations"].append(step == 49 and not left)
        next_observations.append([position, speed])
        if left:
            break


def leaves_the_rail(_observations: th.Tensor, _actions: th.Tensor, next_observations: th.Tensor) -> th.Tensor:
    """Batched: (B, 2), (B, 1), (B, 2) -> bool (B,)."""
    return next_observations[:, 0].abs() > 1.0


dataset = load_dataset(
    {**{name: np.array(values) for name, values in rows.items()}, "next_observations": np.array(next_observations)},
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
)
dynamics_kwargs = {"hidden_sizes": (64, 64), "max_epochs": 20, "termination": leaves_the_rail}
model = COMBO("MlpPolicy", dataset=dataset, policy_kwargs={"net_arch": [64, 64]}, dynamics_kwargs=dynamics_kwargs, seed=0)
model.learn(arguments.steps, progress_bar=True)
model.save("cart_combo")

# a function of yours is code, which a model file does not bring back
model = COMBO.load("cart_combo", custom_objects={"dynamics_kwargs": dynamics_kwargs})
action, _ = model.predict(np.array([0.8, 0.05], dtype=np.float32), deterministic=True)
print(f"at 0.8, moving right: push {action[0]:+.2f}")
