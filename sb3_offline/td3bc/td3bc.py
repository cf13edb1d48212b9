"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860): TD3 whose actor stays near the logged actions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE
from sb3_offline.common.offline_td3 import OfflineTD3, TD3Noise
from sb3_offline.execution import ranks
from sb3_offline.networks.networks import Batch, Logs, TD3Networks

NormalizeBy = Literal["value", "gradient"]
ALPHAS: dict[NormalizeBy, float] = {"value": 5.0, "gradient": 0.15}  # of the recipe


class TD3BC(OfflineTD3):
    """
    TD3 whose actor ascends lambda Q(s, mu(s)) - (mu(s) - a)^2, lambda = alpha / mean \\|Q\\| (TD3+BC, Eqs 3 and 5).

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): lambda by
    the length of Q's gradient in the action, critics with LayerNorm, targets that follow four times as fast, rates that
    fall to 0 in the second half of ``learn``, and an average of the actor's weights. The paper's settings are the
    locomotion entries of ``zoo_configs/td3bc.yml``; an ``alpha`` alone is one of the paper's kind, 2.5 there.

    Its critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the paper's do. Observations are standardised by
    the data, as in the paper, wherever they are vectors of floats that ``VecNormalize`` does not normalise already;
    ``policy_kwargs=dict(normalize_observations=False)`` leaves them as they are.

    :param alpha: Weight of Q beside imitation: 0 is regression on the logged actions, and much of it TD3. None takes .15
        by the gradient or 5 by the value.
    :param normalize_by: What lambda divides alpha by: "value", mean \\|Q\\| as in the paper, or "gradient", the mean length of
        Q's gradient in the action, which neither horizon nor a constant in the rewards changes. None takes "value" where
        ``alpha`` is given, and "gradient" where it is not.
    """

    td_weight: ClassVar[float] = 1.0
    standardizes: ClassVar[bool] = True
    default_policy_kwargs: ClassVar = {"layer_norm": True}
    recipe: ClassVar = MODEL_FREE_RECIPE

    def __init__(
        self,
        *args: Any,
        alpha: float | None = None,
        normalize_by: NormalizeBy | None = None,
        **kwargs: Any,
    ):
        if normalize_by is None:
            normalize_by = "gradient" if alpha is None else "value"
        if normalize_by not in tuple(ALPHAS):
            raise ValueError(f"normalize_by must be one of {', '.join(ALPHAS)}, got {normalize_by!r}.")
        self.normalize_by = normalize_by
        self.alpha = ALPHAS[normalize_by] if alpha is None else check_number("alpha", alpha, NOT_NEGATIVE)
        super().__init__(*args, **kwargs)

    def actor_loss(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> tuple[th.Tensor, Logs]:
        """-lambda E Q_1(s, mu(s)) + E (mu(s) - a)^2, the square a mean over rows and dimensions; lambda has no gradient."""
        actions = nets.action(batch.observations)  # (B, 1, action_dim)
        if self.normalize_by == "value":
            q = nets.q1_frozen(batch.observations, actions)
            scale = ranks.batch_mean(q.abs())
        else:
            gradient = nets.q1_slope(batch.observations, actions)
            q = (gradient * actions).sum(dim=-1)  # which ascends as Q does
            scale = ranks.batch_mean(gradient.norm(dim=-1))
        weight = self.alpha / scale
        imitation = (actions.squeeze(1) - batch.actions).square().mean()
        loss = -weight * q.mean() + imitation
        return loss, {"actor_loss": loss, "imitation_loss": imitation, "q_weight": weight}
