"""Fitting the ensemble by maximum likelihood: bootstrap per member, held-out early stopping, elites."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from tqdm import tqdm

from sb3_offline.buffers.rows import BLOCK_ROWS, Rows, row_blocks
from sb3_offline.dynamics.ensemble import MAX_HOLDOUT_ROWS, EnsembleDynamics
from sb3_offline.dynamics.epoch import bootstrap_indices, paced, standardized, train_batches
from sb3_offline.dynamics.fit_checkpoint import FitCheckpoint
from sb3_offline.execution import ranks
from sb3_offline.execution.optimizers import check_gradients
from sb3_offline.execution.precision import Precision, precision_scope

MIN_IMPROVEMENT = 0.01  # a snapshot is taken when the held-out error falls by more than this fraction

StopReason: TypeAlias = Literal["patience", "max_epochs", "callback"]


class DynamicsDivergedError(FloatingPointError, ValueError):
    """The loss became NaN or infinite. Also a ValueError, which is what a hyperparameter search prunes on."""


@dataclass(frozen=True, eq=False)
class EpochStats:
    """What one epoch did. The errors are those of :class:`FitReport`, (n_members,) on the model's device."""

    epoch: int
    train_loss: float
    holdout_error: th.Tensor
    holdout_mse: th.Tensor
    best_holdout_error: th.Tensor
    stale_epochs: int
    seconds: float


@dataclass(frozen=True)
class FitReport:
    """
    How a fit went. Per member, of the snapshot that was kept: ``holdout_error`` is the mean squared error of the mean
    prediction of standardised targets, averaged over (delta observation, reward): 0 is perfect, 1 is no better than a
    constant. It decides on early stopping, snapshots and elites; in raw units the dimensions of largest scale would
    decide alone. ``holdout_mse`` is the same in raw units. ``train_loss`` is the last epoch's
    :func:`~sb3_offline.dynamics.epoch.negative_log_likelihood`, the mean over the members.
    """

    epochs: int
    train_loss: float
    holdout_error: tuple[float, ...]
    holdout_mse: tuple[float, ...]
    elites: tuple[int, ...]
    n_train: int
    n_holdout: int
    stopped_by: StopReason
    seconds: float


