"""
Divergence, seen coming: a chain of two states on which Q-learning blows up, watched by ``NTKCallback``.

Both states lead to the second, whose input is twice the first one's (Tsitsiklis and Van Roy 1997). Fed with both states
equally often, plain DQN with a small network over-generalises: raising Q of the first state raises its own target more.
The indicator crosses zero while the TD error still looks calm; then the error explodes. (DQN's Huber loss caps the
gradients, so it swings for ever instead of reaching infinity.) On the states that the policy visits the same run is
stable, and so is PreQN's step on the bad data.

    python examples/divergence.py [--output divergence.png]
    python examples/divergence.py --offline

The second form prints the same figures for CQL on narrow Pendulum data, with and without its conservative term.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN

from sb3_offline import CQL
from sb3_offline.diagnostics import ExcitationCallback, NTKCallback, QFunction
from sb3_offline.diagnostics.probe import bootstrap
from sb3_offline.preqn import preqn_step
from sb3_offline.preqn.update import td_errors

GAMMA = 0.99
STEPS = 1500
CHECK_FREQ = 20


class TwoStates(gym.Env):
    """Starts in either state, goes to the second and stays; staying there pays 1. There is one action."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(1)

    def observe(self) -> np.ndarray:
        return np.array([0.3 * (self.state + 1)], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(2))
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, self.state = float(self.state), 1
        return self.observe(), reward, False, False, {}


def make_dqn(episode_length: int) -> DQN:
    """
    SB3's DQN, trained by plain SGD and with a target network that follows at once.

    :param episode_length: 1 shows both states equally often; longer episodes show what the policy really visits
    """
    return DQN(
        "MlpPolicy",
        gym.wrappers.TimeLimit(TwoStates(), episode_length),
        learning_rate=0.003,
        gamma=GAMMA,
        learning_starts=100,
        train_freq=1,
        target_update_interval=1,
        max_grad_norm=float("inf"),
        policy_kwargs={"net_arch": [32, 32], "optimizer_class": th.optim.SGD},
        seed=0,
        device="cpu",
    )


def train_dqn(episode_length: int) -> list[dict[str, float]]:
    """:return: what ``NTKCallback`` recorded, one row a probe"""
    callback = NTKCallback(check_freq=CHECK_FREQ, batch_size=64)
    make_dqn(episode_length).learn(STEPS, callback=callback)
    return callback.history


def train_preqn() -> list[dict[str, float]]:
    """The diverging run's network, data and number of updates; only the step is PreQN's."""
    callback = NTKCallback(check_freq=100, batch_size=64)
    model = make_dqn(1).learn(100, callback=callback)  # fills the buffer: learning has not started
    assert callback.probe is not None
    q, history = QFunction(model.q_net), []
    for step in range(100, STEPS + 1):
        batch, _ = bootstrap(model, callback.probe.samples)
        if step % CHECK_FREQ == 0:
            error = callback.probe.rho @ td_errors(q, batch).double().square()
            history.append({"step": float(step), "td_error": float(error.sqrt())})
        q.assign(preqn_step(q, batch).parameters)
    return history


def first(history: list[dict[str, float]], condition: Callable[[dict[str, float]], bool], in_a_row: int = 1) -> float:
    """The first step from which ``condition`` holds ``in_a_row`` probes; infinite if it never does."""
    holds = [condition(row) for row in history]
    return next((history[i]["step"] for i in range(len(holds)) if all(holds[i : i + in_a_row])), float("inf"))


def narrow_pendulum() -> dict[str, np.ndarray]:
    """1,000 transitions of Pendulum under almost no torque."""
    env, rng = gym.make("Pendulum-v1"), np.random.default_rng(0)
    rows = []
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        truncated = False
        while not truncated:
            action = rng.normal(0, 0.1, 1).astype(np.float32)
            successor, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, action, reward, successor, terminated, truncated))
            observation = successor
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def train_cql(conservative_weight: float) -> list[dict[str, float]]:
    """6,000 steps on the narrow data; a weight of 0 is SAC."""
    kernel, excitation = NTKCallback(500, 128), ExcitationCallback(500, 128)
    CQL(
        "MlpPolicy",
        "Pendulum-v1",
        narrow_pendulum(),
        conservative_weight=conservative_weight,
        learning_rate=1e-3,
        qf_learning_rate=1e-3,
        tau=0.05,
        batch_size=128,
        n_action_samples=4,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    ).learn(6000, callback=[kernel, excitation], log_interval=None)
    return [first | second for first, second in zip(kernel.history, excitation.history, strict=True)]


def print_offline() -> None:
    for weight in (0.0, 5.0):
        print(f"Pendulum, narrow data, conservative_weight={weight}")
        for row in train_cql(weight):
            names = ("step", "q_abs_max", "td_error", "pivot", "lam_max", "td_growth", "row_ratio")
            print("  " + "  ".join(f"{name} {row[name]:.3g}" for name in names))


def plot(narrow: list, visited: list, preqn: list, warning: float, explosion: float, output: Path) -> None:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    runs = [(narrow, "DQN, both states equally often", "C3"), (visited, "DQN, states as the policy visits them", "C0")]
    for history, label, color in runs:
        steps = [row["step"] for row in history]
        top.plot(steps, [row["td_growth"] for row in history], color, label=label)
        bottom.semilogy(steps, [row["td_error"] for row in history], color, label=label)
    steps, errors = [row["step"] for row in preqn], [row["td_error"] for row in preqn]
    bottom.semilogy(steps, errors, "C2", label="PreQN's step, both states equally often")
    for axis in (top, bottom):
        axis.axvline(warning, color="k", ls="--", lw=1)
        axis.axvline(explosion, color="k", ls=":", lw=1)
    top.axhline(0, color="0.6", lw=0.8)
    top.set_ylabel("divergence/td_growth")
    bottom.set_ylabel("divergence/td_error")
    bottom.set_xlabel("step")
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    top.annotate(f"warning: {warning:.0f}", (warning, 0.9), xytext=(-4, 0), ha="right", **place)
    bottom.annotate(f"error doubled: {explosion:.0f}", (explosion, 0.04), xytext=(4, 0), **place)
    bottom.set_ylim(0.1, 30)
    bottom.legend(loc="upper right", fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("divergence.png"))
    parser.add_argument("--offline", action="store_true", help="CQL with and without conservatism instead (minutes)")
    arguments = parser.parse_args()
    if arguments.offline:
        print_offline()
        return
    output = arguments.output
    narrow, visited, preqn = train_dqn(episode_length=1), train_dqn(episode_length=10), train_preqn()
    warning = first(narrow, lambda row: row["td_growth"] > 0, in_a_row=3)
    explosion = first(narrow, lambda row: row["td_error"] > 2 * narrow[0]["td_error"])
    plot(narrow, visited, preqn, warning, explosion, output)
    print(f"diverging run: td_growth above 0 from step {warning:.0f}, TD error doubled at step {explosion:.0f}")
    for name, history in (("both states", narrow), ("as visited", visited), ("PreQN", preqn)):
        errors = [row["td_error"] for row in history]
        print(f"{name:12s} TD error: first {errors[0]:.3f}, largest {max(errors):.3f}, last {errors[-1]:.3f}")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
