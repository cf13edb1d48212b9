"""The picture's claim: on the diverging chain the indicator crosses zero before the TD error moves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[2] / "examples" / "divergence.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("divergence_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_indicator_rises_before_the_loss(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "STEPS", 700)
    history = example.train_dqn(episode_length=1)
    warning = example.first(history, lambda row: row["td_growth"] > 0, in_a_row=3)
    explosion = example.first(history, lambda row: row["td_error"] > 2 * history[0]["td_error"])
    assert 100 < warning < explosion < 700
    at_warning = next(row for row in history if row["step"] == warning)
    assert at_warning["td_error"] < history[0]["td_error"]  # the error still looks calm


def test_the_same_run_on_the_states_it_visits_never_warns(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "STEPS", 700)
    history = example.train_dqn(episode_length=10)
    assert max(row["td_growth"] for row in history) < 0
    assert max(row["td_error"] for row in history) < 2 * history[0]["td_error"]
