"""What an algorithm adds to its critics' TD loss: a list of terms, each with its loss, logs, noise and state."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th

from sb3_offline.common.belonging import Belonging
from sb3_offline.datasets import OfflineDataset
from sb3_offline.networks.networks import Batch, Logs


class Term(Belonging):
    """
    One term. What it is made of belongs to the model, which saves it (``model.register_state`` in :meth:`setup`), and so do
    the options, which :meth:`loss` reads as they are now.

    :param model: A :class:`~sb3_offline.common.gradient_algorithm.GradientAlgorithm`, which lists it in ``make_terms``.
    """

    name: ClassVar[str]

    @property
    def active(self) -> bool:
        """Whether it is more than nothing; else it is neither drawn for nor asked."""
        return True

    def setup(self) -> None:
        """Declare its networks and tensors."""

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        """Fit to the data what has to be ready before the first gradient step."""

    def draw_ahead(self, batch: Batch) -> Any:
        """What is drawn ahead of the algorithm's own noise, where that is the order of draws."""
        return None

    def draw_noise(self, batch: Batch, ahead: Any) -> Any:
        """The term's noise in one update, kept as ``noise.terms[name]``; ``ahead`` is of :meth:`draw_ahead`."""
        return None

    def loss(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """
        A pure function of its arguments, weighted and summed over the critics, and what to log.

        :param noise: Of the whole update.
        :param q: Q of the batch's own actions, (n_critics, B).
        """
        raise NotImplementedError

    def after_critic_step(self, logs: Logs) -> None:
        """Called with the critics' logs; a learned weight takes its step here."""

    def capture_obstacle(self) -> str | None:
        """Why an update with this term can be neither compiled nor captured, if so."""
        return None

    def largest_reward(self) -> float:
        """How much of a reward it can stand for at most, as far as that is known."""
        return 0.0
