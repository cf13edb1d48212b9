"""The best mean return of the trap, by dynamic programming on a grid; and what its two ways earn, by playing them."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from benchmarks.study import trap


class Grid:
    """
    The task's places, of which values in between are interpolated; expectations over the noise of a step are by Gauss-Hermite
    quadrature. Rewards are taken where a step leads, exactly.

    :param spacing: between neighbours
    :param n_directions: of the moves that are tried, at full and at half speed; and resting
    :param n_nodes: of the quadrature, in each dimension
    """

    def __init__(self, spacing: float = 0.025, n_directions: int = 32, n_nodes: int = 3):
        self.shape = tuple(np.round((trap.HIGH - trap.LOW) / spacing).astype(int) + 1)
        axes = [np.linspace(low, high, n) for low, high, n in zip(trap.LOW, trap.HIGH, self.shape, strict=True)]
        self.places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.spacing = spacing
        angles = np.arange(n_directions) * 2 * np.pi / n_directions
        unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.actions = np.concatenate([unit, 0.5 * unit, np.zeros((1, 2))])
        nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
        self.noise = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.weights = np.outer(weights, weights).ravel() / weights.sum() ** 2

    def optimum(self) -> float:
        """The best mean undiscounted return of an episode."""
        return float(self.value_at(self.values()[0], self._starts()).mean())

    def values(self) -> list[np.ndarray]:
        """V_t on the grid, from the first step to the last."""
        following = np.zeros(self.shape)
        values: list[np.ndarray] = []
        for _ in range(trap.HORIZON):
            following = self.backed_up(following, self.places).max(axis=1).reshape(self.shape)
            values.append(following)
        return values[::-1]

    def backed_up(self, following: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Q of every action at places (n, 2), where ``following`` is the value of what comes after: (n, n_actions)."""
        q = np.empty((len(places), len(self.actions)))
        for index, action in enumerate(self.actions):
            moves = trap.STEP * action + trap.MOVE_NOISE * self.noise  # (n_nodes, 2)
            to = np.clip(places[:, None] + moves, trap.LOW, trap.HIGH)
            x, y = to[..., 0], to[..., 1]
            arrived = trap.at_goal(x, y)
            mean_loss = trap.LOSS * trap.LOSS_PROBABILITY * trap.in_water(x, y)
            worth = -trap.COST - mean_loss + np.where(arrived, trap.PRIZE, self.value_at(following, to))
            q[:, index] = worth @ self.weights
        return q

    def value_at(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Between the grid's places, linearly in each dimension: (..., 2) -> (...)."""
        scaled = (places - trap.LOW) / self.spacing
        cell = np.clip(scaled.astype(int), 0, np.array(self.shape) - 2)
        (i, j), (u, v) = np.moveaxis(cell, -1, 0), np.moveaxis(scaled - cell, -1, 0)
        near = (1 - v) * values[i, j] + v * values[i, j + 1]
        return (1 - u) * near + u * ((1 - v) * values[i + 1, j] + v * values[i + 1, j + 1])

    def policy(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """The best action at a place and a step."""
        values = [*self.values(), np.zeros(self.shape)]

        def act(observation: np.ndarray, step: int) -> np.ndarray:
            return self.actions[self.backed_up(values[step + 1], observation[None].astype(float)).argmax()]

        return act

    def _starts(self) -> np.ndarray:
        side = (np.arange(5) + 0.5) / 5 * 2 - 1
        offsets = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
        return trap.START + trap.START_SPREAD * offsets


def random_policy(_observation: np.ndarray, _step: int, random: np.random.Generator) -> np.ndarray:
    return random.uniform(-1.0, 1.0, 2)


def mean_return(policy: Callable[..., np.ndarray], n_episodes: int, seed: int) -> tuple[float, float]:
    """
    Play.

    :param policy: of the observation, the step and a generator
    :return: the mean undiscounted return and its standard error
    """
    env, random = gym.make(trap.ENV_ID), np.random.default_rng(seed)
    returns = []
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=seed * n_episodes + episode)
        total, step, done = 0.0, 0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy(observation, step, random))
            total, step, done = total + float(reward), step + 1, terminated or truncated
        returns.append(total)
    return float(np.mean(returns)), float(np.std(returns, ddof=1) / np.sqrt(n_episodes))