def fit_ensemble(
    model: EnsembleDynamics,
    optimizer: th.optim.Optimizer,
    observations: Rows,
    actions: Rows,
    next_observations: Rows,
    rewards: Rows,
    *,
    generator: th.Generator,
    batch_size: int = 256,
    holdout_fraction: float = 0.2,
    max_epochs: int | None = None,
    patience: int | None = 5,
    schedule: Schedule | None = None,
    logvar_loss_weight: float = 0.01,
    precision: Precision = "float32",
    on_epoch: Callable[[EpochStats], bool | None] | None = None,
    progress_bar: bool = False,
    checkpoint: FitCheckpoint | None = None,
) -> FitReport:
    """
    Train from the model's present weights, restore each member's best snapshot and choose the elites. The model also notes
    which rows were held out, and the std of its error there.

    Rows are transitions whose next observation is known, float32 on the model's device, in environment units. They are
    copied once, standardised (those of :class:`~sb3_offline.buffers.rows.HostRows` whenever they are read); a member's
    bootstrap sample is a row of indices. Targets are standardised too: with raw
    ones, whose errors start far above the bound of the log-variance, its gradient vanishes and the std stays too large.
    The loss is the sum over members of
    :func:`~sb3_offline.dynamics.epoch.negative_log_likelihood`, plus ``logvar_loss_weight`` * sum(max_logvar - min_logvar)
    averaged over members, plus ``model.weight_decay`` times 0.5 |W|^2.

    :param optimizer: over ``model.member_parameters()``, without a weight decay of its own
    :param observations: (n, observation_dim)
    :param actions: (n, action_dim)
    :param next_observations: (n, observation_dim)
    :param rewards: (n,) or (n, 1)
    :param generator: source of the split, the bootstrap and the order of the batches
    :param holdout_fraction: share of the rows held out, at most 1000 rows
    :param precision: of the training's matrix products, see :func:`~sb3_offline.execution.precision.precision_scope`; errors
        on held-out rows are measured in float32
    :param max_epochs: None stops by ``patience`` alone
    :param patience: stop after so many epochs in a row in which no member improved by 1%; None never does
    :param schedule: the optimiser's rate at each batch, by the share of ``max_epochs`` that remains. The loss then begins as
        beta-NLL with beta = 1 and ends as the likelihood, see :func:`~sb3_offline.dynamics.epoch.paced`. None leaves the rate
        alone, and the loss is the likelihood throughout
    :param on_epoch: called after each epoch; returning False ends the training (the best snapshots are kept)
    :param checkpoint: keeps the state after an epoch, from which an interrupted fit goes on to the very same weights
    :raises ValueError: too few rows to hold some out and fill two batches; NaN or infinite data; neither ``max_epochs`` nor
        ``patience``, or a schedule without ``max_epochs``
    :raises DynamicsDivergedError: the loss is not finite. Then, as after any exception, ``model.fitted`` is False.
    """
    check_gradients()
    start = time.perf_counter()
    if max_epochs is None and (patience is None or schedule is not None):
        raise ValueError("A fit without patience, or whose rate follows a schedule, needs max_epochs: it has no other end.")
    model.fitted.fill_(False)
    _check_finite(observations=observations, actions=actions, next_observations=next_observations, rewards=rewards)
    n_holdout, n_train = _split_sizes(len(observations), holdout_fraction, batch_size)
    holdout, train = _permutation(len(observations), generator, model.device).split([n_holdout, n_train])
    first, last = ranks.share_of(model.n_members)  # of several processes each trains some of the members
    members = None if ranks.size() == 1 else th.arange(first, last, device=model.device)
    bootstrap = bootstrap_indices(model.n_members, n_train, generator)[first:last].to(model.device)
    for sample in bootstrap:
        sample.copy_(train.index_select(0, sample))

    columns = (observations, actions, next_observations, rewards)
    model.fit_normalizers(*columns, rows=train)
    lookup = standardized(model, *columns)
    holdout_data = lookup(holdout)

    best = _BestSnapshots(model)
    epoch, stale = (0, 0) if checkpoint is None else checkpoint.begin(model, optimizer, generator, best.tensors)
    stopped_by: StopReason | None = None
    progress = tqdm(desc="dynamics", initial=epoch, total=max_epochs, unit="epoch", disable=not progress_bar)
    with progress as bar, precision_scope("float32", model.device):
        while stopped_by is None:
            epoch += 1
            epoch_start = time.perf_counter()
            batches = _permutation(n_train, generator, model.device).split(batch_size)
            pace = paced(batches, optimizer, schedule, epoch, max_epochs)
            loss = train_batches(model, optimizer, lookup, bootstrap, pace, logvar_loss_weight, precision, members)
            loss = ranks.summed(loss * (last - first) / model.n_members)
            own = (errors[first:last] for errors in _holdout_errors(model, holdout_data))
            error, mse = (ranks.gathered(errors, model.n_members) for errors in own)
            if not th.isfinite(loss + error.sum()):
                largest = (lookup(rows)[:, model.input_mean.shape[0] :].abs().max() for rows in train.split(BLOCK_ROWS))
                outlier = max(largest).item()
                raise DynamicsDivergedError(
                    f"The dynamics model diverged in epoch {epoch}: training loss {loss.item()}, held-out errors "
                    f"{error.tolist()}. Lower learning_rate in dynamics_kwargs, and look for outliers: one target lies "
                    f"{outlier:.3g} standard deviations from the mean."
                )
            stale = 0 if best.update(model, error, mse) else stale + 1
            seconds = time.perf_counter() - epoch_start
            stats = EpochStats(epoch, loss.item(), error, mse, best.error, stale, seconds)
            bar.set_postfix(error=f"{best.error.mean().item():.2g}")  # no more, lest 80 columns hold no bar
            bar.update()
            if any(ranks.largest(on_epoch is not None and on_epoch(stats) is False)):
                stopped_by = "callback"
            elif patience is not None and stale >= patience:
                stopped_by = "patience"
            elif max_epochs is not None and epoch >= max_epochs:
                stopped_by = "max_epochs"
            elif checkpoint is not None:
                checkpoint.after_epoch(epoch, stale)
        if stopped_by == "patience":  # a bar that ends half full looks like a failure
            bar.total = epoch
            bar.set_postfix_str(f"done: no better for {stale} epochs")

    best.restore(model)
    with th.no_grad():
        for parameter in model.member_parameters():
            parameter.copy_(ranks.gathered(parameter[first:last], model.n_members))
    model.elites.copy_(best.error.argsort(stable=True)[: len(model.elites)])
    model.holdout_rows.fill_(-1)
    model.holdout_rows[:n_holdout] = holdout
    model.residual_std.copy_(_residual_std(model, holdout_data))
    model.fitted.fill_(True)
    return FitReport(
        epochs=epoch,
        train_loss=stats.train_loss,
        holdout_error=tuple(best.error.tolist()),
        holdout_mse=tuple(best.mse.tolist()),
        elites=tuple(model.elites.tolist()),
        n_train=n_train,
        n_holdout=n_holdout,
        stopped_by=stopped_by,
        seconds=time.perf_counter() - start,
    )


