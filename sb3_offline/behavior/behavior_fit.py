"""Fitting the behaviour policy by maximum likelihood."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from torch import nn
from tqdm import tqdm

from sb3_offline.behavior.behavior_policy import BehaviorPolicy, observation_moments
from sb3_offline.behavior.discrete_behavior_policy import DiscreteBehaviorPolicy
from sb3_offline.behavior.legal_actions import LegalActions
from sb3_offline.buffers.rows import HostRows, Rows, first_row
from sb3_offline.execution.optimizers import check_gradients
from sb3_offline.execution.precision import precision_scope
from sb3_offline.training.schedules import CosineSchedule

MAX_HOLDOUT_ROWS = 10_000
MAX_GRAD_NORM = 10.0
PASSES, MIN_STEPS, MAX_STEPS = 10, 1_000, 3_500

Likelihood = BehaviorPolicy | DiscreteBehaviorPolicy | LegalActions
LogFn = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class BehaviorFitReport:
    """Outcome of :func:`fit_behavior_policy`: mean NLL (nats per action, scaled space) of the kept snapshot.

    ``steps`` were taken, ``best_step`` is the one kept; ``seconds`` is wall-clock time.
    """

    train_nll: float
    holdout_nll: float
    steps: int
    best_step: int
    seconds: float


def behavior_optimizer(policy: nn.Module) -> th.optim.Optimizer:
    """Adam at the rate that goes with :func:`fit_behavior_policy`'s default number of steps."""
    return th.optim.Adam(policy.parameters(), lr=3e-3, fused=True)


def fit_behavior_policy(
    policy: Likelihood,
    optimizer: th.optim.Optimizer,
    observations: Rows | np.ndarray,
    actions: Rows | np.ndarray,
    *,
    generator: th.Generator,
    n_steps: int | None = None,
    batch_size: int = 256,
    holdout_fraction: float = 0.05,
    eval_every: int = 250,
    patience: int = 6,
    on_log: LogFn | None = None,
    progress_bar: bool = False,
) -> BehaviorFitReport:
    """Maximise the mean log-likelihood of the data; stop early on held-out rows and keep the best snapshot.

    The optimiser's rate falls to 0 over ``n_steps``, as half a cosine.
    Sets the policy's observation statistics and its ``fitted`` flag. Deterministic given the weights and the generator.

    :param observations: (N, D), raw units
    :param actions: (N, A), scaled to [-1, 1], or one-hot; or masks
    :param generator: source of the split and of the batches
    :param n_steps: gradient steps at most; None takes ten passes over the rows, within 1,000 to 3,500 steps
    :param holdout_fraction: share of the rows held out, at least one row and at most 10,000
    :param eval_every: steps between two evaluations on the held-out rows
    :param patience: evaluations without improvement before stopping
    :param on_log: called as ``on_log(step, {"train_nll": ..., "holdout_nll": ...})`` at every evaluation
    :raises ValueError: wrong shapes or settings, non-finite rows, actions outside [-1, 1], or a fit that diverged
    """
    if not 0.0 < holdout_fraction < 1.0:
        raise ValueError(f"holdout_fraction must lie strictly between 0 and 1, got {holdout_fraction}")
    if n_steps is None:
        n_steps = min(max(PASSES * len(observations) // max(batch_size, 1), MIN_STEPS), MAX_STEPS)
    if min(n_steps, batch_size, eval_every, patience) < 1:
        raise ValueError(
            "n_steps, batch_size, eval_every and patience must be at least 1, "
            f"got {n_steps}, {batch_size}, {eval_every} and {patience}"
        )
    check_gradients()
    start = time.perf_counter()
    obs = _as_rows("observations", observations, policy.observation_dim, policy.obs_mean)
    act = _as_rows("actions", actions, policy.action_dim, policy.obs_mean)
    _check_data(obs, act)

    policy.fitted.fill_(False)
    mean, std = observation_moments(obs)
    policy.obs_mean.copy_(mean)
    policy.obs_std.copy_(std)
    order = th.randperm(len(obs), generator=generator, device=generator.device).to(obs.device)
    n_holdout = min(max(1, round(holdout_fraction * len(obs))), MAX_HOLDOUT_ROWS, len(obs) - 1)
    holdout, train = order[:n_holdout], order[n_holdout:]
    probe = train[:n_holdout]  # training rows scored beside the held-out ones

    rates = [CosineSchedule(group["lr"]) for group in optimizer.param_groups]
    best_nll, best_step, best_state, step = math.inf, 0, policy.state_dict(), 0
    progress = tqdm(total=n_steps, disable=not progress_bar, desc="behaviour policy", unit="step")
    with progress as bar, precision_scope("float32", obs.device):
        while step < n_steps and step - best_step < patience * eval_every:
            block = min(eval_every, n_steps - step)
            picks = th.randint(len(train), (block, batch_size), generator=generator, device=generator.device)
            for taken, rows in enumerate(train[picks.to(obs.device)], start=step):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate(1.0 - taken / n_steps)
                optimizer.zero_grad()
                (-policy.log_prob(obs[rows], act[rows]).mean()).backward()
                nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM)
                optimizer.step()
            step += block
            bar.update(block)
            nll = _mean_nll(policy, obs[holdout], act[holdout])
            if not math.isfinite(nll):
                raise ValueError(
                    f"the behaviour policy's fit diverged: held-out NLL is {nll} after {step} steps; lower the "
                    "learning rate of its optimizer"
                )
            if on_log is not None:
                on_log(step, {"train_nll": _mean_nll(policy, obs[probe], act[probe]), "holdout_nll": nll})
            if nll < best_nll:
                best_nll, best_step = nll, step
                best_state = {name: value.clone() for name, value in policy.state_dict().items()}
        if step < n_steps:  # a bar that ends half full looks like a failure
            bar.total = step
            bar.set_postfix_str(f"done: no better for {step - best_step} steps")
    policy.load_state_dict(best_state)
    policy.fitted.fill_(True)
    train_nll = _mean_nll(policy, obs[probe], act[probe])
    return BehaviorFitReport(train_nll, best_nll, step, best_step, time.perf_counter() - start)


@th.no_grad()
def _mean_nll(policy: Likelihood, observations: th.Tensor, actions: th.Tensor) -> float:
    return -policy.log_prob(observations, actions).double().mean().item()


def _as_rows(name: str, data: Rows | np.ndarray, width: int, like: th.Tensor) -> Rows:
    """``data`` as finite rows (N, width); a tensor with the dtype and device of ``like``."""
    rows = data if isinstance(data, HostRows) else (data if isinstance(data, th.Tensor) else th.tensor(data)).to(like)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} must have shape (N, {width}), got {tuple(rows.shape)}")
    first = first_row(rows, lambda block: ~block.isfinite().all(dim=1))
    if first is not None:
        raise ValueError(f"{name} has a non-finite value in row {first}: drop or repair that row")
    return rows


def _check_data(observations: Rows, actions: Rows) -> None:
    if len(observations) != len(actions):
        raise ValueError(f"observations have {len(observations)} rows but actions {len(actions)}: pass matching rows")
    if len(actions) < 2:
        raise ValueError(f"a fit needs at least 2 rows, one to train on and one to hold out, got {len(actions)}")
    row = first_row(actions, lambda block: (block.abs() > 1.0 + 1e-5).any(dim=1))
    if row is not None:
        raise ValueError(
            f"actions[{row}] = {actions[row : row + 1][0].tolist()} lies outside [-1, 1]: scale them with policy.scale_action"
        )
