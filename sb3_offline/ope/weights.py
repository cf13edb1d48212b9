"""Importance sampling as arithmetic: episodes as rows, steps as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_offline.datasets import OfflineDataset


@dataclass(frozen=True, eq=False)
class Episodes:
    """
    E logged episodes of at most T steps. After its end an episode earns nothing, and keeps its last weight, as if it stayed
    in a state that every policy treats alike (Thomas and Brunskill 2016).

    :param weights: (E, T) cumulative: prod_{i <= t} pi(a_i|s_i) / pi_beta(a_i|s_i)
    :param rewards: (E, T), 0 after the end
    :param gamma: discount
    """

    weights: np.ndarray
    rewards: np.ndarray
    gamma: float

    @property
    def discounted(self) -> np.ndarray:
        """(E, T) gamma^t r_t."""
        return self.rewards * self.gamma ** np.arange(self.rewards.shape[1])


def cumulative_weights(log_ratios: np.ndarray, lengths: np.ndarray, clip: float) -> np.ndarray:
    """
    :param log_ratios: (n,) log pi(a|s) - log pi_beta(a|s) of all rows, one episode after the other
    :param lengths: (E,) rows of each
    :param clip: no weight exceeds it: less variance, for a bias towards the behaviour
    :return: (E, T)
    """
    # a weight of 0 stays 0: exp(-inf) is, and the sum never adds an infinity of the other sign
    padded = pad(np.maximum(log_ratios, -1e6), lengths, 0.0)
    return np.exp(np.minimum(padded.cumsum(axis=1), np.log(clip)))


def pad(values: np.ndarray, lengths: np.ndarray, fill: float) -> np.ndarray:
    """Rows of all episodes, (n,), as (E, T)."""
    table = np.full((len(lengths), int(lengths.max())), fill, dtype=np.float64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = values
    return table


def episodes_of(dataset: OfflineDataset, log_ratios: np.ndarray, gamma: float, clip: float) -> Episodes:
    """The logged episodes under weights of these ratios."""
    lengths = dataset.episode_lengths()
    weights = cumulative_weights(log_ratios, lengths, clip)
    return Episodes(weights, pad(np.asarray(dataset.rewards, dtype=np.float64), lengths, 0.0), gamma)


def ordinary(weights: np.ndarray, returns: np.ndarray) -> float:
    """OIS, mean of w G: unbiased, of a variance that grows with the horizon (Precup et al. 2000). Both (E,)."""
    return float(np.mean(weights * returns))


def weighted(weights: np.ndarray, returns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    WIS, sum w G / sum w: biased towards the behaviour, far less variable (Precup et al. 2000).

    :param weights: (E,) of whole episodes
    :param returns: (E,)
    :param counts: (B, E) how often each episode counts
    :return: (B,)
    """
    return _divide(counts @ (weights * returns), counts @ weights)


def per_decision(episodes: Episodes, counts: np.ndarray) -> np.ndarray:
    """PDIS, mean over episodes of sum_t gamma^t rho_t r_t: a reward is weighed by what came before it only. (B,)."""
    return (counts @ (episodes.weights * episodes.discounted).sum(axis=1)) / counts.sum(axis=1)


def per_decision_weighted(episodes: Episodes, counts: np.ndarray) -> np.ndarray:
    """PDWIS, sum_t gamma^t (sum_e rho_et r_et) / (sum_e rho_et). (B,)."""
    return _divide(counts @ (episodes.weights * episodes.discounted), counts @ episodes.weights).sum(axis=1)


def doubly_robust(weights: np.ndarray, rewards: np.ndarray, q: np.ndarray, v: np.ndarray, gamma: float) -> np.ndarray:
    """
    sum_t gamma^t (rho_{t-1} V(s_t) + rho_t (r_t - Q(s_t, a_t))) of each episode (Jiang and Li 2016, unrolled). A last column
    of ``v`` beyond the rewards is the value of where a cut episode stopped.

    :param weights: (E, T) cumulative
    :param rewards: (E, T)
    :param q: (E, T)
    :param v: (E, T), or (E, T + 1)
    :return: (E,)
    """
    steps = v.shape[1]
    before = np.concatenate([np.ones((len(weights), 1)), weights], axis=1)[:, :steps]
    baseline = (before * v * gamma ** np.arange(steps)).sum(axis=1)
    return baseline + (weights * (rewards - q) * gamma ** np.arange(rewards.shape[1])).sum(axis=1)


def effective_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted episodes would say as much (Kong 1992). (E,)."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where no weight is left."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
