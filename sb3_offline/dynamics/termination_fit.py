"""Fitting the termination head: which inputs matter, the weights, the recalibration, and the threshold."""

from __future__ import annotations

import copy
from dataclasses import astuple

import numpy as np
import torch as th
from torch.nn import functional as F

from sb3_offline.dynamics.recalibration import fit_logistic
from sb3_offline.dynamics.termination_head import TerminationHead, TerminationReport

MIN_TERMINATIONS = 20  # fewer cannot be split into rows to fit, to calibrate on and to judge by
FIT_SHARE, TUNE_SHARE = 0.7, 0.15
BATCH_SIZE, LEARNING_RATE = 512, 1e-2
LASSO, RELEVANT = 1.0, 0.1  # an input stays whose first weights have at least this share of the largest norm


def fit_termination_head(
    head: TerminationHead,
    observations: th.Tensor,
    actions: th.Tensor,
    next_observations: th.Tensor,
    terminations: th.Tensor,
    *,
    generator: th.Generator,
    n_steps: int | None = None,
) -> TerminationReport:
    """
    Find the inputs that matter, train on them, recalibrate, and choose the threshold of largest F2.

    Episodes mostly end where few coordinates of s' pass a bound, and there are few of them: on all inputs a network would
    remember each end instead. So a group lasso (Yuan, Lin 2006) first selects inputs, once among s' and once among
    (s, a, s'), and the network is trained anew on what is left; of these two, and the network on everything, the one of
    largest F2 on tuning rows is kept. Terminal rows are a fifth of each batch, which the recalibration makes up for. 70% of
    either class are fitted, 15% tuned on; the rest is for the report alone.

    :param observations: (n, observation_dim), in environment units on the head's device, as the following
    :param terminations: (n,) bool
    :param generator: source of the split and the batches, on the head's device
    :param n_steps: of each training; None takes a hundred passes over the data, within 300 to 3000 steps
    :raises ValueError: fewer than 20 terminal rows, or fewer than 20 others
    """
    labels = terminations.bool()
    check_counts(int(labels.sum()), int((~labels).sum()))
    if n_steps is None:
        n_steps = min(max(100 * len(labels) // BATCH_SIZE, 300), 3000)
    inputs = th.cat([observations, actions, next_observations], dim=1)
    terminal, tune_terminal, test_terminal = _split(labels.nonzero().squeeze(1), generator)
    going, tune_going, test_going = _split((~labels).nonzero().squeeze(1), generator)
    tune, test = th.cat([tune_terminal, tune_going]), th.cat([test_terminal, test_going])
    train = inputs[th.cat([terminal, going])]
    head.input_mean.copy_(train.mean(dim=0))
    std = train.std(dim=0, correction=0)
    head.input_std.copy_(th.where(std <= 1e-6 * train.abs().amax(dim=0), 1.0, std))
    pools = inputs[terminal], inputs[going]

    best, best_score = copy.deepcopy(head.state_dict()), -1.0
    initial = [parameter.detach().clone() for parameter in head.parameters()]
    everything, following = th.ones_like(std), th.ones_like(std)
    following[: -observations.shape[1]] = 0.0
    for candidates, lasso in ((following, LASSO), (everything, LASSO), (everything, 0.0)):
        head.mask.copy_(candidates)
        if lasso > 0:
            _train(head, initial, pools, generator, n_steps, lasso)
            norms = head.weights[0].detach().norm(dim=1) * candidates
            head.mask.copy_(norms > RELEVANT * norms.max())
        _train(head, initial, pools, generator, n_steps)
        score = _tune(head, inputs[tune], labels[tune].cpu().numpy())
        if score > best_score:
            best, best_score = copy.deepcopy(head.state_dict()), score
    head.load_state_dict(best)
    probability = head.probability_of(inputs[test]).cpu().numpy()
    report = _judge(probability, labels[test].cpu().numpy(), float(head.threshold))
    head.figures.copy_(th.tensor(astuple(report), dtype=th.float64))
    head.fitted.fill_(True)
    return report


def check_counts(n_terminal: int, n_going: int) -> None:
    """
    :raises ValueError: too few rows of either kind to fit, tune and judge by
    """
    if min(n_terminal, n_going) < MIN_TERMINATIONS:
        raise ValueError(
            f"The data holds {n_terminal} terminal and {n_going} other transitions with a known next observation; to learn "
            f"when episodes end, {MIN_TERMINATIONS} of each are needed. Pass dynamics_kwargs={{'termination': f}} with "
            "f(obs, act, next_obs) -> bool, or 'never'."
        )


def _train(
    head: TerminationHead,
    initial: list[th.Tensor],
    pools: tuple[th.Tensor, th.Tensor],
    generator: th.Generator,
    n_steps: int,
    lasso: float = 0.0,
) -> None:
    """
    Minimise the cross-entropy from the initial weights.

    :param pools: inputs of terminal and of other rows
    :param lasso: weight of sum_i |W_i|_2 over the first layer's inputs, as a proximal step
    """
    with th.no_grad():
        for parameter, value in zip(head.parameters(), initial, strict=True):
            parameter.copy_(value)
    optimizer = th.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    n_terminal = BATCH_SIZE // 5
    targets = (th.arange(BATCH_SIZE, device=pools[0].device) < n_terminal).float()
    for _ in range(n_steps):
        batch = []
        for pool, size in zip(pools, (n_terminal, BATCH_SIZE - n_terminal), strict=True):
            rows = th.randint(len(pool), (size,), generator=generator, device=generator.device)
            batch.append(pool.index_select(0, rows.to(pool.device)))
        loss = F.binary_cross_entropy_with_logits(head.logits(th.cat(batch)), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if lasso > 0:
            with th.no_grad():
                first = head.weights[0]
                first.mul_((1 - schedule.get_last_lr()[0] * lasso / first.norm(dim=1, keepdim=True)).clamp(min=0))
        schedule.step()


@th.no_grad()
def _tune(head: TerminationHead, inputs: th.Tensor, truth: np.ndarray) -> float:
    """Recalibrate and set the threshold; the F2 that it reaches."""
    logits = head.logits(inputs).double().cpu().numpy()
    head.platt.copy_(th.tensor(fit_logistic(logits, truth.astype(np.float64))))
    threshold, score = best_threshold(head.probability_of(inputs).cpu().numpy(), truth)
    head.threshold.fill_(threshold)
    return score


def best_threshold(probability: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """
    Threshold of largest F2 = 5 precision recall / (4 precision + recall), midway between the probabilities it parts, and
    that F2. It asks for recall more than for precision: a policy can exploit an end that is missed.

    :param probability: (n,)
    :param truth: (n,) bool, at least one of them True
    """
    order = np.argsort(-probability, kind="stable")
    called = np.arange(1, len(order) + 1)
    f2 = 5 * np.cumsum(truth[order]) / (called + 4 * truth.sum())
    ordered = np.append(probability[order], 0.0)
    f2[ordered[:-1] == ordered[1:]] = 0  # equal probabilities cannot be parted
    best = int(np.argmax(f2))
    return float(0.5 * (ordered[best] + ordered[best + 1])), float(f2[best])


def _judge(probability: np.ndarray, truth: np.ndarray, threshold: float) -> TerminationReport:
    called = probability >= threshold
    hits = int((called & truth).sum())
    return TerminationReport(
        precision=hits / max(int(called.sum()), 1),
        recall=hits / int(truth.sum()),
        brier=float(np.square(probability - truth).mean()),
        calibration_gap=float(probability.mean() - truth.mean()),
        threshold=threshold,
        n_terminal=int(truth.sum()),
        n_rows=len(truth),
    )


def _split(rows: th.Tensor, generator: th.Generator) -> tuple[th.Tensor, ...]:
    """Rows to fit, to tune and to judge by, in random order."""
    rows = rows[th.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)]
    n_fit, n_tune = int(FIT_SHARE * len(rows)), int(TUNE_SHARE * len(rows))
    return rows.split([n_fit, n_tune, len(rows) - n_fit - n_tune])
