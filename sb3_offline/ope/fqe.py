"""Fitted Q evaluation (Le, Voloshin and Yue 2019, arXiv 1903.08738): a critic of the policy, learned from the log."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.utils import get_device
from tqdm import tqdm

from sb3_offline.arguments import POSITIVE, UPDATE_RATE, check_count, check_number
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution.optimizers import plain_optimizer_state, set_learning_rate
from sb3_offline.execution.updates import UpdateRunner
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import read_checked, read_label, write_checked
from sb3_offline.networks.observations import map_observations, to_tensors
from sb3_offline.ope.estimate import Estimate, Estimator, first_rows, student_interval
from sb3_offline.ope.fqe_update import FQEUpdate, policy_table
from sb3_offline.ope.policy import ROWS_AT_ONCE, EvaluatedPolicy
from sb3_offline.training.rng import Streams

REST = 0.02  # of the start's error that a fit may leave
CHECK_EVERY = 1000  # gradient steps between looks at the loss, and between checkpoints


@dataclass(kw_only=True)
class FQE(Estimator):
    """
    The recommended estimator. Several critics, each fitted on its own bootstrap of the episodes, so that the interval holds
    the error of the fit beside that of the first states; with ``n_critics=1`` one critic sees all episodes, and there is no
    interval. A policy that acts where the log has nothing is judged by extrapolation: the OOD score beside the estimate tells.

    :param n_critics: N
    :param n_steps: gradient steps, of all critics at once
    :param batch_size: rows a step; None takes all
    :param net_arch: hidden layers of a critic
    :param learning_rate: of Adam; falls linearly to 0
    :param tau: Polyak coefficient of the targets. What the start got wrong of the value's level shrinks by the factor
        1 - (1 - gamma) tau a step; None chooses tau so that 2% of it are left after ``n_steps``
    :param checkpoint: a file that keeps the fit's state every 1000 steps: one that was stopped goes on there
    :param progress_bar: show one
    """

    name: ClassVar[str] = "FQE"
    n_critics: int = 5
    n_steps: int = 5_000
    batch_size: int | None = 256
    net_arch: Sequence[int] = (64, 64)
    learning_rate: float = 1e-3
    tau: float | None = None
    device: th.device | str = "auto"
    checkpoint: str | Path | None = None
    progress_bar: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_critics", self.n_critics)
        check_count("n_steps", self.n_steps)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        self.net_arch = tuple(check_count("net_arch", width) for width in self.net_arch)
        self.learning_rate = check_number("learning_rate", self.learning_rate, POSITIVE)
        if self.tau is not None:
            self.tau = check_number("tau", self.tau, UPDATE_RATE)

    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        fitted = self.fit(policy, dataset)
        values = fitted.v(dataset.observations[first_rows(dataset)])  # (N, n_episodes)
        replicates = (fitted.counts * values).sum(axis=1) / fitted.counts.sum(axis=1)
        diagnostics = {
            "td_error": fitted.td_error(dataset),
            "spread_of_critics": float(values.std(axis=0).mean()),
            "at_a_bound": fitted.update.at_a_bound(values),
        }
        interval = student_interval(replicates, self.confidence)
        return self._result(replicates.mean(), interval, values.mean(axis=0), diagnostics)

    def fit(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> FittedQ:
        """
        Learn Q of the policy.

        :raises ValueError: if the loss stops being a number
        """
        streams = Streams(self.seed, get_device(self.device))
        counts = bootstrap_counts(self.n_critics, dataset.n_episodes, self.seed)
        options: dict[str, Any] = {"gamma": self.gamma, "batch_size": self.batch_size, "net_arch": tuple(self.net_arch)}
        rates: dict[str, Any] = {"learning_rate": self.learning_rate, "tau": self._target_rate()}
        update = FQEUpdate(policy, dataset, counts, streams=streams, **options, **rates)
        identity = self._identity(update, dataset)
        runner, done = UpdateRunner(update), self._restore(update, identity)
        with tqdm(total=self.n_steps, initial=done, desc="FQE", unit="step", disable=not self.progress_bar) as bar:
            for step in range(done, self.n_steps):
                set_learning_rate(update.optimizer, self.learning_rate * (1 - step / self.n_steps))
                logs = runner()
                bar.update()
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == self.n_steps:
                    if not math.isfinite(float(logs["loss"])):
                        raise ValueError(f"FQE diverged within {step + 1} steps: lower learning_rate, or raise batch_size.")
                    self._keep(update, identity, step + 1)
        return FittedQ(update, counts, policy)

    def _target_rate(self) -> float:
        """``tau``, or the one that leaves :data:`REST` of the start's error: (1 - (1 - gamma) tau)^n_steps = REST."""
        if self.tau is not None:
            return self.tau
        return min(1.0, (1.0 - REST ** (1.0 / self.n_steps)) / (1.0 - self.gamma))

    # --- a fit that is stopped goes on ---

    def _identity(self, update: FQEUpdate, dataset: OfflineDataset) -> str:
        """Equal for fits that give equal numbers: options, data, and what the policy does in the data's states."""
        if self.checkpoint is None:
            return ""
        options = [
            self.gamma,
            self.seed,
            self.n_critics,
            self.n_steps,
            self.batch_size,
            self.net_arch,
            self.learning_rate,
            self._target_rate(),
        ]
        digest = hashlib.sha256(json.dumps([*options, str(update.device), dataset.fingerprint()]).encode())
        digest.update(update.next_policy.cpu().numpy().tobytes())
        return digest.hexdigest()

    def _keep(self, update: FQEUpdate, identity: str, step: int) -> None:
        if self.checkpoint is None:
            return
        state = {
            "step": step,
            "networks": update.nets.state_dict(),
            "optimizer": plain_optimizer_state(update.optimizer.state_dict()),
            "streams": update.streams.state(),
        }
        write_atomically(self.checkpoint, lambda file: write_checked(file, state, identity))

    def _restore(self, update: FQEUpdate, identity: str) -> int:
        """The steps that were done before; 0 without a checkpoint, or with that of another fit, which is replaced."""
        path = None if self.checkpoint is None else Path(self.checkpoint)
        if path is None or not path.exists():
            return 0
        state = read_checked(path)
        if read_label(path) != identity:
            return 0
        update.nets.load_state_dict(state["networks"])
        update.optimizer.load_state_dict(state["optimizer"])
        update.streams.restore(state["streams"])
        return int(state["step"])


