"""Behaviour cloning (Pomerleau 1991): the actor that makes the logged actions most likely."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv

from sb3_offline.arguments import check_flag
from sb3_offline.bc.cloning import Cloning
from sb3_offline.common.online import to_sac
from sb3_offline.common.validation import Validation
from sb3_offline.networks.networks import Batch, SACNetworks, TD3Networks


class BC(Cloning):
    """
    A tanh-Gaussian that maximises E_D log pi(a|s), or a deterministic actor that minimises E_D (mu(s) - a)^2.

    :param deterministic: The latter.
    """

    def __init__(self, *args: Any, deterministic: bool = False, **kwargs: Any):
        self.deterministic = check_flag("deterministic", deterministic)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        self.policy_kwargs["deterministic"] = self.deterministic
        super()._setup_model()

    def networks(self) -> SACNetworks | TD3Networks:
        """The view of the networks that the losses get."""
        return (TD3Networks if self.deterministic else SACNetworks)(self.policy, self.normalizer)

    # --- the loss: a pure function of (networks, batch) ---

    def imitation(self, nets: Any, rows: Batch | Validation) -> th.Tensor:
        """What a logged action costs, (B,): its negative log-density, or its mean squared distance."""
        if self.deterministic:
            return (nets.action(rows.observations).squeeze(1) - rows.actions).square().mean(dim=1)
        return -nets.log_prob(rows.observations, rows.actions.unsqueeze(1)).squeeze(1)

    # --- online ---

    def to_sac(self, env: GymEnv | str | None = None, **sac_options: Any) -> SAC:
        """
        SB3's ``SAC`` whose actor is this one, with critics that know nothing yet: let it collect first (``learning_starts``).

        :param env: The environment; the model's own if not given.
        :param sac_options: Arguments of ``SAC``, in place of this model's and of SAC's own.
        :raises ValueError: for a deterministic actor, which has no density to begin with.
        """
        if self.deterministic:
            raise ValueError("to_sac() needs an actor that samples; deterministic=True has none.")
        return to_sac(self, env, averaged=False, sac_options={"learning_rate": 3e-4, **sac_options})
