"""Bounds on a network's slope in its inputs, by the largest singular values of its weights."""

from __future__ import annotations

import torch as th
from torch import nn

_SQUARINGS = 6


@th.no_grad()
def bound_slope(network: nn.Module, bound: float) -> None:
    """
    Project a stack's linear layers onto the weights whose largest singular values have a product of at most ``bound``, each at
    most the L-th root of it with L layers (Gouk et al. 2021). It is then the network's largest slope, if its activations have
    slopes of at most 1. A target network, which is a mean of such weights, keeps to the same bound.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    largest = bound ** (1.0 / len(layers))
    for layer in layers:
        layer.weight.mul_((largest / spectral_norm(layer.weight)).clamp(max=1.0))


def spectral_norm(weight: th.Tensor) -> th.Tensor:
    """
    The largest singular value of a matrix, or up to n^{1/256} times it, n its shorter side (1% for 16, 2% for 256 if all are
    equal, less the more they differ): the 256-norm of the singular values, by squaring W^T W six times. Never less, without a
    state, and all on the device, where an eigenvalue solver would wait for the host.
    """
    with th.autocast(weight.device.type, enabled=False):
        square = weight.mT @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.mT
        log_norm = square.new_zeros(())
        for k in range(_SQUARINGS + 1):
            size = square.norm().clamp(min=1e-30)
            log_norm = log_norm + size.log() / 2**k
            square = (square / size) @ (square / size)
    return (0.5 * log_norm).exp()
