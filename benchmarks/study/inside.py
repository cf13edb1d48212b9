"""
Question 3: what the robust term does to trained critics, from the models that the part "small" kept.

    python -m benchmarks.study.inside runs/study            # writes inside.jsonl there, a line a model

For 2,000 rows of the data: n(s) by neighbours, in the scale that makes the mean of n^-1/2 one; the spread of Q across actions
of pi^f, half of pi_beta and half of the model's own policy, a mean over its critics; the same of COMBO's critics of that seed.
pi_beta is that of the seed's DROMO std .1. Then the policy's own critic at the first states, in the task's reward, against the
discounted return of 20 simulated episodes: an episode that is cut off by its time limit earns nothing after it, which the
critic does not know, so that the discounted reward that is missing can be as large as gamma^T of the value.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from scipy.stats import spearmanr

from benchmarks.run import append
from benchmarks.study import trap
from benchmarks.study.run import FOLDER
from sb3_offline.behavior.behavior_policy import BehaviorPolicy
from sb3_offline.behavior.visitation import make_visitation
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset, open_dataset
from sb3_offline.dromo.robustness import stratified_variance
from sb3_offline.ope.estimate import first_rows
from sb3_offline.registry import find_algorithm
from sb3_offline.studies.records import Record, read_lines

N_ROWS, N_ACTIONS, N_EPISODES = 2000, 32, 20
SHARE = 0.5  # of pi_beta in pi^f
COLLAPSED = 0.01  # of the spread of COMBO's critics
BEHAVIOR = "std_0.1"  # whose pi_beta all are asked about
RIVAL = "combo"
TASKS = (trap.ENV_ID,)


@th.no_grad()
def spreads(model: Any, behavior: BehaviorPolicy, observations: th.Tensor, seed: int) -> np.ndarray:
    """Standard deviation of Q across actions of pi^f, (n,), a mean over the critics, in the unit in which they are trained."""
    nets, generator = model.networks(), th.Generator().manual_seed(seed)
    logged = behavior.sample(observations, N_ACTIONS, generator)
    noise = th.randn(len(observations), N_ACTIONS, logged.shape[-1], generator=generator)
    own, _ = nets.sample(observations, noise)
    q = nets.q(observations, th.cat([logged, own], dim=1))
    return stratified_variance(q[..., :N_ACTIONS], q[..., N_ACTIONS:], SHARE).sqrt().mean(dim=0).numpy()


def by_deciles(visits: np.ndarray, **columns: np.ndarray) -> list[dict[str, float]]:
    """The mean of each column over each tenth of the rows, the least visited first."""
    parts = np.array_split(np.argsort(visits, kind="stable"), 10)
    return [{name: float(column[rows].mean()) for name, column in columns.items()} for rows in parts]


def compared(visits: np.ndarray, own: np.ndarray, rival: np.ndarray, weight: float | None) -> Record:
    """
    What a model's spreads say beside COMBO's.

    :param visits: n(s), (n,)
    :param own: spreads, (n,)
    :param rival: those of COMBO's critics, (n,)
    :param weight: alpha, of a set that has one
    """
    ratio = own / np.maximum(rival, 1e-12)
    columns = {"n": visits, "spread": own, "rival": rival, "ratio": ratio}
    if weight is not None:
        columns["radius"] = weight / np.sqrt(visits)
    return {
        "rank_correlation": float(spearmanr(ratio, visits).statistic) if np.ptp(ratio) > 0 else 0.0,
        "median_ratio": float(np.median(ratio)),
        "collapsed": float((ratio < COLLAPSED).mean()),
        "deciles": by_deciles(visits, **columns),
    }


def discounted_return(model: Any, gamma: float, seed: int) -> float:
    """Mean over simulated episodes of the deterministic policy."""
    env, returns = model.dataset_info.make_env(), []
    for episode in range(N_EPISODES):
        observation, _ = env.reset(seed=1_000_000 + seed * N_EPISODES + episode)
        total, weight, done = 0.0, 1.0, False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, weight, done = total + weight * float(reward), weight * gamma, terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


@th.no_grad()
def hoped_for(model: Any, data: OfflineDataset) -> float:
    """Mean of min_j Q_j(s0, pi(s0)) over the logged first states, in the task's reward."""
    states = np.asarray(data.observations[first_rows(data)], dtype=np.float32)
    actions, _ = model.predict(states, deterministic=True)
    taken = th.as_tensor(scale_actions(actions, model.action_space))
    value = float(th.cat(model.critic(th.as_tensor(states), taken), dim=1).amin(dim=1).mean())
    return (value - model.reward_shift / (1 - model.gamma)) / model.reward_factor


def hopes(model: Any, data: OfflineDataset, summary: Record, seed: int) -> Record:
    """The critics' value of the policy beside the simulator's, and whether the policy beats the data's mean return."""
    return {
        "value": hoped_for(model, data),
        "truth": discounted_return(model, model.gamma, seed),
        "beats_the_data": bool(summary["final"] > summary["data_mean_return"]),
    }


def looked_into(folder: Path) -> Iterator[Record]:
    """
    A record of each kept model whose rivals are kept too.

    :param folder: of the part "small"
    """
    for file in _finished(folder.glob(f"{RIVAL}_*.zip")):
        config = read_lines(file.with_suffix(".jsonl"))[0]["config"]
        seed, data = config["seed"], open_dataset(config["dataset"]).load()
        name = file.name.replace(RIVAL, "dromo", 1)
        first = folder / BEHAVIOR / name
        if not _finished([first]):
            continue
        behavior = find_algorithm("dromo").load(first, device="cpu").behavior_policy
        rows = np.random.default_rng(0).choice(len(data), min(N_ROWS, len(data)), replace=False)
        observations = th.as_tensor(np.asarray(data.observations)[np.sort(rows)], dtype=th.float32)
        counts = make_visitation("knn")
        counts.fit(np.asarray(data.observations, dtype=np.float32), th.Generator().manual_seed(0))
        visits = counts(observations).double().numpy()
        rival = find_algorithm(RIVAL).load(file, device="cpu")
        base = spreads(rival, behavior, observations, seed)
        for path in (file, *_finished(folder.glob(f"*/{name}"))):
            lines = read_lines(path.with_suffix(".jsonl"))
            model = rival if path == file else find_algorithm("dromo").load(path, device="cpu")
            label = RIVAL if path == file else f"dromo {path.parent.name}"
            weight = lines[0]["config"]["options"].get("robust_weight")
            own = compared(visits, spreads(model, behavior, observations, seed), base, weight)
            about = {"name": label, "dataset": config["dataset"], "seed": seed}
            yield {**about, **own, **hopes(model, data, lines[-1]["summary"], seed)}


def _finished(models: Iterable[Path]) -> list[Path]:
    """Those whose run has ended."""
    return sorted(path for path in models if path.exists() and path.with_suffix(".jsonl").exists())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args(argv).folder
    records, out = [*looked_into(folder / "small")], folder / "inside.jsonl"
    out.unlink(missing_ok=True)
    for record in records:
        append(out, record)
    print(f"{out.name}: {len(records)} models")


if __name__ == "__main__":
    main()
