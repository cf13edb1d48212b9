"""The behaviour policy pi_beta: a tanh-Gaussian mixture fitted by maximum likelihood."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch as th
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from sb3_offline.common.moments import Moments
from sb3_offline.common.rows import HostRows, Rows, first_row, row_blocks

if TYPE_CHECKING:
    from sb3_offline.common.discrete_behavior_policy import DiscreteBehaviorPolicy

# Bounds of log std before tanh. Replay data holds actions at exactly +-1: the floor and ACTION_LIMIT keep their
# log-density below 5 - log(2 pi)/2 - log(1 - ACTION_LIMIT^2), about 17.2 nats a dimension.
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
ACTION_LIMIT = 1.0 - 1e-6
MAX_HOLDOUT_ROWS = 10_000
MAX_GRAD_NORM = 10.0

LogFn = Callable[[int, dict[str, float]], None]


class BehaviorNoise(NamedTuple):
    """The randomness of n actions a state: ``uniform`` (B, n) picks the component, ``normal`` (B, n, A) moves in it."""

    uniform: th.Tensor
    normal: th.Tensor


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


def observation_moments(observations: Rows) -> tuple[th.Tensor, th.Tensor]:
    """Mean and standard deviation (D,) of observations (N, D), taken in float64; constant dimensions get std 1."""
    moments = Moments()
    for (rows,) in row_blocks(observations):
        moments.add(rows.double())
    varies = moments.std > 1e-6 * (1.0 + moments.mean.abs())
    return moments.mean.to(rows.dtype), th.where(varies, moments.std, 1.0).to(rows.dtype)


class BehaviorPolicy(nn.Module):
    """pi_beta(a|s) = sum_k w_k(s) tanh-Normal(a; mu_k(s), sigma_k(s)), over actions scaled to [-1, 1].

    A mixture, since one Gaussian fitted to several behaviours spreads over the gaps between them: too much variance.
    The dimensions of an action are independent within a component; log sigma lies in [-5, 2], by a smooth map.

    :param observation_dim: D, observations are (B, D)
    :param action_dim: A
    :param n_components: K; 1 is a plain tanh-Gaussian
    :param hidden_sizes: widths of the ReLU layers
    :param generator: CPU generator, the only source of the initial weights
    """

    obs_mean: th.Tensor
    obs_std: th.Tensor
    fitted: th.Tensor

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        n_components: int = 5,
        hidden_sizes: Sequence[int] = (256, 256),
        generator: th.Generator,
    ) -> None:
        super().__init__()
        if min(observation_dim, action_dim, n_components, *hidden_sizes) < 1:
            raise ValueError(
                "observation_dim, action_dim, n_components and hidden_sizes must be at least 1, got "
                f"{observation_dim}, {action_dim}, {n_components} and {tuple(hidden_sizes)}"
            )
        self.observation_dim, self.action_dim, self.n_components = observation_dim, action_dim, n_components
        layers: list[nn.Module] = []
        width = observation_dim
        for size in hidden_sizes:
            layers += [_linear(width, size, generator), nn.ReLU()]
            width = size
        self.trunk = nn.Sequential(*layers)
        self.logits = _linear(width, n_components, generator)
        self.mean = _linear(width, n_components * action_dim, generator)
        self.log_std = _linear(width, n_components * action_dim, generator)
        nn.init.normal_(self.mean.bias, generator=generator)  # components that start together stay together
        self.register_buffer("obs_mean", th.zeros(observation_dim))
        self.register_buffer("obs_std", th.ones(observation_dim))
        self.register_buffer("fitted", th.tensor(False))

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """The mixture at observations (B, D): logits (B, K); mean and log std before tanh, (B, K, A)."""
        hidden = self.trunk((observations - self.obs_mean) / self.obs_std)
        shape = (-1, self.n_components, self.action_dim)
        squashed = th.tanh(self.log_std(hidden)).reshape(shape)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (squashed + 1.0)
        return self.logits(hidden), self.mean(hidden).reshape(shape), log_std

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """log pi_beta(a|s) (B,) of actions (B, A), clipped to |a| <= 1 - 1e-6, at observations (B, D)."""
        logits, mean, log_std = self(observations)
        u = th.atanh(actions.clamp(-ACTION_LIMIT, ACTION_LIMIT)).unsqueeze(1)
        normal = -0.5 * ((u - mean) * th.exp(-log_std)).square() - log_std - 0.5 * math.log(2.0 * math.pi)
        jacobian = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
        return th.logsumexp(F.log_softmax(logits, dim=1) + (normal - jacobian).sum(dim=2), dim=1)

    def draw_noise(self, batch_size: int, n: int, generator: th.Generator) -> BehaviorNoise:
        """Noise for ``n`` actions at each of ``batch_size`` states, drawn on the generator's device."""
        device, dtype = generator.device, self.obs_mean.dtype
        return BehaviorNoise(
            th.rand(batch_size, n, generator=generator, device=device, dtype=dtype),
            th.randn(batch_size, n, self.action_dim, generator=generator, device=device, dtype=dtype),
        )

    @th.no_grad()
    def sample_from_noise(self, observations: th.Tensor, noise: BehaviorNoise) -> th.Tensor:
        """Actions (B, n, A) at observations (B, D): a pure function, one forward a state, no gradient."""
        logits, mean, log_std = self(observations)
        edges = th.softmax(logits, dim=1).cumsum(dim=1)[:, None, :-1]
        component = (noise.uniform.unsqueeze(2) >= edges).sum(dim=2)
        index = component.unsqueeze(2).expand(-1, -1, self.action_dim)
        return th.tanh(mean.gather(1, index) + log_std.gather(1, index).exp() * noise.normal)

    def sample(self, observations: th.Tensor, n: int, generator: th.Generator) -> th.Tensor:
        """``n`` actions a state, (B, n, A), at observations (B, D)."""
        noise = self.draw_noise(len(observations), n, generator)
        return self.sample_from_noise(observations, BehaviorNoise(*(x.to(observations.device) for x in noise)))

    @th.no_grad()
    def mode(self, observations: th.Tensor) -> th.Tensor:
        """The behaviour clone's action (B, A): tanh of the mean of the heaviest component."""
        logits, mean, _ = self(observations)
        return th.tanh(mean[th.arange(len(mean), device=mean.device), logits.argmax(dim=1)])


