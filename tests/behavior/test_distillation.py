"""n(s) by random network distillation: what it orders, what it keeps, and what it cannot say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch as th

from sb3_offline import DROMO
from sb3_offline.behavior.distillation import DistilledCounts, random_network
from sb3_offline.behavior.visitation import make_visitation
from tests.conftest import FAST_MODEL_BASED


def rng(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def frames(columns: th.Tensor) -> th.Tensor:
    """Images (B, 1, 20, 20) of bytes: a bright bar, three pixels wide, at a column, on dark noise."""
    noise = th.randint(0, 40, (len(columns), 1, 20, 20), generator=rng(7))
    bar = (th.arange(20) - columns[:, None]).abs() <= 1
    return (noise + 200 * bar[:, None, None, :]).to(th.uint8)


COLUMNS = th.cat([th.randint(1, 9, (580,), generator=rng(1)), th.full((20,), 14)])  # often 1 to 8, seldom 14, never 11 or 18


@pytest.fixture(scope="module")
def counts() -> DistilledCounts:
    visits = DistilledCounts(n_steps=300, batch_size=64)
    visits.fit(frames(COLUMNS), rng())
    return visits


def test_images_are_ordered_by_how_often_they_were_seen(counts: DistilledCounts) -> None:
    """On new frames: the bar where it often was, where it seldom was, and where it never was."""
    often, seldom, never = (counts(frames(th.tensor(columns).repeat(20))) for columns in ([2, 4, 7], [14], [11, 18]))
    assert often.median() > 1.5 * seldom.median()
    assert seldom.min() > 1.5 * never.max()


def test_it_is_the_inverse_error_of_the_imitation(counts: DistilledCounts) -> None:
    data = frames(COLUMNS)
    pixels = data.double().numpy()
    deviation = pixels.std(axis=0)
    seen = np.clip((pixels - pixels.mean(axis=0)) / deviation, -5, 5)[:50]
    with th.no_grad():
        wrong = counts.predictor(th.tensor(seen).float()) - counts.target(th.tensor(seen).float())
    error = wrong.double().square().mean(dim=1)
    n = counts(data[:50]).double()
    np.testing.assert_allclose(n * error, np.full(50, float(counts.scale)), rtol=1e-3)
    with th.autocast("cpu", th.bfloat16):
        assert th.equal(counts(data[:50]).double(), n)
    # and the mean of n^{-1/2} over the data is that of one visit
    assert float(counts(data).double().rsqrt().mean()) == pytest.approx(1.0, abs=1e-5)


def test_it_draws_from_its_generator_alone_and_is_kept_by_a_state() -> None:
    data = frames(COLUMNS[:100])
    th.manual_seed(0)
    before = th.get_rng_state()
    first, second = (DistilledCounts(n_steps=5) for _ in range(2))
    first.fit(data, rng(3))
    th.rand(1)  # whatever else is drawn meanwhile
    second.fit(data, rng(3))
    assert th.equal(first(data), second(data))
    th.set_rng_state(before)
    first.fit(data, rng(3))
    assert th.equal(th.get_rng_state(), before)
    file = io.BytesIO()
    th.save(first.state_dict(), file)
    file.seek(0)
    again = make_visitation("rnd")
    again.load_state_dict(th.load(file, weights_only=True))
    assert th.equal(again(data), first(data))


def test_its_convolutions_end_at_eight_pixels() -> None:
    """84 -> 42 -> 21 -> 11 -> 6 pixels, 32 channels of which are 1,152 numbers."""
    network = random_network((4, 84, 84), [], rng())
    assert [type(layer).__name__ for layer in network].count("Conv2d") == 4
    assert network[-1].weight.shape == (64, 32 * 6 * 6)
    assert network(th.zeros(2, 4, 84, 84)).shape == (2, 64)


def test_counts_up_to_a_factor_have_no_raw_form() -> None:
    with pytest.raises(ValueError, match="no count_scale='raw'"):
        make_visitation("rnd", count_scale="raw")


def test_dromo_counts_by_it_and_its_file_keeps_it(pendulum_arrays: dict[str, np.ndarray], tmp_path: object) -> None:
    options = FAST_MODEL_BASED | {"n_action_samples": 4, "behavior_kwargs": {"n_steps": 5, "hidden_sizes": (8,)}}
    model = DROMO("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, visitation="rnd", **options).learn(3)
    states = th.as_tensor(pendulum_arrays["observations"][:9])
    assert float(model.visitation(states).std()) > 0
    model.save(f"{tmp_path}/model")
    loaded = DROMO.load(f"{tmp_path}/model", device="cpu")
    assert th.equal(loaded.visitation(states), model.visitation(states))
    assert float(model.visitation(100.0 + states).max()) < float(model.visitation(states).min())
