"""Conservative Q-Learning for discrete actions: CQL(H) on DQN (Kumar et al. 2020, arXiv 2006.04779)."""

from __future__ import annotations

import torch as th

from sb3_offline.common.offline_dqn import DQNNetworks, OfflineDQN
from sb3_offline.cql.conservative import ConservativePenalty
from sb3_offline.networks.networks import Batch
from sb3_offline.networks.observations import take_rows


class DiscreteCQL(ConservativePenalty, OfflineDQN):
    """
    Double DQN whose Q-network is pushed down on all actions and up on the data's:
    alpha (log sum_a exp Q(s, a) - E_D Q) beside 1/2 (Q - y)^2 (CQL, Eq 4). The sum is exact, so a published ``target_gap``
    holds as it is.
    """

    regularizers = ("logsumexp", "expectation")  # the greedy pi leaves CQL(rho) nothing to weigh: it is the expectation

    def out_of_data_value(self, nets: DQNNetworks, batch: Batch, noise: None) -> th.Tensor:
        """log sum_a exp Q(s, a), or E_{a ~ pi} Q(s, a): (n_critics, S)."""
        observations = take_rows(batch.observations, self.penalty_rows(batch))
        q = nets.q(observations)
        if self.conservative == "expectation":
            return (nets.policy(observations) * q).sum(dim=-1)
        return th.logsumexp(q, dim=-1)
