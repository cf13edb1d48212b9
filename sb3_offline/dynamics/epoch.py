"""One pass of training over the ensemble's bootstrap samples: the loss, its weight decay, and where the rows come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.buffers.rows import Rows
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.execution.precision import Precision, precision_scope

Lookup: TypeAlias = Callable[[th.Tensor], th.Tensor]
"""Rows (k,) of the data -> (k, inputs + targets), standardised."""


def bootstrap_indices(n_members: int, n_rows: int, generator: th.Generator) -> th.Tensor:
    """(n_members, n_rows) int32 indices below ``n_rows``, drawn with replacement, on the generator's device."""
    indices = th.empty(n_members, n_rows, dtype=th.int32, device=generator.device)
    for sample in indices:
        sample.copy_(th.randint(n_rows, (n_rows,), generator=generator, device=generator.device))
    return indices


def standardized(model: EnsembleDynamics, *columns: Rows) -> Lookup:
    """The transitions as the networks see them: tensors are standardised once, rows in files as they are read."""

    def standardize(
        observations: th.Tensor, actions: th.Tensor, next_observations: th.Tensor, rewards: th.Tensor
    ) -> th.Tensor:
        targets = th.cat([next_observations - observations, rewards.reshape(-1, 1)], dim=1)
        return th.cat([model.normalize(observations, actions), (targets - model.target_mean) / model.target_std], dim=1)

    tensors = [column for column in columns if isinstance(column, th.Tensor)]
    if len(tensors) < len(columns):
        return lambda rows: standardize(*(column[rows] for column in columns))
    data = standardize(*tensors)
    return lambda rows: data.index_select(0, rows)


def paced(
    batches: tuple[th.Tensor, ...], optimizer: th.optim.Optimizer, schedule: Schedule | None, epoch: int, n_epochs: int | None
) -> Iterator[tuple[th.Tensor, float]]:
    """
    The batches of an epoch, each with its beta of :func:`negative_log_likelihood`: 1 before the first, falling to 0 in the
    middle of the fit. The optimiser's rate is set before each. Without a schedule, or an end that is known, the rate stays and
    beta is 0.

    :param schedule: the rate by the share of all batches of all epochs that remains
    :param epoch: from 1 to ``n_epochs``
    """
    for batch, columns in enumerate(batches):
        beta = 0.0
        if schedule is not None and n_epochs is not None:
            remaining = 1.0 - (epoch - 1 + batch / len(batches)) / n_epochs
            beta = max(2.0 * remaining - 1.0, 0.0)
            for group in optimizer.param_groups:
                group["lr"] = schedule(remaining)
        yield columns, beta


def train_batches(
    model: EnsembleDynamics,
    optimizer: th.optim.Optimizer,
    lookup: Lookup,
    bootstrap: th.Tensor,
    batches: Iterable[tuple[th.Tensor, float]],
    logvar_loss_weight: float,
    precision: Precision = "float32",
    members: th.Tensor | None = None,
) -> th.Tensor:
    """
    One pass over every member's bootstrap sample.

    :param bootstrap: (n_members, n_train) rows of the data
    :param members: (n_members,) whose samples these are, if not all members'; the others' numbers then mean nothing
    :param batches: columns of ``bootstrap``, a batch each, with their beta
    :return: the mean of :func:`negative_log_likelihood` over the pass, with beta = 0, ()
    """
    n_inputs = model.input_mean.shape[0]
    total = th.zeros((), device=model.device)
    for columns, beta in batches:
        rows = bootstrap.index_select(1, columns)
        inputs, targets = lookup(rows.flatten()).view(*rows.shape, -1).tensor_split([n_inputs], dim=2)
        with precision_scope(precision, model.device):
            forecast = model.networks(inputs, members)
        loss = negative_log_likelihood(*forecast, targets, beta).sum()
        bounds = (model.max_logvar - model.min_logvar).sum() / model.n_members
        optimizer.zero_grad(set_to_none=True)
        (loss + logvar_loss_weight * bounds).backward()
        add_weight_decay(model)
        optimizer.step()
        with th.no_grad():
            total += negative_log_likelihood(*forecast, targets).sum() * len(columns)
    return total / bootstrap.numel()


def negative_log_likelihood(mean: th.Tensor, logvar: th.Tensor, targets: th.Tensor, beta: float = 0.0) -> th.Tensor:
    """
    Gaussian NLL per member (M,), averaged over rows and dimensions, times two, without its constant (PETS, Eq 1).

    :param beta: weights each term with its variance to this power, held fixed (Seitzer et al. 2022, arXiv 2203.09168, Eq 5).
        At 0 what is known well has the steepest gradients, and what is hard to predict learns last; at 1 the mean learns as
        from squared errors. Either way the minimum is the same if the model can reach it.
    """
    terms = (mean - targets).square() * (-logvar).exp() + logvar
    return (terms * (beta * logvar.detach()).exp()).mean(dim=(1, 2))


@th.no_grad()
def add_weight_decay(model: EnsembleDynamics) -> None:
    """Add the gradient of sum over layers of 0.5 wd |W|^2, which is wd W, to the weights' gradients."""
    for weight, decay in zip(model.weights, model.weight_decay, strict=True):
        if weight.grad is not None:
            weight.grad.add_(weight, alpha=decay)