@dataclass(frozen=True, eq=False)
class FittedQ:
    """
    Q of a policy by several critics, in the task's own reward.

    :param update: what was fitted
    :param counts: (N, n_episodes) how often each critic's bootstrap drew each episode
    :param policy: whose Q it is
    """

    update: FQEUpdate
    counts: np.ndarray
    policy: EvaluatedPolicy

    @th.no_grad()
    def q(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """Q(s, a) of logged actions, (N, n)."""
        nets, parts = self.update.nets, []
        for start in range(0, len(actions), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            seen, taken = self._tensors(observations[rows]), np.asarray(actions[rows])
            if nets.is_discrete:
                index = th.as_tensor(self.policy.choices.numbers(taken), device=self.update.device)
                parts.append(nets.q(seen).gather(2, index[None, :, None].expand(nets.n_critics, -1, -1)).squeeze(2))
            else:
                scaled = scale_actions(taken, self.policy.action_space)
                parts.append(nets.q(seen, th.as_tensor(scaled, device=self.update.device)).squeeze(2))
        return self.update.in_reward(th.cat(parts, dim=1))

    @th.no_grad()
    def v(self, observations: Any) -> np.ndarray:
        """E_{a ~ pi} Q(s, a), (N, n)."""
        nets, parts = self.update.nets, []
        for start in range(0, len(observations), ROWS_AT_ONCE):
            rows = observations[start : start + ROWS_AT_ONCE]
            seen, acted = self._tensors(rows), th.as_tensor(policy_table(self.policy, rows), device=self.update.device)
            if nets.is_discrete:
                parts.append((nets.q(seen) * acted).sum(dim=2))
            elif acted.dim() == 2:
                parts.append(nets.q(seen, acted).squeeze(2))
            else:
                parts.append(th.stack([nets.q(seen, draw).squeeze(2) for draw in acted.unbind(1)]).mean(dim=0))
        return self.update.in_reward(th.cat(parts, dim=1))

    def td_error(self, dataset: OfflineDataset, max_rows: int = 10_000) -> float:
        """Root mean square of r + gamma (1 - done) V(s') - Q(s, a) on rows spread over the data, in the task's own reward."""
        rows = np.unique(np.linspace(0, len(dataset) - 1, min(max_rows, len(dataset))).astype(int))
        going = ~np.asarray(dataset.terminations[rows])
        target = np.asarray(dataset.rewards[rows]) + self.update.gamma * going * self.v(dataset.next_observations[rows])
        return float(np.sqrt(np.square(target - self.q(dataset.observations[rows], dataset.actions[rows])).mean()))

    def _tensors(self, rows: np.ndarray) -> Any:
        return map_observations(to_tensors(np.array(rows)), lambda column: column.to(self.update.device))


def bootstrap_counts(n_critics: int, n_episodes: int, seed: int) -> np.ndarray:
    """(N, n_episodes) how often each critic's resample of the episodes holds each; every one once for a single critic."""
    if n_critics == 1:
        return np.ones((1, n_episodes))
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_episodes, np.full(n_episodes, 1 / n_episodes), size=n_critics).astype(np.float64)
