"""How the actor follows the gradient of its loss: SAC's step, Stein's repulsion between particles, or Fisher's metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, cast

import torch as th
import torch.nn.functional as F
from stable_baselines3.sac.policies import Actor, SACPolicy

from sb3_offline.dromo.particles import ParticleActor, with_particles
from sb3_offline.execution.optimizers import minimize
from sb3_offline.networks.networks import Logs
from sb3_offline.options import option

_BACKTRACKS = 10


@option
@dataclass(frozen=True)
class Entropy:
    """
    SAC: its entropy bonus alone, one step of the actor's optimiser.

    :param states: At which the actor improves: "mix" is all of d_f (Algorithm 1, line 6), "model" rho's, those that the model
        imagined (Eq 14). Given by name, as of the other rules.
    """

    states: Literal["mix", "model"] = field(default="mix", kw_only=True)
    n_particles: ClassVar[int] = 1  # actors whose mixture is the policy

    def __post_init__(self) -> None:
        if self.states not in ("mix", "model"):
            raise ValueError(f"actor_regularizer['states'] must be 'mix' or 'model', got {self.states!r}.")

    def install(self, policy: SACPolicy) -> None:
        """Give the policy the actor that this rule needs; its own will do."""

    def step(self, actor: Actor, loss: th.Tensor, observations: th.Tensor) -> Logs:
        """
        One step of the actor.

        :param loss: What to descend.
        :param observations: The batch's, as the actor takes them (B, obs).
        :return: What to log.
        """
        minimize(loss, actor.optimizer)
        return {}


@option
@dataclass(frozen=True)
class NaturalGradient(Entropy):
    """
    theta <- theta - step_size F^{-1} grad, F the Fisher matrix of the policy over the batch's states (Kakade 2002), by
    conjugate gradients as in TRPO (Schulman et al. 2015). ``learning_rate`` is then the temperature's alone.

    :param step_size: Length of a step; shortened where the policy would change by more than ``target_kl``.
    :param target_kl: Most KL(pi_old \\|\\| pi_new) of a step, mean over the states, in nats.
    :param cg_steps: Iterations of conjugate gradients.
    :param cg_damping: Added to F's diagonal.
    """

    step_size: float = 0.1
    target_kl: float = 1e-3
    cg_steps: int = 10
    cg_damping: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (min(self.step_size, self.target_kl) > 0 and self.cg_steps >= 1 and self.cg_damping >= 0):
            raise ValueError(
                f"step_size and target_kl must be positive, cg_steps at least 1, cg_damping not negative; got {self}."
            )

    def step(self, actor: Actor, loss: th.Tensor, observations: th.Tensor) -> Logs:
        parameters = list(actor.parameters())
        gradient = flat_gradient(loss, parameters)
        old = distribution(actor, observations)
        fixed = (old[0].detach(), old[1].detach())
        kl_gradient = flat_gradient(gaussian_kl(fixed, old), parameters, create_graph=True)

        def fisher(vector: th.Tensor) -> th.Tensor:  # the Hessian of the KL at the present policy
            return flat_gradient(kl_gradient @ vector, parameters, retain_graph=True) + self.cg_damping * vector

        direction = conjugate_gradients(fisher, gradient, self.cg_steps)
        quadratic = (direction @ fisher(direction)).clamp(min=1e-20)
        scale = (2.0 * self.target_kl / quadratic).sqrt().clamp(max=self.step_size)
        start = th.cat([p.detach().flatten() for p in parameters])
        with th.no_grad():
            for tries in range(_BACKTRACKS):  # a fixed number of times, so that the host never waits for the device
                assign(parameters, start - scale * direction)
                kl = gaussian_kl(fixed, distribution(actor, observations))
                shorter = 0.5 if tries < _BACKTRACKS - 1 else 0.0
                scale = th.where(kl <= self.target_kl, scale, shorter * scale)
            assign(parameters, start - scale * direction)
        return {"actor_kl": kl, "actor_step": scale}


@option
@dataclass(frozen=True)
class SVPG(Entropy):
    """
    Stein variational policy gradient (Liu et al. 2017): n particles follow each other's gradients, weighted by a kernel of
    their distance, and repel each other. The particles' uniform mixture is the policy that is trained, bootstrapped from
    and rolled out, each row of a batch going to one of them; ``predict`` asks the first.

    :param n_particles: n; 1 is the plain gradient.
    :param temperature: T, divides the objective: the higher, the stronger the repulsion.
    :param bandwidth: h of the kernel exp(-\\|x - y\\|^2 / h); None takes the median of the squared distances over log(n + 1).
    """

    n_particles: int = 4  # type: ignore[misc]
    temperature: float = 1.0
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_particles < 1 or not self.temperature > 0 or not (self.bandwidth is None or self.bandwidth > 0):
            raise ValueError(f"n_particles must be at least 1, temperature and bandwidth positive; got {self}.")

    def install(self, policy: SACPolicy) -> None:
        policy.actor = with_particles(policy, self.n_particles)

    def step(self, actor: Actor, loss: th.Tensor, observations: th.Tensor) -> Logs:
        particles, n_rows = cast(ParticleActor, actor).particle_parameters(), len(observations)
        # the loss is a mean over all rows, of which a particle has some: back to the mean over its own
        gradients = flat_gradient(loss, [p for own in particles for p in own]).view(len(particles), -1)
        shares = gradients.new_tensor([len(range(i, n_rows, self.n_particles)) / n_rows for i in range(self.n_particles)])
        ascent = -gradients / shares.unsqueeze(1) / self.temperature
        positions = th.stack([th.cat([p.detach().flatten() for p in own]) for own in particles])
        direction, kernel = svpg_direction(positions, ascent, self.bandwidth)
        for own, step in zip(particles, direction, strict=True):
            for parameter, part in zip(own, step.split([p.numel() for p in own]), strict=True):
                parameter.grad = -part.view_as(parameter)
        actor.optimizer.step()
        return {"particle_kernel": kernel.mean()}


#: By the kind that a user gives as ``actor_regularizer``.
RULES: Mapping[str, type[Entropy]] = {"entropy": Entropy, "svpg": SVPG, "natural": NaturalGradient}
ActorRegularizer: TypeAlias = str | Entropy | Mapping[str, Any]


def svpg_direction(positions: th.Tensor, gradients: th.Tensor, bandwidth: float | None) -> tuple[th.Tensor, th.Tensor]:
    """
    phi(theta_i) = 1/n sum_j [k(theta_j, theta_i) grad_j + grad_{theta_j} k(theta_j, theta_i)], k = exp(-\\|x - y\\|^2 / h).

    :param positions: theta, (n, P).
    :param gradients: grad_{theta_j} (J / T + log q_0), to be ascended, (n, P).
    :return: phi (n, P), and k (n, n).
    """
    n = len(positions)
    offsets = positions.unsqueeze(0) - positions.unsqueeze(1)  # [j, i] = theta_i - theta_j
    squared = offsets.square().sum(dim=-1)
    if bandwidth is not None or n == 1:
        h = squared.new_tensor(bandwidth or 1.0)
    else:
        h = (F.pdist(positions).square().median() / math.log(n + 1)).clamp(min=1e-12)
    kernel = (-squared / h).exp()
    repulsion = (2.0 / h) * (kernel.unsqueeze(-1) * offsets).sum(dim=0)
    return (kernel @ gradients + repulsion) / n, kernel


# --- Gaussians and flat vectors ---

Gaussian = tuple[th.Tensor, th.Tensor]


def distribution(actor: Actor, observations: th.Tensor) -> Gaussian:
    """Mean and log std, (B, action_dim) each, before tanh, which changes neither the KL nor the Fisher matrix."""
    mean, log_std, _ = actor.get_action_dist_params(observations)
    return mean.float(), log_std.float()  # the KL of a step is far below bfloat16's resolution


def gaussian_kl(old: Gaussian, new: Gaussian) -> th.Tensor:
    """KL(old || new) of diagonal Gaussians, mean over the states."""
    (mean, log_std), (new_mean, new_log_std) = old, new
    ratio = ((2 * log_std).exp() + (mean - new_mean).square()) / (2 * (2 * new_log_std).exp())
    return (new_log_std - log_std + ratio - 0.5).sum(dim=-1).mean()


def conjugate_gradients(matrix: Any, target: th.Tensor, n_steps: int) -> th.Tensor:
    """x with matrix(x) = target, from 0, by a fixed number of steps."""
    solution, residual = th.zeros_like(target), target.clone()
    direction, square = residual, residual @ residual
    for _ in range(n_steps):
        image = matrix(direction)
        length = square / (direction @ image).clamp(min=1e-30)
        solution, residual = solution + length * direction, residual - length * image
        square, last = residual @ residual, square
        direction = residual + (square / last.clamp(min=1e-30)) * direction
    return solution


def flat_gradient(
    value: th.Tensor, parameters: Sequence[th.Tensor], *, retain_graph: bool = False, create_graph: bool = False
) -> th.Tensor:
    """d value / d parameters as one vector, 0 where it does not depend on one."""
    keep = retain_graph or create_graph
    gradients = th.autograd.grad(value, list(parameters), retain_graph=keep, create_graph=create_graph, materialize_grads=True)
    return th.cat([gradient.flatten() for gradient in gradients])


def assign(parameters: Sequence[th.Tensor], vector: th.Tensor) -> None:
    """Write a flat vector into the parameters, in place."""
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
