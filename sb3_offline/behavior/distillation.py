"""n(s) by random network distillation: for images, among which nearest neighbours in pixels say little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch as th
from torch import nn
from torch.nn.utils import skip_init

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.behavior.visits import CountScale, VisitationCounts
from sb3_offline.buffers.rows import Rows
from sb3_offline.training.schedules import CosineSchedule

_CHUNK = 256  # states measured at once
_SCALE_ROWS, _SCALE_NUMBERS = 16_384, 1 << 25  # of the data, that the statistics and the rescaling are taken from
_N_FEATURES = 64
_LAST_SIDE = 8  # pixels, below which convolutions end
_RATE = CosineSchedule(1e-3)


class DistilledCounts(VisitationCounts):
    """
    A network learns, on the data, to imitate a fixed random one (Burda et al. 2019, "Exploration by Random Network
    Distillation"). Its mean squared error e(s) falls where it has seen much, and n(s) = c / e(s): n^{-1/2} is
    in proportion to the root of the error.

    c is unknown: e depends on how long was learned, so that there are no raw counts, and of two states only the order, not the
    ratio of visits, is told.

    Observations are vectors (B, obs), or images (B, C, H, W); each number is standardised by the data and clipped to [-5, 5].

    :param n_steps: Gradient steps of the imitation, by Adam; its rate falls from 1e-3 to 0.
    :param batch_size: Rows of a step.
    :raises ValueError: for ``count_scale="raw"``.
    """

    mean: th.Tensor
    std: th.Tensor
    scale: th.Tensor  # (), c
    target: nn.Module  # observations -> (B, 64), fixed
    predictor: nn.Module
    sized_by_fit = ("mean", "std")

    def __init__(
        self, *, n_steps: int = 2000, batch_size: int = 256, count_scale: CountScale = "reference", n_ref: float = 1.0
    ):
        super().__init__(count_scale=count_scale, n_ref=n_ref)
        if count_scale == "raw":
            raise ValueError("visitation='rnd' knows n(s) up to a factor: there is no count_scale='raw'.")
        self.n_steps, self.batch_size = n_steps, batch_size
        self.register_buffer("mean", th.empty(0))
        self.register_buffer("std", th.empty(0))
        self.register_buffer("scale", th.ones(()))

    def _fit(self, data: Rows, generator: th.Generator) -> None:
        n_sampled = min(_SCALE_ROWS, _SCALE_NUMBERS // math.prod(data.shape[1:]) + 1)
        sample = data[th.randperm(len(data), generator=generator, device=generator.device)[:n_sampled].to(data.device)]
        self.mean, self.std = (moment.to(self.scale) for moment in observation_moments(sample.float()))
        self._build(data.shape[1:], generator)
        optimizer = th.optim.Adam(self.predictor.parameters())
        for step in range(self.n_steps):
            optimizer.param_groups[0]["lr"] = _RATE(1.0 - step / self.n_steps)
            rows = th.randint(len(data), (self.batch_size,), generator=generator, device=generator.device)
            with th.enable_grad():
                loss = self._error(data[rows.to(data.device)]).mean()
            gradients = th.autograd.grad(loss, list(self.predictor.parameters()))
            for parameter, gradient in zip(self.predictor.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        self.predictor.requires_grad_(False)
        errors = th.cat([self._error(part) for part in sample.split(_CHUNK)])
        self.scale = th.as_tensor(self.rescaling(errors.double().sqrt().mean())).to(self.scale)

    def _count(self, observations: th.Tensor) -> th.Tensor:
        return self.scale / self._error(observations).clamp(min=1e-12)

    def _error(self, observations: th.Tensor) -> th.Tensor:
        """e(s), (B,)."""
        seen = ((observations.to(self.mean) - self.mean) / self.std).clamp(-5.0, 5.0)
        with th.autocast(observations.device.type, enabled=False):  # the same counts in every precision
            return (self.predictor(seen) - self.target(seen)).square().mean(dim=1)

    def _build(self, shape: Sequence[int], generator: th.Generator | None = None) -> None:
        """The two networks, for observations of a shape; without a generator their weights are to be loaded."""
        self.target = random_network(shape, [], generator).to(self.scale.device).requires_grad_(False)
        self.predictor = random_network(shape, [256, 256], generator).to(self.scale.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        shape = state_dict.get(f"{prefix}mean", self.mean).shape
        if shape != (0,):
            self._build(shape)
            self.predictor.requires_grad_(False)
        super()._load_from_state_dict(state_dict, prefix, *args)


def random_network(shape: Sequence[int], hidden: Sequence[int], generator: th.Generator | None) -> nn.Sequential:
    """
    Observations (B, ``*shape``) -> (B, 64): a layer of 256 for vectors or halving convolutions for images, ``hidden`` linear
    layers, and a linear one; leaky ReLUs between them.

    :param generator: CPU generator of the orthogonal weights; biases are 0. None leaves them without values.
    """
    layers: list[nn.Module] = []
    if len(shape) == 3:
        channels, *sides = shape
        while max(sides) > _LAST_SIDE or not layers:
            layers += [skip_init(nn.Conv2d, channels, 32, 3, stride=2, padding=1), nn.LeakyReLU()]
            channels, sides = 32, [(side + 1) // 2 for side in sides]
        layers.append(nn.Flatten())
        widths = [channels * math.prod(sides), *hidden, _N_FEATURES]
    else:
        widths = [*shape, 256, *hidden, _N_FEATURES]
    for n_in, n_out in pairwise(widths):
        layers += [skip_init(nn.Linear, n_in, n_out), nn.LeakyReLU()]
    network = nn.Sequential(*layers[:-1])
    for parameter in network.parameters() if generator is not None else ():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, 2**0.5, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return network
