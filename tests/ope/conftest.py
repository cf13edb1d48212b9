"""A quick behaviour policy for every test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quick_behavior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_offline.ope.behavior.FIT_STEPS", 250)
