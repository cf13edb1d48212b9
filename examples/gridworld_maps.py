"""
What CQL, COMBO and DROMO believe of a frozen lake that the data has seen only in part: exact Q-maps side by side.

    python examples/gridworld_maps.py [--output gridworld_maps.png]

An 8x8 FrozenLake without slip and 60 episodes of a noisy behaviour policy along the top and the right. The learned
model knows how a step moves (pooled over all cells), but of holes and the goal only what the data has met: an unseen
hole is ice to it. The policy to evaluate is the one that looks best inside that model; it walks down the left side,
into the holes. Each map is the exact fixed point of the method's own update (sb3_offline.tabular), no network involved.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, Normalize

from sb3_offline.tabular import (
    FiniteMDP,
    OfflineProblem,
    combo_rule,
    cql_rule,
    dromo_rule,
    empirical_mdp,
    evaluate,
    from_toy_text,
    greedy,
    occupancy,
    plain_rule,
    policy_evaluation,
    policy_iteration,
)

SIDE, N_STATES, N_ACTIONS, GAMMA, N_EPISODES = 8, 64, 4, 0.95, 60
REAL_RATIO, CQL_WEIGHT, CONSERVATIVE_WEIGHT, ROBUST_WEIGHT = 0.5, 0.005, 0.02, 0.1
STEPS = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])  # (row, column) of left, down, right, up


def soft_optimum(mdp: FiniteMDP, epsilon: float, preference: tuple[float, ...]) -> np.ndarray:
    """The optimal policy with random actions at rate epsilon; ties go to the preferred action."""
    uniform = np.full((N_STATES, N_ACTIONS), 1 / N_ACTIONS)
    problem = OfflineProblem(mdp, mdp, occupancy(mdp, uniform), uniform, np.ones(N_STATES), 0.5)
    best = greedy(policy_iteration(problem, plain_rule(), uniform).q + 1e-6 * np.array(preference))
    return (1 - epsilon) * best + epsilon * uniform


def collect(truth: FiniteMDP, policy: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Whole episodes (at most 60 steps) as columns s, a, r, s', done; the only reward is the goal's, in the last cell."""
    rows = []
    for _ in range(N_EPISODES):
        state = int(rng.choice(N_STATES, p=truth.initial))
        for _ in range(60):
            action = int(rng.choice(N_ACTIONS, p=policy[state]))
            following = int(rng.choice(N_STATES, p=truth.transitions[state, action]))
            done = bool(truth.kernel[state, action, following] == 0)
            rows.append((state, action, float(following == N_STATES - 1), following, done))
            if done:
                break
            state = following
    return [np.array(column) for column in zip(*rows, strict=True)]


def learn_model(data: list[np.ndarray], initial: np.ndarray) -> FiniteMDP:
    """P(displacement | action) pooled over all cells; ends and rewards from the cells that were met."""
    states, actions, rewards, next_states, dones = data
    where = np.stack(np.unravel_index(np.arange(N_STATES), (SIDE, SIDE)), axis=1)
    moved = (where[next_states] - where[states])[:, None, :] == STEPS
    counts = np.full((N_ACTIONS, len(STEPS)), 1e-2)
    np.add.at(counts, actions, moved.all(axis=2))
    moves = counts / counts.sum(axis=1, keepdims=True)
    ends, pays = np.zeros(N_STATES), np.zeros(N_STATES)
    ends[next_states], pays[next_states] = dones, rewards
    transitions = np.zeros((N_STATES, N_ACTIONS, N_STATES))
    for direction, step in enumerate(STEPS):
        row, column = np.clip(where + step, 0, SIDE - 1).T
        for action in range(N_ACTIONS):
            np.add.at(transitions[:, action], (np.arange(N_STATES), row * SIDE + column), moves[action, direction])
    return FiniteMDP(transitions, transitions @ pays, GAMMA, initial, np.broadcast_to(1 - ends, transitions.shape))


class Study(NamedTuple):
    """The lake's letters, and what to draw: visits (S,), Q (S, A) by method, Q - Q^pi, start values, and pi^f."""

    letters: np.ndarray
    counts: np.ndarray
    rollouts: np.ndarray
    maps: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    starts: dict[str, float]
    pi_f: np.ndarray


def study() -> Study:
    """Collect the data, learn the model, and solve each method exactly."""
    lake: Any = gym.make("FrozenLake-v1", map_name="8x8", is_slippery=False)
    truth = from_toy_text(lake, GAMMA)
    behavior = soft_optimum(truth, epsilon=0.4, preference=(0, 0, 1, 0.5))
    data = collect(truth, behavior, np.random.default_rng(0))
    s, a, r, s_next, done = data
    empirical = empirical_mdp(s, a, r, s_next, done, N_STATES, N_ACTIONS, GAMMA, initial=truth.initial)
    model = learn_model(data, truth.initial)
    policy = soft_optimum(model, epsilon=0.2, preference=(0, 1, 0, 0))
    problem = OfflineProblem(
        empirical.mdp, model, empirical.d, empirical.pi_beta, empirical.counts, REAL_RATIO, target_weights="sample"
    )
    # CQL has no minimum where an action has no data: it evaluates the policy among the actions that have some.
    seen = empirical.pair_counts > 0
    inside = np.where(seen.any(axis=1, keepdims=True), seen, True) * policy
    inside /= inside.sum(axis=1, keepdims=True)
    policies = {"true": policy, "model alone": policy, "CQL": inside, "COMBO": policy, "DROMO": policy}
    rules = {
        "model alone": plain_rule(),
        "CQL": cql_rule(CQL_WEIGHT),
        "COMBO": combo_rule(CONSERVATIVE_WEIGHT),
        "DROMO": dromo_rule(CONSERVATIVE_WEIGHT, ROBUST_WEIGHT),
    }
    maps = {"true": policy_evaluation(truth, policy)}
    for name, rule in rules.items():
        fixed = evaluate(problem, rule, policies[name], tolerance=1e-10)
        print(f"{name}: converged={fixed.converged} after {fixed.iterations} sweeps")
        maps[name] = np.where(seen, fixed.q, np.nan) if name == "CQL" else fixed.q
    return Study(
        letters=lake.unwrapped.desc.astype(str),
        counts=empirical.counts,
        rollouts=occupancy(model, policy).sum(axis=1),
        maps=maps,
        errors={name: q - policy_evaluation(truth, policies[name]) for name, q in maps.items()},
        starts={name: float(np.nansum(truth.initial[:, None] * policies[name] * q)) for name, q in maps.items()},
        pi_f=REAL_RATIO * empirical.pi_beta + (1 - REAL_RATIO) * policy,
    )


