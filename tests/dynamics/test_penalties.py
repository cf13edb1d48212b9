"""Penalties by hand."""

import math

import pytest
import torch as th

from sb3_offline.dynamics import PENALTIES, Forecast


def penalty(name, mean, std, reference=None) -> list[float]:
    mean, std = th.tensor(mean), th.tensor(std)
    reference = th.ones(mean.shape[2]) if reference is None else th.tensor(reference)
    return PENALTIES[name](Forecast(mean, std, reference)).tolist()


@pytest.mark.parametrize(("std", "expected"), [([1.0], 1.4189385), ([1.0, 2.0], 3.5310243), ([0.01], -3.1862317)])
def test_entropy_of_gaussians(std, expected):
    assert penalty("entropy", [[[0.0] * len(std)]], [[std]]) == pytest.approx([expected], abs=1e-6)


def test_entropy_of_an_ensemble_counts_disagreement():
    """Means +-3, sigma 4: variance 16 + 9 = 25."""
    expected = 0.5 * (1 + math.log(2 * math.pi * 25))
    assert penalty("entropy", [[[3.0]], [[-3.0]]], [[[4.0]], [[4.0]]]) == pytest.approx([expected], abs=1e-6)


def test_relative_entropy_is_zero_where_the_model_is_as_good_as_usual():
    mean, reference = [[[0.0, 5.0]] * 3], [0.5, 2.0]
    values = penalty("relative_entropy", [mean[0]], [[[0.5, 2.0], [1.0, 4.0], [0.1, 0.1]]], reference)
    assert values == pytest.approx([0.0, 2 * math.log(2), 0.0], abs=1e-6)  # and never below


def test_relative_entropy_is_sharper_than_a_difference_of_entropies_only_by_the_clip():
    std, reference = [[[2.0, 3.0]]], [1.0, 0.5]
    relative = penalty("relative_entropy", [[[0.0, 0.0]]], std, reference)[0]
    difference = penalty("entropy", [[[0.0, 0.0]]], std)[0] - penalty("entropy", [[[0.0, 0.0]]], [[reference]])[0]
    assert relative == pytest.approx(difference, abs=1e-6)


def test_max_std_takes_the_largest_norm_over_members():
    std = [[[3.0, 4.0], [1.0, 0.0]], [[6.0, 0.0], [0.0, 0.5]]]
    assert penalty("max_std", [[[9.0, 9.0]] * 2] * 2, std) == pytest.approx([6.0, 1.0])


def test_disagreement():
    mean = [[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 0.0]]]
    std = [[[9.0, 9.0]]] * 3
    assert penalty("pairwise_diff", mean, std) == pytest.approx([5.0])
    assert penalty("ensemble_std", mean, std) == pytest.approx([math.sqrt((2.0 + 32 / 9) / 2)])
    assert penalty("pairwise_diff", mean[:1], std[:1]) == [0.0]
