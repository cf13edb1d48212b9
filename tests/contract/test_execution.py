"""Every algorithm's update can be captured by a CUDA graph, which changes no number; or the algorithm says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from tests.contract.subjects import Subject, assert_near, same, weights
from tests.execution.capturing import NothingFromTheHost, NothingWaits, capture_by_fakes

#: Options by which an update is another one.
VARIANTS: tuple[dict[str, Any], ...] = ({}, {"target_gap": 1.0}, {"strict": True, "behavior_kwargs": None})


def captured_variants(subject: Subject) -> list[dict[str, Any]]:
    """Those that the algorithm takes; none if its update cannot be captured."""
    model = subject.make()
    if not isinstance(model, GradientAlgorithm) or model.capture_obstacle() is not None:
        pytest.skip("it is not captured")
    return [options for options in VARIANTS if all(map(subject.takes, options))]


def test_nothing_waits_for_the_device(subject: Subject) -> None:
    for options in captured_variants(subject):
        model, other = (subject.make(**options).learn(1) for _ in range(2))
        with NothingWaits(), NothingFromTheHost():
            model.update()
        assert not same(model, other)


def test_warming_up_and_capturing_are_no_extra_updates(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in captured_variants(subject):
        eager = subject.make(**options).learn(10)
        with monkeypatch.context() as patch:
            captures = capture_by_fakes(patch)
            captured = subject.make(**options).learn(10)
        assert captures
        assert_near(weights(captured), weights(eager), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
def test_a_graph_gives_the_eager_numbers(subject: Subject) -> None:
    schedule = {"learning_rate": lambda progress: 1e-3 * progress, "device": "cuda"}
    for options in captured_variants(subject):
        eager, graph = (subject.make(**options | schedule, execution=way).learn(60) for way in ("eager", "cuda_graph"))
        assert graph._runner.execution == "cuda_graph"
        assert_near(weights(graph), weights(eager), rtol=1e-3, atol=1e-3)