def draw_actions(axes: Axes, q: np.ndarray, norm: Normalize, cmap: str) -> PolyCollection:
    """Four triangles a cell, one for each action; nan is hatched: nothing is known there."""
    axes.add_patch(plt.Rectangle((0, 0), SIDE, SIDE, facecolor="0.95", edgecolor="0.78", hatch="xxx", linewidth=0))
    row, column = np.unravel_index(np.arange(N_STATES), (SIDE, SIDE))
    centre = np.stack([column + 0.5, row + 0.5], axis=1)
    corners = {0: ((0, 0), (0, 1)), 1: ((0, 1), (1, 1)), 2: ((1, 0), (1, 1)), 3: ((0, 0), (1, 0))}
    triangles, values = [], []
    for action, (first, second) in corners.items():
        for state in np.flatnonzero(np.isfinite(q[:, action])):
            corner = np.array([column[state], row[state]])
            triangles.append([corner + first, corner + second, centre[state]])
            values.append(q[state, action])
    patches = PolyCollection(triangles, array=np.array(values), norm=norm, cmap=cmap, antialiased=False)
    axes.add_collection(patches)
    return patches


def frame(axes: Axes, title: str, letters: np.ndarray) -> None:
    """Grid lines, and the cells where it ends: holes and the goal."""
    axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, fontsize=10)
    for line in range(1, SIDE):
        axes.axhline(line, color="white", linewidth=0.6)
        axes.axvline(line, color="white", linewidth=0.6)
    for (row, column), letter in np.ndenumerate(letters):
        if letter in "HG":
            colors = ("0.25", "white") if letter == "H" else ("white", "black")
            axes.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=colors[0], edgecolor="black", linewidth=0.6))
            axes.text(column + 0.5, row + 0.52, letter, ha="center", va="center", fontsize=8, color=colors[1])


def draw_spread(axes: Axes, found: Study) -> None:
    """What the std term does: the spread across actions goes where the data are thin."""
    alive, counts = ~np.isin(found.letters.ravel(), ["H", "G"]), found.counts
    bands = {"0": counts == 0, "1-9": (counts > 0) & (counts < 10), "10+": counts >= 10}
    for offset, (name, color) in enumerate((("true", "0.6"), ("COMBO", "tab:orange"), ("DROMO", "tab:blue"))):
        q = found.maps[name]
        value = (found.pi_f * q).sum(axis=1, keepdims=True)
        spread = np.sqrt((found.pi_f * (q - value) ** 2).sum(axis=1))
        heights = [spread[band & alive].mean() for band in bands.values()]
        axes.bar(np.arange(3) + 0.27 * (offset - 1), heights, width=0.25, color=color, label=name)
    axes.set_xticks(range(3), list(bands), fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("visits to the cell in the data", fontsize=8)
    axes.set_title("std of $Q$ across actions", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.set_box_aspect(1)


def main(output: Path) -> None:
    found = study()
    figure, grid = plt.subplots(2, 6, figsize=(15, 5.6), layout="constrained")
    visits = {"data: visits (log scale)": found.counts / found.counts.sum(), "rollouts in the model": found.rollouts}
    for axes, (title, share) in zip(grid[:, 0], visits.items(), strict=True):
        shares = np.ma.masked_less(share.reshape(SIDE, SIDE), 1e-4)
        axes.imshow(shares, norm=LogNorm(1e-4, 0.2), cmap="Blues", extent=(0, SIDE, SIDE, 0))
        frame(axes, title, found.letters)
    draw_spread(grid[1, 1], found)
    for column, (name, q) in enumerate(found.maps.items(), start=1):
        value_map = draw_actions(grid[0, column], q, Normalize(-0.25, 1), "viridis")
        frame(grid[0, column], f"{name}: $Q$ (start {found.starts[name] + 0.0:.2f})", found.letters)
        if name != "true":
            error_map = draw_actions(grid[1, column], found.errors[name], Normalize(-1, 1), "RdBu_r")
            frame(grid[1, column], rf"{name}: $Q - Q^\pi$", found.letters)
    figure.colorbar(value_map, ax=grid[0, :], shrink=0.9, aspect=15)
    figure.colorbar(error_map, ax=grid[1, :], shrink=0.9, aspect=15)
    figure.supxlabel(
        "Triangles: Q of left, down, right, up.  H: hole, G: goal.  Hatched: no data, CQL's objective has no minimum.  "
        "Start: E Q in the top left cell.",
        fontsize=9,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100, pil_kwargs={"optimize": True})
    print(f"wrote {output} ({output.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gridworld_maps.png"))
    main(parser.parse_args().output)
