"""The two-layer critic Q = w1ᵀ phi1(w2ᵀ phi2(z)): data vector in closed form, and an exact remainder if phi1 = id."""

from __future__ import annotations

from collections.abc import Callable

import torch as th
from torch import nn
from torch.func import grad, vmap

Activation = Callable[[th.Tensor], th.Tensor]


class TwoLayerCritic(nn.Module):
    """
    :param w1: output weights, (N1,)
    :param w2: hidden weights, (N2, N1)
    :param phi1: the activation, acting entry by entry; the identity makes a linear network
    """

    def __init__(self, w1: th.Tensor, w2: th.Tensor, phi1: Activation = nn.Identity()):  # noqa: B008
        super().__init__()
        if w1.ndim != 1 or w2.ndim != 2 or w2.shape[1] != len(w1):
            raise ValueError(f"w1 {tuple(w1.shape)} and w2 {tuple(w2.shape)} must be (N1,) and (N2, N1).")
        self.w1 = nn.Parameter(w1.detach().clone())
        # stored transposed, so that flattening it puts column l of w2 into block l of vec(w)
        self.w2t = nn.Parameter(w2.detach().T.clone())
        self.phi1 = phi1

    def forward(self, phi2: th.Tensor) -> th.Tensor:
        """
        :param phi2: features phi2(z), (M, N2)
        :return: Q, (M,)
        """
        return self.phi1(phi2 @ self.w2t.T) @ self.w1

    def data_vectors(self, phi2: th.Tensor, next_phi2: th.Tensor, discounts: th.Tensor) -> th.Tensor:
        """
        d = grad_{vec w} e = (h; G w1), shape (M, N1 + N1 N2).

        Column l of G is non-zero in block l alone: phi1'(.)_l phi2(z) - gamma phi1'(.+)_l phi2(z+).

        :param discounts: gamma (1 - done), (M,)
        """
        gamma = discounts[:, None]
        z, z_next = phi2 @ self.w2t.detach().T, next_phi2 @ self.w2t.detach().T
        h = self.phi1(z) - gamma * self.phi1(z_next)
        slope, slope_next = self._slope(z), self._slope(z_next)
        blocks = slope[:, :, None] * phi2[:, None, :] - (gamma * slope_next)[:, :, None] * next_phi2[:, None, :]
        return th.cat([h, (self.w1.detach()[:, None] * blocks).flatten(start_dim=1)], dim=1)

    def _slope(self, z: th.Tensor) -> th.Tensor:
        return vmap(grad(lambda x: self.phi1(x)))(z.flatten()).reshape(z.shape)


def exact_remainder(
    critic: TwoLayerCritic,
    reference: TwoLayerCritic,
    phi2: th.Tensor,
    next_phi2: th.Tensor,
    discounts: th.Tensor,
) -> th.Tensor:
    """
    e(w) - pivot - dᵀ w~ = -w~1ᵀ w~2ᵀ (phi2(z) - gamma phi2(z+)) of a linear network, d taken at w, shape (M,).

    With d taken at w* the sign is the opposite one.

    :raises ValueError: if phi1 is not the identity, where this is not exact
    """
    if not (isinstance(critic.phi1, nn.Identity) and isinstance(reference.phi1, nn.Identity)):
        raise ValueError("the remainder is known exactly for phi1 = nn.Identity() only.")
    offset1 = (critic.w1 - reference.w1).detach()
    offset2t = (critic.w2t - reference.w2t).detach()
    return -(phi2 - discounts[:, None] * next_phi2) @ offset2t.T @ offset1
