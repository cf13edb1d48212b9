"""Random malformed data: every one is refused by a DatasetError that names the key (or the file)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from benchmarks.fuzz_datasets import (
    CONTAINERS,
    FILE_MALFORMATIONS,
    MALFORMATIONS,
    SPACES,
    Container,
    malformed,
    outcome_of,
    sound_arrays,
)
from sb3_offline.datasets import load_dataset
from sb3_offline.datasets.checks import check_dataset

several = st.lists(st.sampled_from([*MALFORMATIONS, *FILE_MALFORMATIONS]), min_size=1, max_size=3, unique=True)
seeds = st.integers(0, 2**32 - 1)


def refuse(malformations: list[str], container: Container, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = malformed(malformations, container, seed, Path(folder))
        outcome, error = outcome_of(case)
    assert outcome == "refused", (case.malformations, case.container, error)


quick = settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(several, st.sampled_from(CONTAINERS), seeds)
def test_malformed_data_are_refused(malformations: list[str], container: Container, seed: int) -> None:
    assume(container != "dict" or not FILE_MALFORMATIONS.keys() >= set(malformations))
    refuse(malformations, container, seed)


@pytest.mark.slow
@settings(quick, max_examples=300, derandomize=False)
@given(several, st.sampled_from(CONTAINERS), seeds)
def test_300_malformed_data_are_refused(malformations: list[str], container: Container, seed: int) -> None:
    assume(container != "dict" or not FILE_MALFORMATIONS.keys() >= set(malformations))
    refuse(malformations, container, seed)


@pytest.mark.parametrize("malformation", MALFORMATIONS)
def test_each_malformation_is_refused(malformation: str) -> None:
    refuse([malformation], "dict", 1)


def test_what_is_malformed_was_sound() -> None:
    """Else a refusal would show nothing."""
    data = load_dataset(sound_arrays(np.random.default_rng(0)), **SPACES)
    assert [finding.check for finding in check_dataset(data)] == ["few_rows"]
