"""The conservative term of CQL and its descendants, whatever the actions are, and the weight that it carries."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.execution.optimizers import minimize
from sb3_offline.networks.networks import Batch, Logs

Conservatism = Literal["logsumexp", "rho", "expectation"]


class ConservativePenalty(GradientAlgorithm):
    """
    alpha (out-of-data value - E_D Q) for each critic, beside a TD loss with its 1/2; alpha is fixed or learned.

    A child says what the out-of-data value is: :meth:`out_of_data_value`.

    :param conservative_weight: alpha, 2.5 if neither it nor ``target_gap`` is given. Published weights belong to a TD loss
        without the 1/2: ours is half of theirs.
    :param target_gap: Learn the weight by dual descent so that the gap stays below this (CQL, Eq 30).
    :param conservative: The regulariser R(mu): "logsumexp" is CQL(H); "rho" is CQL(rho) with rho the current policy;
        "expectation" takes E_{a ~ pi} Q instead of a soft maximum (Eq 2).
    """

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: float | None = None,
        conservative: Conservatism = "logsumexp",
        **kwargs: Any,
    ):
        if conservative_weight is not None and target_gap is not None:
            raise ValueError("Give conservative_weight (fixed) or target_gap (the weight is learned), not both.")
        if conservative not in self.regularizers:
            raise ValueError(f"conservative must be one of {', '.join(self.regularizers)}, got {conservative!r}.")
        weight = 2.5 if conservative_weight is None else conservative_weight
        self.conservative_weight = check_number("conservative_weight", weight, NOT_NEGATIVE)
        self.target_gap = None if target_gap is None else check_number("target_gap", target_gap)
        self.conservative = conservative
        super().__init__(*args, **kwargs)

    regularizers: ClassVar[tuple[str, ...]] = ("logsumexp", "rho", "expectation")
    weight_bounds: ClassVar[tuple[float, float]] = (1e-6, 1e6)  # of a learned weight
    log_conservative_weight: th.Tensor | None = None
    conservative_optimizer: th.optim.Optimizer | None = None

    def given_options(self) -> dict[str, Any]:
        options = super().given_options()
        if self.target_gap is not None:  # the weight is where the learned one began
            options.pop("conservative_weight", None)
        return options

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.target_gap is not None:
            initial = math.log(max(self.conservative_weight, 1e-6))
            log_weight = th.full((1,), initial, device=self.device, requires_grad=True)
            self.register_state("log_conservative_weight", log_weight)
            optimizer = th.optim.Adam([log_weight], lr=self.schedule(self.critic_rate)(1))
            self.register_state("conservative_optimizer", optimizer)

    # --- the penalty ---

    def penalty_rows(self, batch: Batch) -> slice:
        """The batch's rows whose states the conservative term pushes down: all of them, they are data."""
        return slice(0, len(batch.rewards))

    def critic_penalty(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        q_policy = self.out_of_data_value(nets, batch, noise).mean(dim=1)  # (n_critics,)
        gap = q_policy - q[:, : batch.n_real].mean(dim=1)
        weight = self.current_conservative_weight()
        logs = {"q_policy": q_policy.mean(), "conservative_gap": gap.mean(), "conservative_weight": weight.mean()}
        return (weight * gap).sum(), logs

    def out_of_data_value(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """What is pushed down at the states of :meth:`penalty_rows`, such as log sum_a exp Q(s, a): (n_critics, S)."""
        raise NotImplementedError

    # --- the weight by dual descent ---

    def current_conservative_weight(self) -> th.Tensor:
        """alpha: fixed, or exp(l) within ``weight_bounds``, detached."""
        if self.log_conservative_weight is None:
            return th.full((1,), float(self.conservative_weight), device=self.device)
        return self.log_conservative_weight.detach().exp().clamp(*self.weight_bounds)

    def after_critic_step(self, logs: Logs) -> None:
        if self.target_gap is None or self.log_conservative_weight is None or self.conservative_optimizer is None:
            return
        # minimise -alpha (gap - tau) over l: a gap above tau raises alpha
        weight = self.log_conservative_weight.exp()
        minimize(-(weight * (logs["conservative_gap"].detach() - self.target_gap)).mean(), self.conservative_optimizer)
        low, high = self.weight_bounds
        with th.no_grad():  # l stays within reach: beyond the bounds it could not come back for long
            self.log_conservative_weight.copy_(self.log_conservative_weight.clamp(math.log(low), math.log(high)))

    def largest_reward(self) -> float:
        """With a model and a fixed weight beta, whose penalty (rho - d) / d_f lies between -1/f and 1/(1 - f), also that."""
        f: float | None = getattr(self, "real_ratio", None)
        if f is None or self.target_gap is not None:
            return super().largest_reward()
        return super().largest_reward() + self.conservative_weight * max(1.0 / f, 1.0 / (1.0 - f))
