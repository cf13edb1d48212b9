"""
The normalised replay critic of the lecture remarks on TD linearisation: its Lyapunov step, measured on a small network.

V = |w~|^2, w~ = w - w*. One step w+ = w - lambda sum_j d_j e_j/(1 + d_j^T d_j)^2 over M transitions is claimed to have
V+ - V <= -c V + O(lambda |w~|) + O(lambda |w~|^3) with c = lambda lam_min(E) (2 - lambda M/4), where
E = sum_j d_j d_j^T/(1 + d_j^T d_j)^2 <= M/4: c > 0 needs lambda < 8/M, and lam_min(E) > 0. With a pivot there is a
constant besides, lambda^2 |sum_j d_j pivot_j/(1 + d_j^T d_j)^2|^2, which the remarks leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.claims import SLACK

N_INPUTS, N_HIDDEN, N_TRANSITIONS, GAMMA = 2, 3, 60, 0.9


@dataclass(frozen=True, eq=False)
class ReplayCritic:
    """
    Q(z) = w1 . tanh(W2^T z) on M transitions whose rewards the weights w* explain up to ``pivot``: e^{w*} = pivot.

    :param z: (M, inputs); ``z_next`` has the same shape
    :param best: w* = (w1, vec W2), shape (P,)
    :param pivot: (M,)
    """

    z: Array
    z_next: Array
    best: Array
    pivot: Array

    def q(self, w: Array, z: Array) -> Array:
        """Shape (M,)."""
        return np.tanh(z @ w[N_HIDDEN:].reshape(N_INPUTS, N_HIDDEN)) @ w[:N_HIDDEN]

    def q_gradient(self, w: Array, z: Array) -> Array:
        """Shape (M, P)."""
        hidden = np.tanh(z @ w[N_HIDDEN:].reshape(N_INPUTS, N_HIDDEN))
        inner = z[:, :, None] * (w[:N_HIDDEN] * (1 - hidden**2))[:, None, :]
        return np.concatenate([hidden, inner.reshape(len(z), -1)], axis=1)

    def residual(self, w: Array) -> Array:
        """e^w = Q^w(z) - r - gamma Q^w(z+), shape (M,)."""
        now, best = (self.q(x, self.z) - GAMMA * self.q(x, self.z_next) for x in (w, self.best))
        return now - best + self.pivot

    def data_vectors(self, w: Array) -> Array:
        """d_j = grad_w e^w, at the weights of the step, shape (M, P)."""
        return self.q_gradient(w, self.z) - GAMMA * self.q_gradient(w, self.z_next)

    def excitation(self, w: Array) -> Array:
        """E at w, shape (P, P)."""
        d = self.data_vectors(w)
        scaled = d / (1 + (d**2).sum(axis=1, keepdims=True))
        return scaled.T @ scaled

    def lyapunov_step(self, w: Array, rate: float) -> float:
        """V+ - V of one step with the learning rate ``rate``."""
        d = self.data_vectors(w)
        step = (self.residual(w) / (1 + (d**2).sum(axis=1)) ** 2) @ d
        return float(((w - rate * step - self.best) ** 2).sum() - ((w - self.best) ** 2).sum())


def random_critic(rng: np.random.Generator, pivot: float = 0.0) -> ReplayCritic:
    """Normal inputs and weights; e^{w*} normal with the std ``pivot``."""
    z, z_next = rng.normal(size=(2, N_TRANSITIONS, N_INPUTS))
    best = rng.normal(size=N_HIDDEN + N_INPUTS * N_HIDDEN)
    return ReplayCritic(z, z_next, best, pivot * rng.normal(size=N_TRANSITIONS))


class LyapunovStep(NamedTuple):
    """What one step does to V, measured on random critics."""

    bound_broken: float
    """The share of steps with lambda < 8/M whose linear part exceeds -c V."""
    cubic: float
    """Without a pivot, what is left beside the linear part falls by this when |w~| halves: 8 is cubic."""
    linear: float
    """The same with a pivot, near w* and less its value at w*: 2 is linear."""
    at_best: float
    """With a pivot, the least V+ - V at w* itself, where -c V and both O terms are 0."""
    below: float
    """The largest (V+ - V)/V along E's top direction for lambda = .99 x 2/lam_max."""
    above: float
    """The least for lambda = 1.01 x 2/lam_max."""
    grows: tuple[float, float]
    """The share of random directions along which V grows, for lambda = 4/M and |w~| = .1 and 1 times |w*|."""
    excitation_lost: float
    """The share of random w at a distance of .1 |w*| where lam_min(E) is less than half of that at w*."""


def lyapunov(rng: np.random.Generator, n: int) -> LyapunovStep:
    """``n`` random critics with a random direction each; M = 60 transitions, 9 weights."""
    safe = 8 / N_TRANSITIONS
    broken, lost, cubic, linear, at_best, edges, grows = 0, 0, [], [], [], [], []
    for _ in range(n):
        critic, pivoted = random_critic(rng), random_critic(rng, pivot=0.5)
        best, length = critic.best, float(np.linalg.norm(critic.best))
        direction = rng.normal(size=best.size)
        direction /= np.linalg.norm(direction)
        near = critic.excitation(best + 0.1 * length * direction)
        rate = safe * rng.uniform()
        c = rate * np.linalg.eigvalsh(near)[0] * (2 - rate * N_TRANSITIONS / 4)
        broken += _linear_part(near, direction, rate) > -c + SLACK
        values, vectors = np.linalg.eigh(critic.excitation(best))
        lost += np.linalg.eigvalsh(near)[0] < 0.5 * values[0]
        whole, half = (_remainder(critic, size * direction, safe / 2) for size in (1e-2, 5e-3))
        cubic.append(whole / half)
        constant = pivoted.lyapunov_step(pivoted.best, safe / 2)
        whole, half = (_remainder(pivoted, size * direction, safe / 2) - constant for size in (1e-4, 5e-5))
        linear.append(whole / half)
        at_best.append(constant)
        size, top = 1e-6, vectors[:, -1]
        rates = (factor * 2 / values[-1] for factor in (0.99, 1.01))
        edges.append([critic.lyapunov_step(best + size * top, rate) / size**2 for rate in rates])
        grows.append([critic.lyapunov_step(best + r * length * direction, safe / 2) > 0 for r in (0.1, 1.0)])
    below, above = np.array(edges).T
    close, far = np.mean(grows, axis=0)
    return LyapunovStep(
        bound_broken=broken / n,
        cubic=float(np.median(cubic)),
        linear=float(np.median(linear)),
        at_best=min(at_best),
        below=float(below.max()),
        above=float(above.min()),
        grows=(float(close), float(far)),
        excitation_lost=lost / n,
    )


def _linear_part(excitation: Array, deviation: Array, rate: float) -> float:
    """|(I - lambda E) w~|^2 - |w~|^2."""
    return float(((deviation - rate * excitation @ deviation) ** 2).sum() - (deviation**2).sum())


def _remainder(critic: ReplayCritic, deviation: Array, rate: float) -> float:
    """V+ - V less its linear part."""
    w = critic.best + deviation
    return critic.lyapunov_step(w, rate) - _linear_part(critic.excitation(w), deviation, rate)
