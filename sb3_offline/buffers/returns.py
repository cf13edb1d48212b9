"""Monte-Carlo returns-to-go of logged episodes, and the scale of their rewards."""

from __future__ import annotations

import numpy as np


def returns_to_go(rewards: np.ndarray, terminations: np.ndarray, episode_ends: np.ndarray, gamma: float) -> np.ndarray:
    """
    G_t = sum_k gamma^k r_{t+k} to the end of each row's episode.

    An episode that was cut (a time limit, or the end of the data) goes on unseen: its G_t is divided by 1 - gamma^K, K the
    rewards in the sum, as if the rest paid on average what was seen. A constant reward r then gives r/(1 - gamma) exactly.

    :param rewards: (n,), episodes one after another
    :param terminations: (n,) bool; an end that is none of these was cut
    :param episode_ends: (n_episodes,) index of each episode's last row
    :param gamma: in [0, 1)
    :return: (n,) float64
    """
    returns = np.zeros(len(rewards), dtype=np.float64)
    start = 0
    for end in episode_ends:
        value = 0.0
        for row in range(end, start - 1, -1):
            value = rewards[row] + gamma * value
            returns[row] = value
        if not terminations[end]:
            returns[start : end + 1] /= 1.0 - gamma ** np.arange(end - start + 1, 0, -1)
        start = end + 1
    return returns


def unit_scale(rewards: np.ndarray) -> float:
    """What to multiply rewards (n,) by so that their root mean square is 1; 1 if all are 0."""
    size = float(np.sqrt(np.square(rewards, dtype=np.float64).mean()))
    return 1.0 / size if size > 0 else 1.0
