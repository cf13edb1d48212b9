"""
The trap: a small stochastic task in which a mean of few rows does not show what a spread does.

A walker on [-1, 1] x [0, 1.5] wants from the left bank to the goal on the right. Between them lies a river, |x| < 0.2. The
short way wades through it; the long way takes the bridge, y >= 1. A step moves by 0.1 times the action (at most of length 1)
plus noise, and costs 0.4 with a standard deviation of 0.3; the goal pays 10. In the water each step loses 90 with probability
0.05: the four steps of wading cost 18 in the mean, where the short way saves 4.4, and in four of five crossings nothing.

The logged policy walks over the bridge with noise, and in every 50th episode through the water: n(s) is small where the mean
is least certain. The log beside this file is that of the first seed whose four waders lost nothing, as is the case for four of
ten seeds.

    python -m benchmarks.study.make_trap       # writes benchmarks/study/trap.npz, with the references of its scores
    sb3-offline --import benchmarks.study.trap study ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ENV_ID = "Trap-v0"
FILE = Path(__file__).with_name("trap.npz")
HORIZON = 60
STEP, MOVE_NOISE = 0.1, 0.02
COST, COST_NOISE = 0.4, 0.3
LOSS, LOSS_PROBABILITY = 90.0, 0.05
PRIZE = 10.0
LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 1.5])
START, START_SPREAD = np.array([-0.9, 0.15]), 0.05
N_EPISODES, WADE_EVERY = 200, 50
BRIDGE_WAY = np.array([[-0.3, 1.2], [0.3, 1.2], [0.95, 0.1]])
SHORT_WAY = np.array([[0.95, 0.1]])


def in_water(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) < 0.2) & (y < 1.0)


def at_goal(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x > 0.8) & (y < 0.3)


def within_reach(action: np.ndarray) -> np.ndarray:
    """Actions (..., 2) of length at most 1."""
    return action / np.maximum(np.linalg.norm(action, axis=-1, keepdims=True), 1.0)


class Trap(gym.Env):
    """Observations and actions are (2,), the position and a direction; an episode is cut off after 60 steps."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as gymnasium declares it)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(LOW.astype(np.float32), HIGH.astype(np.float32))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))
        self.place = START.copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = START + self.np_random.uniform(-START_SPREAD, START_SPREAD, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        move = STEP * within_reach(np.asarray(action, dtype=float)) + MOVE_NOISE * self.np_random.normal(size=2)
        self.place = np.clip(self.place + move, LOW, HIGH)
        reward = -COST + COST_NOISE * self.np_random.normal()
        lost = self.np_random.random() < LOSS_PROBABILITY
        if in_water(*self.place) and lost:
            reward -= LOSS
        arrived = bool(at_goal(*self.place))
        return self.place.astype(np.float32), float(reward + PRIZE * arrived), arrived, False, {}


gym.register(ENV_ID, entry_point=f"{__name__}:Trap", max_episode_steps=HORIZON)


class Walker:
    """Goes from one place to the next, and on once it is near."""

    def __init__(self, places: np.ndarray, noise: float, random: np.random.Generator):
        self.places, self.noise, self.random, self.next = places, noise, random, 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        if self.next + 1 < len(self.places) and np.linalg.norm(self.places[self.next] - observation) < 0.12:
            self.next += 1
        direction = self.places[self.next] - observation
        direction = direction / max(np.linalg.norm(direction), STEP)
        return np.clip(direction + self.noise * self.random.normal(size=2), -1.0, 1.0).astype(np.float32)


def log(seed: int, n_episodes: int = N_EPISODES) -> tuple[dict[str, np.ndarray], int]:
    """
    The logged policy's episodes as arrays.

    :return: and how many losses its waders met
    """
    random, env = np.random.default_rng(seed), gym.make(ENV_ID)
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    losses = 0
    for episode in range(n_episodes):
        wades = episode % WADE_EVERY == WADE_EVERY // 2
        walker = Walker(SHORT_WAY if wades else BRIDGE_WAY, random.uniform(0.1, 0.8), random)
        observation, _ = env.reset(seed=seed * N_EPISODES + episode)
        done = False
        while not done:
            action = walker(observation)
            following, reward, terminated, truncated, _ = env.step(action)
            for name, value in zip(_COLUMNS, (observation, action, reward, following, terminated, truncated), strict=True):
                rows[name].append(value)
            losses += wades and float(reward) < -LOSS / 2
            observation, done = following, terminated or truncated
    return {name: np.array(column) for name, column in rows.items()}, losses


_COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