def fit_behavior_policy(
    policy: BehaviorPolicy | DiscreteBehaviorPolicy,
    optimizer: th.optim.Optimizer,
    observations: Rows | np.ndarray,
    actions: Rows | np.ndarray,
    *,
    generator: th.Generator,
    n_steps: int = 7000,
    batch_size: int = 256,
    holdout_fraction: float = 0.05,
    eval_every: int = 250,
    patience: int = 6,
    on_log: LogFn | None = None,
    progress_bar: bool = False,
) -> BehaviorFitReport:
    """Maximise the mean log-likelihood of the data; stop early on held-out rows and keep the best snapshot.

    Sets the policy's observation statistics and its ``fitted`` flag. Deterministic given the weights and the generator.

    :param observations: (N, D), raw units
    :param actions: (N, A), scaled to [-1, 1], or one-hot
    :param generator: source of the split and of the batches
    :param n_steps: gradient steps at most
    :param holdout_fraction: share of the rows held out, at least one row and at most 10,000
    :param eval_every: steps between two evaluations on the held-out rows
    :param patience: evaluations without improvement before stopping
    :param on_log: called as ``on_log(step, {"train_nll": ..., "holdout_nll": ...})`` at every evaluation
    :raises ValueError: wrong shapes or settings, non-finite rows, actions outside [-1, 1], or a fit that diverged
    """
    if not 0.0 < holdout_fraction < 1.0:
        raise ValueError(f"holdout_fraction must lie strictly between 0 and 1, got {holdout_fraction}")
    if min(n_steps, batch_size, eval_every, patience) < 1:
        raise ValueError(
            "n_steps, batch_size, eval_every and patience must be at least 1, "
            f"got {n_steps}, {batch_size}, {eval_every} and {patience}"
        )
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

    best_nll, best_step, best_state, step = math.inf, 0, policy.state_dict(), 0
    with tqdm(total=n_steps, disable=not progress_bar, desc="behaviour policy", unit="step") as bar:
        while step < n_steps and step - best_step < patience * eval_every:
            block = min(eval_every, n_steps - step)
            picks = th.randint(len(train), (block, batch_size), generator=generator, device=generator.device)
            for rows in train[picks.to(obs.device)]:
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
    policy.load_state_dict(best_state)
    policy.fitted.fill_(True)
    train_nll = _mean_nll(policy, obs[probe], act[probe])
    return BehaviorFitReport(train_nll, best_nll, step, best_step, time.perf_counter() - start)


def _linear(n_in: int, n_out: int, generator: th.Generator) -> nn.Linear:
    """torch's usual U(+-1/sqrt(n_in)) initialisation, from ``generator`` alone."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(n_in**-0.5), n_in**-0.5, generator=generator)
    return layer


@th.no_grad()
def _mean_nll(policy: BehaviorPolicy | DiscreteBehaviorPolicy, observations: th.Tensor, actions: th.Tensor) -> float:
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
