"""n(s) by nearest neighbours, against a brute-force computation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch as th

from sb3_offline.behavior.neighbors import NeighborCounts
from sb3_offline.behavior.visitation import make_visitation


def rng(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def data(n: int = 300) -> th.Tensor:
    """Two dimensions of very different scales, and one that never varies."""
    varying = th.randn(n, 2, generator=rng(1)) * th.tensor([1.0, 100.0])
    return th.cat([varying, th.full((n, 1), 7.0)], dim=1)


def brute_force(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """32 (R / r_k)^2, at most n, in float64 and with full sorting: in two dimensions also beyond n = 1."""
    mean, std = rows[:, :2].mean(0), rows[:, :2].std(0)
    points, asked = (rows[:, :2] - mean) / std, (queries[:, :2] - mean) / std

    def kth(at: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(at[:, None] - points[None], axis=-1), axis=1)[:, k - 1]

    radius = np.sort(kth(points))[(len(points) - 1) // 2]
    return np.minimum(32 * (radius / kth(asked)) ** 2, len(rows))


def test_raw_counts_are_brute_force() -> None:
    rows, queries = data(), 3 * th.rand(40, 3, generator=rng(2)) * th.tensor([1.0, 100.0, 1.0])
    counts = NeighborCounts(count_scale="raw")
    counts.fit(rows, rng())
    expected = brute_force(rows.double().numpy(), queries.double().numpy(), counts.n_neighbors)
    np.testing.assert_allclose(counts(queries).numpy(), expected, rtol=1e-3)
    assert expected.min() < 1 < 32 < expected.max() < len(rows)


@pytest.mark.parametrize("n_dims", [1, 3, 11])
def test_beyond_the_data_the_penalty_grows_with_the_distance(n_dims: int) -> None:
    """n^{-1/2} = r_k / r_1 in any number of dimensions, where r_1 = R 32^(1/m) is where the ball holds one row."""
    rows = th.randn(400, n_dims, generator=rng(1))
    counts = NeighborCounts(count_scale="raw")
    counts.fit(rows, rng())
    far = th.zeros(4, n_dims)
    far[:, 0] = th.tensor([20.0, 40.0, 80.0, 160.0])
    points = (rows.double() - rows.double().mean(0)) / rows.double().std(0, correction=0)
    asked = (far.double() - rows.double().mean(0)) / rows.double().std(0, correction=0)
    kth = th.cdist(asked, points).sort(dim=1).values[:, 9]
    own = th.cdist(points, points).sort(dim=1).values[:, 9].median()
    np.testing.assert_allclose(counts(far).rsqrt().double(), kth / (own * 32 ** (1 / n_dims)), rtol=1e-3)
    # continuous and falling along a line out of the data
    line = th.zeros(2000, n_dims)
    line[:, 0] = th.linspace(4.0, 12.0, 2000)
    along = counts(line)
    assert (along[1:] <= along[:-1] * (1 + 1e-5)).all()
    assert (along[1:] > 0.8 * along[:-1]).all()


def test_reference_scale_has_a_mean_of_1() -> None:
    rows = data()
    for n_ref in (1.0, 9.0):
        counts = NeighborCounts(n_ref=n_ref)
        counts.fit(rows, rng())
        assert float(counts(rows).rsqrt().mean()) == pytest.approx(n_ref**-0.5, rel=1e-4)


def test_a_sample_of_references_stands_for_large_data() -> None:
    """Seeded, and close to the counts by all rows: k = 10 neighbours tell a mass to 1/sqrt(10), two such estimates agree
    within a factor of 2 at 0.88 of the states, or somewhat fewer as the smaller sample's balls are wider."""
    rows = data(2000)
    exact, sampled, again = (NeighborCounts(max_references=m, count_scale="raw") for m in (2000, 400, 400))
    for counts in (exact, sampled, again):
        counts.fit(rows, rng(3))
    assert len(sampled.references) == 400
    assert th.equal(sampled(rows), again(rows))
    ratio = (sampled(rows) / exact(rows)).log2().abs()
    assert float((ratio < 1).float().mean()) > 0.8


def test_repeated_rows_are_frequent() -> None:
    """Half of the rows are one point, the others are spread: the repeated one reaches |D|."""
    rows = th.cat([th.zeros(100, 1), th.linspace(1, 50, 110).unsqueeze(1)])
    counts = NeighborCounts(count_scale="raw")
    counts.fit(rows, rng())
    assert float(counts(rows[:1])) == 210
    assert 1 <= float(counts(rows[150:151])) < 210


def test_mostly_repeated_rows_leave_a_sane_scale() -> None:
    """Where r_k is 0 at most rows, R is taken from the others, and their n^{-1/2} does not drown the rest."""
    rows = th.cat([th.zeros(300, 2), th.randn(100, 2, generator=rng(1))])
    counts = NeighborCounts(count_scale="raw")
    counts.fit(rows, rng())
    assert float(counts(rows[:1])) == 400
    assert 0.05 < float(counts(rows[300:]).min()) <= float(counts(rows[300:]).median()) < 100


def test_every_row_the_same() -> None:
    counts = make_visitation("knn")
    counts.fit(th.ones(20, 3), rng())
    assert counts(th.ones(4, 3)).tolist() == [1.0] * 4  # rescaled to the mean


def test_it_is_saved() -> None:
    counts, loaded = NeighborCounts(), NeighborCounts()
    counts.fit(data(), rng())
    file = io.BytesIO()
    th.save(counts.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(th.load(file, weights_only=True))
    assert loaded.fitted
    assert th.equal(loaded(data()), counts(data()))


def test_unflattened_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="flatten"):
        NeighborCounts().fit(th.zeros(5, 2, 2), rng())
