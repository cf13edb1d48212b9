"""Means and deviations in blocks are those of all rows."""

import pytest
import torch as th

from sb3_offline.buffers.moments import Moments


def test_one_block_is_torchs_own_to_the_bit() -> None:
    x = 3 + th.randn(999, 4, generator=th.Generator().manual_seed(0))
    moments = Moments()
    moments.add(x)
    assert th.equal(moments.mean, x.mean(dim=0))
    assert th.equal(moments.std, x.std(dim=0, correction=0))
    assert th.equal(moments.largest, x.abs().amax(dim=0))


def test_blocks_by_hand() -> None:
    """1, 3 | 8: mean 4, variance (9 + 1 + 16) / 3."""
    moments = Moments()
    moments.add(th.tensor([[1.0], [3.0]]))
    moments.add(th.tensor([[-8.0]]).neg())
    assert moments.mean.item() == pytest.approx(4.0)
    assert moments.std.item() == pytest.approx((26 / 3) ** 0.5)
    assert moments.largest.item() == 8


def test_blocks_far_from_zero() -> None:
    """A spread of 1 about a mean of 10,000 is not lost."""
    x = 1e4 + th.randn(3000, 2, generator=th.Generator().manual_seed(1), dtype=th.float64)
    moments = Moments()
    for block in x.split([1, 1000, 1999]):
        moments.add(block)
    assert moments.mean.numpy() == pytest.approx(x.mean(dim=0).numpy(), rel=1e-12)
    assert moments.std.numpy() == pytest.approx(x.std(dim=0, correction=0).numpy(), rel=1e-9)
