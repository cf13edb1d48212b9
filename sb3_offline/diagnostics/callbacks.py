"""Callbacks that write the divergence indicators to the logger, under ``divergence/``."""

from __future__ import annotations

import warnings
from abc import abstractmethod

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.diagnostics import ntk
from sb3_offline.diagnostics.probe import (
    Probe,
    QLearner,
    Samples,
    bootstrap,
    critic_learning_rate,
    draw_probe,
    merge_repeats,
    q_learner,
    target_critic,
    trained_critic,
)
from sb3_offline.linearization.q_function import (
    NonFiniteKernelError,
    Parameters,
    QFunction,
    as_float64,
    evaluation_mode,
)
from sb3_offline.linearization.td_linearization import data_vectors, excitation, linearize


class ProbeCallback(BaseCallback):
    """
    Every ``check_freq`` calls, examine the critic on one fixed batch and record what is found.

    The batch is drawn once, when the replay buffer first holds enough, and repeated pairs are merged. Neither the
    random streams nor the modes of the networks are changed. When derivatives are no longer finite it warns once, naming
    the parameter, records ``divergence/finite`` = 0 and lets the run go on.

    :param check_freq: steps between probes
    :param batch_size: draws that make the probe
    :param probe: a batch to use instead, as the replay buffer's ``sample`` returns it
    :param index: which Q of the critic
    :param verbose: as in SB3
    """

    def __init__(
        self,
        check_freq: int = 10_000,
        batch_size: int = 64,
        probe: Samples | None = None,
        index: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if check_freq < 1 or batch_size < 2:
            raise ValueError(f"check_freq={check_freq} must be at least 1, and batch_size={batch_size} at least 2.")
        self.check_freq = check_freq
        self.batch_size = batch_size
        self.probe = None if probe is None else merge_repeats(probe)
        self.index = index
        self.history: list[dict[str, float]] = []  # what was recorded, with its "step"
        self._warned = False

    def _on_training_start(self) -> None:
        self._q = QFunction(trained_critic(q_learner(self.model)), self.index)

    def _on_step(self) -> bool:
        if self.n_calls % self.check_freq == 0:
            self.examine()
        return True

    def examine(self) -> dict[str, float] | None:
        """Probe now, record the figures and return them; None if the replay buffer is still too short."""
        model = q_learner(self.model)
        if self.probe is None:
            self.probe = draw_probe(model, self.batch_size)
        if self.probe is None:
            return None
        try:
            figures = {"finite": 1.0, **self._figures(model, self.probe)}
        except NonFiniteKernelError as error:
            figures = {"finite": 0.0}
            if not self._warned:
                warnings.warn(f"Step {self.num_timesteps}: {error}", stacklevel=2)
                self._warned = True
        for name, value in figures.items():
            self.logger.record(f"divergence/{name}", value)
        self.history.append({"step": self.num_timesteps, **figures})
        return figures

    @abstractmethod
    def _figures(self, model: QLearner, probe: Probe) -> dict[str, float]:
        """:return: what to record, without the prefix"""


class NTKCallback(ProbeCallback):
    """
    Records what the neural tangent kernel says of the critic's stability (Achiam, Knight and Abbeel 2019).

    - ``td_growth``: growth rate of the linearised TD update on the probe, in units of the kernel's size
      sum_i rho_i K_ii. Above 0 some TD error feeds itself while the targets follow at once and the next actions stay;
    - ``row_ratio`` (mean): how much an update at one pair moves the others;
    - ``beta_modulus``, ``cond16``, ``cond17_rows`` (share of rows that satisfy Eq 17), ``stable_learning_rate``: the
      sufficient conditions for contraction, for plain SGD at the optimiser's learning rate. Adam's steps differ: follow
      the trend, not the level;
    - ``update_alignment`` (cosine), ``effective_rank``, ``condition_number`` of the kernel;
    - ``td_error``: root mean square over the probe, against the algorithm's own targets; ``q_abs_max``.

    Parameters are those of :class:`ProbeCallback`.
    """

    def _figures(self, model: QLearner, probe: Probe) -> dict[str, float]:
        batch, targets = bootstrap(model, probe.samples, index=self.index)
        gamma, rate = float(model.gamma), critic_learning_rate(model)
        kernel, next_kernel = ntk.transition_kernels(self._q.critic, batch, index=self.index)
        rho = probe.rho.to(kernel.device)
        growth, size = ntk.td_growth_rate(kernel, next_kernel, rho, batch.discounts), float(kernel.diagonal() @ rho)
        with th.no_grad(), evaluation_mode(self._q.critic):
            q = self._q(batch.observations, batch.actions)
        delta = as_float64(targets - q)
        return {
            "td_growth": growth / size if size > 0 else 0.0,
            "row_ratio": float(ntk.row_ratio(kernel).mean()),
            "beta_modulus": ntk.beta_modulus(kernel, rho, rate, gamma),
            "cond16": float(ntk.cond16(kernel, rho, rate)),
            "cond17_rows": float((ntk.cond17_margin(kernel, rho, gamma) > 0).double().mean()),
            "stable_learning_rate": ntk.largest_stable_learning_rate(kernel, rho, gamma),
            "update_alignment": ntk.update_alignment(kernel, rho, delta),
            "effective_rank": ntk.effective_rank(kernel),
            "condition_number": ntk.condition_number(kernel),
            "td_error": float((rho @ delta.to(rho.device).square()).sqrt()),
            "q_abs_max": float(q.abs().max()),
        }


class ExcitationCallback(ProbeCallback):
    """
    Records the linearisation of the TD error in the critic's weights.

    - ``lam_min_gram``, ``lam_max``, ``excited_rank``: spectrum of the normalised excitation matrix. ``lam_min`` is 0
      whenever the probe has fewer transitions than the critic has weights;
    - ``pivot`` (root mean square): the TD error that is left at the reference weights;
    - ``remainder_ratio`` (median): 0 where the linear model describes the change since the reference, of order 1 where
      it says nothing.

    The reference is the critic's target network, or where there is none or it is an exact copy at present, the weights at the
    previous probe. Parameters are those of :class:`ProbeCallback`.
    """

    _snapshot: Parameters | None = None

    def _figures(self, model: QLearner, probe: Probe) -> dict[str, float]:
        batch, _ = bootstrap(model, probe.samples, index=self.index)
        spectrum = excitation(data_vectors(self._q, batch))
        reference = QFunction(target_critic(model), self.index).parameters
        current = self._q.parameters
        if all(th.equal(reference[name], value) for name, value in current.items()):
            reference = self._snapshot or reference
        line = linearize(self._q, reference, batch)
        self._snapshot = {name: value.clone() for name, value in current.items()}
        return {
            "lam_min": spectrum.lam_min,
            "lam_min_gram": spectrum.lam_min_gram,
            "lam_max": spectrum.lam_max,
            "excited_rank": float(spectrum.rank),
            "pivot": float(line.pivot.square().mean().sqrt()),
            "remainder_ratio": float(line.remainder_ratio().median()),
        }
