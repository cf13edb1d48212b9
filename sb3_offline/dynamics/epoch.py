"""One pass of training over the ensemble's bootstrap samples: the loss, its weight decay, and where the rows come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch as th

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


def train_batches(
    model: EnsembleDynamics,
    optimizer: th.optim.Optimizer,
    lookup: Lookup,
    bootstrap: th.Tensor,
    batches: tuple[th.Tensor, ...],
    logvar_loss_weight: float,
    precision: Precision = "float32",
) -> th.Tensor:
    """
    One pass over every member's bootstrap sample.

    :param bootstrap: (n_members, n_train) rows of the data
    :param batches: columns of ``bootstrap``, a batch each
    :return: the mean of :func:`negative_log_likelihood` over the pass, ()
    """
    n_inputs = model.input_mean.shape[0]
    total = th.zeros((), device=model.device)
    for columns in batches:
        rows = bootstrap.index_select(1, columns)
        inputs, targets = lookup(rows.flatten()).view(*rows.shape, -1).tensor_split([n_inputs], dim=2)
        with precision_scope(precision, model.device):
            forecast = model.networks(inputs)
        nll = negative_log_likelihood(*forecast, targets).sum()
        bounds = (model.max_logvar - model.min_logvar).sum() / model.n_members
        optimizer.zero_grad(set_to_none=True)
        (nll + logvar_loss_weight * bounds).backward()
        add_weight_decay(model)
        optimizer.step()
        total += nll.detach() * len(columns)
    return total / bootstrap.numel()


def negative_log_likelihood(mean: th.Tensor, logvar: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """Gaussian NLL per member (M,), averaged over rows and dimensions, times two, without its constant (PETS, Eq 1)."""
    return ((mean - targets).square() * (-logvar).exp() + logvar).mean(dim=(1, 2))


@th.no_grad()
def add_weight_decay(model: EnsembleDynamics) -> None:
    """Add the gradient of sum over layers of 0.5 wd |W|^2, which is wd W, to the weights' gradients."""
    for weight, decay in zip(model.weights, model.weight_decay, strict=True):
        if weight.grad is not None:
            weight.grad.add_(weight, alpha=decay)
