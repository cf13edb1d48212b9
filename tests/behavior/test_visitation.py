"""n(s): against exact counts, by hand, and under the rescaling that makes weights comparable."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline.behavior.neighbors import NeighborCounts
from sb3_offline.behavior.visitation import (
    ConstantCounts,
    ExactCounts,
    SimHashCounts,
    VisitationCounts,
    make_visitation,
    simhash_bits,
)

COUNTS = (1, 4, 25, 100, 170)  # visits of five discrete states, 300 in all


def rng(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def discrete_data() -> th.Tensor:
    """State indices (300,), in a random order."""
    states = th.repeat_interleave(th.arange(5), th.tensor(COUNTS))
    return states[th.randperm(300, generator=rng(1))]


def separated(states: th.Tensor) -> th.Tensor:
    """One far-away point of R^4 for each state."""
    points = th.tensor([[9.0, 0, 0, -9], [-9, 9, 0, 0], [0, -9, 9, 0], [0, 0, -9, 9], [9, 9, 9, 9]])
    return points[states]


def continuous_data(n: int = 5000) -> th.Tensor:
    data = th.randn(n, 3, generator=rng(2)) * th.tensor([1.0, 100.0, 0.01]) + th.tensor([0.0, 50.0, -1.0])
    return th.cat([data, th.full((n, 1), 7.0)], dim=1)  # and one dimension that never varies


def visitations(**kwargs: Any) -> list[tuple[VisitationCounts, th.Tensor]]:
    return [
        (SimHashCounts(**kwargs), continuous_data()),
        (ConstantCounts(**kwargs), continuous_data()),
        (ExactCounts(5, **kwargs), discrete_data()),
    ]


@pytest.mark.parametrize(
    ("n_rows", "bits"),
    [(1, 1), (32, 1), (64, 1), (65, 2), (128, 2), (1000, 5), (1024, 5), (1025, 6), (120_000, 12), (1_000_000, 15)],
)
def test_number_of_bits(n_rows: int, bits: int) -> None:
    assert simhash_bits(n_rows) == bits  # 2^bits >= n_rows / 32 > 2^(bits - 1)


def test_fitted_sizes_follow_the_data() -> None:
    visits = SimHashCounts()
    visits.fit(continuous_data(1000), rng())
    assert visits.n_bits == 5
    assert visits.visits.shape == (32,)
    assert visits.normals.shape == (4, 5)


def test_simhash_counts_are_exact_where_no_two_states_collide() -> None:
    states = discrete_data()
    expected = th.tensor(COUNTS, dtype=th.float32)[states]
    simhash = SimHashCounts(count_scale="raw")
    collision_free = 0
    for seed in range(20):  # 4 bits for 300 rows: collisions depend on the draw
        simhash.fit(separated(states), rng(seed))
        cells = simhash.cells(separated(th.arange(5)))
        if len(cells.unique()) == 5:
            collision_free += 1
            assert th.equal(simhash(separated(states)), expected)
        else:  # states that share a cell share its count
            merged = th.tensor([sum(COUNTS[j] for j in range(5) if cells[j] == cells[i]) for i in range(5)])
            assert th.equal(simhash(separated(states)), merged[states].float())
    assert 0 < collision_free < 20  # both branches were tried


def test_exact_counts_of_indices_and_one_hots() -> None:
    states = discrete_data()
    one_hot = th.nn.functional.one_hot(states, 5).float()
    expected = th.tensor(COUNTS, dtype=th.float32)[states]
    for observations in (states, states[:, None], states.float(), one_hot):
        exact = ExactCounts(5, count_scale="raw")
        exact.fit(observations, rng())
        assert th.equal(exact(observations), expected)
        assert th.equal(exact(one_hot), expected)  # data and queries need not share a form
    by_reference = ExactCounts(5)
    by_reference.fit(states, rng())
    # mean over the data of n^{-1/2} = sum_s n_s / sqrt(n_s) / |D| = (1 + 2 + 5 + 10 + sqrt 170) / 300
    scale = ((18 + math.sqrt(170)) / 300) ** 2
    np.testing.assert_allclose(by_reference(th.arange(5)), np.array(COUNTS) * scale, rtol=1e-6)


@pytest.mark.parametrize("n_ref", [1.0, 16.0])
def test_rescaling_identity(n_ref: float) -> None:
    for visits, data in visitations(n_ref=n_ref):
        visits.fit(data, rng())
        mean = visits(data).double().rsqrt().mean().item()
        assert mean == pytest.approx(n_ref**-0.5, abs=1e-6)


def test_reference_counts_are_raw_counts_up_to_a_constant() -> None:
    raw, reference = SimHashCounts(count_scale="raw"), SimHashCounts()
    data = continuous_data()
    raw.fit(data, rng())
    reference.fit(data, rng())
    n = raw(data)
    ratio = reference(data) / n
    assert n.min() < n.max()
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    np.testing.assert_array_equal(n, n.round())
    # each cell has been counted once a row: sum over the data of 1/n(s) is the number of cells that are occupied
    assert (1 / n.double()).sum().item() == pytest.approx(len(raw.cells(data).unique()), abs=1e-3)


def test_unseen_states_count_as_one() -> None:
    simhash = SimHashCounts(count_scale="raw")
    data = separated(discrete_data())
    simhash.fit(data, rng())
    strangers = 50 * th.randn(500, 4, generator=rng(5))
    unseen = ~th.isin(simhash.cells(strangers), simhash.cells(data))
    assert unseen.sum() > 50
    assert (simhash(strangers)[unseen] == 1).all()
    exact = ExactCounts(7, count_scale="raw")
    exact.fit(discrete_data(), rng())
    assert exact(th.tensor([5, 6, 4])).tolist() == [1, 1, 170]


def test_data_beyond_one_chunk_is_counted_whole() -> None:
    exact = ExactCounts(7, count_scale="raw")
    exact.fit(th.arange(140_000) % 7, rng())
    assert exact(th.arange(7)).tolist() == [20_000] * 7


def test_constant_counts() -> None:
    data = continuous_data(300)
    for kwargs, n in (({}, 1.0), ({"n_ref": 9.0}, 9.0), ({"count_scale": "raw"}, 300.0)):
        constant = ConstantCounts(**kwargs)
        constant.fit(data, rng())
        assert (constant(1e3 * data[:7]) == n).all()


def test_simhash_tells_distances_apart_in_one_dimension() -> None:
    # hyperplanes through the origin would make two cells of it
    simhash = SimHashCounts()
    simhash.fit(th.randn(20_000, 1, generator=rng()), rng(1))
    assert len(simhash.cells(th.linspace(-2, 2, 100)[:, None]).unique()) > 4


def test_units_do_not_matter() -> None:
    data = continuous_data()
    counts = []
    for scale in (1.0, 1024.0):
        simhash = SimHashCounts(count_scale="raw")
        simhash.fit(data * scale, rng())
        counts.append(simhash(data * scale))
    assert (counts[0] == counts[1]).float().mean() > 0.999


def test_determinism() -> None:
    data = continuous_data()
    state = th.get_rng_state()
    tables = []
    for seed in (3, 3, 4):
        simhash = SimHashCounts()
        simhash.fit(data.numpy(), rng(seed))
        tables.append(simhash(data))
    assert th.equal(state, th.get_rng_state())
    assert th.equal(tables[0], tables[1])
    assert not th.equal(tables[0], tables[2])


def test_a_fresh_module_loads_a_fitted_state() -> None:
    unfitted: list[Callable[[], VisitationCounts]] = [SimHashCounts, ConstantCounts, lambda: ExactCounts(5)]
    for fresh, (visits, data) in zip(unfitted, visitations(n_ref=3.0), strict=True):
        visits.fit(data, rng())
        file = io.BytesIO()
        th.save(th.nn.ModuleDict({"inner": visits}).state_dict(), file)  # also under a prefix
        file.seek(0)
        loaded = fresh()
        outer = th.nn.ModuleDict({"inner": loaded})
        outer.load_state_dict(th.load(file, weights_only=True), strict=True)
        assert loaded.fitted
        assert th.equal(loaded(data), visits(data))
        loaded.fit(data[:100], rng(1))  # fitting again changes the sizes, and the copy does not share its memory
        outer.load_state_dict({f"inner.{name}": value for name, value in visits.state_dict().items()})
        assert th.equal(loaded(data), visits(data))
        with pytest.raises(RuntimeError, match="Missing key"):
            outer.load_state_dict({})


def test_an_unfitted_state_round_trips_and_cannot_be_asked() -> None:
    saved = SimHashCounts().state_dict()
    visits = SimHashCounts()
    visits.fit(continuous_data(), rng())
    visits.load_state_dict(saved)
    assert not visits.fitted
    with pytest.raises(RuntimeError, match=r"SimHashCounts.*call fit"):
        visits(continuous_data(2))


def test_factory() -> None:
    assert type(make_visitation()) is NeighborCounts
    assert type(make_visitation("constant", count_scale="raw")) is ConstantCounts
    exact = make_visitation("exact", n_states=4, n_ref=2.0)
    assert type(exact) is ExactCounts
    assert (exact.n_states, exact.n_ref, exact.count_scale) == (4, 2.0, "reference")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "forest"}, "visitation must be one of .*simhash.*'forest'"),
        ({"mode": "exact"}, "n_states"),
        ({"mode": "simhash", "n_states": 3}, "n_states=3 for 'simhash'"),
        ({"mode": "exact", "n_states": 0}, "at least 1"),
        ({"count_scale": "sum"}, "count_scale must be one of"),
        ({"n_ref": 0.0}, "n_ref must be positive"),
    ],
)
def test_bad_settings_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_visitation(**kwargs)


@pytest.mark.parametrize(
    ("visits", "data", "message"),
    [
        (SimHashCounts(), th.tensor([[0.0], [math.nan]]), "non-finite value in row 1"),
        (SimHashCounts(), th.zeros(0, 3), "no rows"),
        (SimHashCounts(), th.zeros(4, 3, 2), "flatten"),
        (ExactCounts(3), th.tensor([0, 1, 3]), r"row 2 .*\[0, 3\)"),
        (ExactCounts(3), th.tensor([0.0, 0.5]), "row 1"),
        (ExactCounts(3), th.tensor([[1.0, 0, 0], [0, 1, 1]]), "row 1 .*neither one-hot"),
        (ExactCounts(3), th.zeros(4, 2), "must have shape"),
    ],
)
def test_bad_data_is_refused(visits: VisitationCounts, data: th.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visits.fit(data, rng())
    assert not visits.fitted


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
def test_counts_on_a_gpu_are_those_of_the_cpu() -> None:
    data = continuous_data()
    cpu, gpu = SimHashCounts(), SimHashCounts().to("cuda")
    cpu.fit(data, rng())
    gpu.fit(data, rng())
    assert (gpu(data.cuda()).cpu() == cpu(data)).float().mean() > 0.99  # up to rounding at a hyperplane