class _BestSnapshots:
    """Each member's parameters at its lowest held-out error. Every parameter's first dimension is the member."""

    def __init__(self, model: EnsembleDynamics) -> None:
        self.error = th.full((model.n_members,), th.inf, device=model.device)
        self.mse = self.error.clone()
        self.parameters = [parameter.detach().clone() for parameter in model.member_parameters()]

    def tensors(self) -> list[th.Tensor]:
        return [self.error, self.mse, *self.parameters]

    @th.no_grad()
    def update(self, model: EnsembleDynamics, error: th.Tensor, mse: th.Tensor) -> bool:
        """Take a snapshot of the members that improved; whether any did."""
        improved = error < (1 - MIN_IMPROVEMENT) * self.error
        self.error, self.mse = th.where(improved, error, self.error), th.where(improved, mse, self.mse)
        for saved, parameter in zip(self.parameters, model.member_parameters(), strict=True):
            saved[improved] = parameter[improved]
        return bool(improved.any())

    @th.no_grad()
    def restore(self, model: EnsembleDynamics) -> None:
        for saved, parameter in zip(self.parameters, model.member_parameters(), strict=True):
            parameter.copy_(saved)


@th.no_grad()
def _holdout_errors(model: EnsembleDynamics, data: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Mean squared error per member (M,), over rows and dimensions: of standardised targets, and in raw units."""
    inputs, targets = data.tensor_split([model.input_mean.shape[0]], dim=1)
    mean, _ = model.networks(inputs.expand(model.n_members, -1, -1))
    mse = (mean - targets).square().mean(dim=1)
    return mse.mean(dim=1), (mse * model.target_std.square()).mean(dim=1)


@th.no_grad()
def _residual_std(model: EnsembleDynamics, data: th.Tensor) -> th.Tensor:
    """
    Root mean square error of the members' mean prediction, in environment units: (observation_dim + 1,). It is at least
    the smallest std that the members can predict, lest a dimension that is known better seem uncertain everywhere.
    """
    inputs, targets = data.tensor_split([model.input_mean.shape[0]], dim=1)
    mean, _ = model.networks(inputs.expand(model.n_members, -1, -1))
    smallest = (0.5 * model.min_logvar).exp().amax(dim=(0, 1))
    return (mean.mean(dim=0) - targets).square().mean(dim=0).sqrt().maximum(smallest) * model.target_std


def _permutation(n: int, generator: th.Generator, device: th.device) -> th.Tensor:
    return th.randperm(n, generator=generator, device=generator.device).to(device)


def _split_sizes(n_rows: int, holdout_fraction: float, batch_size: int) -> tuple[int, int]:
    n_holdout = min(int(holdout_fraction * n_rows), MAX_HOLDOUT_ROWS)
    n_train = n_rows - n_holdout
    if n_holdout < 1 or n_train < 2 * batch_size:
        raise ValueError(
            f"{n_rows} transitions are too few for the dynamics model: holdout_fraction={holdout_fraction:g} holds out "
            f"{n_holdout} (at least 1 is needed) and leaves {n_train} to train on (at least two batches of "
            f"{batch_size} are). Bring more data, or change batch_size or holdout_fraction in dynamics_kwargs."
        )
    return n_holdout, n_train


def _check_finite(**columns: Rows) -> None:
    for name, column in columns.items():
        bad = [~th.isfinite(block.reshape(len(block), -1)).all(dim=1) for (block,) in row_blocks(column)]
        rows = th.cat(bad).nonzero()
        if len(rows):
            raise ValueError(
                f"{name} hold NaN or infinite values in {len(rows)} of {len(column)} rows, first in row {int(rows[0])}: leave "
                "those rows out before fitting the dynamics model."
            )
