"""SAC-N (An et al. 2021, arXiv 2110.01548): SAC that trusts the lowest of many critics."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_offline.arguments import check_count
from sb3_offline.common.offline_sac import OfflineSAC


class SACN(OfflineSAC):
    """
    SAC with N critics, whose minimum makes the target and the actor's loss (SAC, with N for 2): where the critics disagree,
    as at actions that were not logged, it lies low. They descend (Q - y)^2 without the 1/2 of most algorithms here, as the
    authors' do.

    :param n_critics: N, from 10 to 500 in the paper.
    :param learning_rate: Of the actor and the temperature.
    :param entropy_backup: Subtract the entropy term from the critics' target too, as the paper does.
    """

    td_weight: ClassVar[float] = 1.0
    recipe: ClassVar = {"learning_rate": 3e-4, "entropy_backup": True}

    def __init__(
        self,
        *args: Any,
        n_critics: int = 10,
        **kwargs: Any,
    ):
        self.n_critics = check_count("n_critics", n_critics, least=2)
        if kwargs.get("critic_update", "adam") != "adam":
            raise ValueError("critic_update='normalized_td' takes no minimum over critics: use it with OfflineSAC.")
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        n_critics = self.policy_kwargs.setdefault("n_critics", self.n_critics)
        if n_critics != self.n_critics:
            raise ValueError(
                f"policy_kwargs has n_critics={n_critics!r}, n_critics is {self.n_critics}: give the latter alone. "
                "A saved model keeps its own."
            )
        super()._setup_model()
