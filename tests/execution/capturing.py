"""What a CUDA graph cannot hold, and one that runs the update instead, for machines without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_offline.execution import updates
from sb3_offline.execution.updates import UpdateRunner


class NothingWaits(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: values read on the host, sizes that depend on values, data from the host."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount", "lift_fresh")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if any(name == forbidden or name.startswith(f"{forbidden}_") for forbidden in self.WAITS):
            raise RuntimeError(f"{name} waits for the device")
        if name == "index" and any(i is not None and i.dtype == th.bool for i in args[1]):
            raise RuntimeError("a boolean index waits for the device")
        return func(*args, **kwargs)


class NothingFromTheHost(TorchFunctionMode):
    """Refuses tensors that are made without saying where: on the host, that is."""

    FACTORIES = (
        th.full,
        th.zeros,
        th.ones,
        th.empty,
        th.arange,
        th.linspace,
        th.eye,
        th.rand,
        th.randn,
        th.randint,
        th.normal,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FACTORIES and (kwargs or {}).get("device") is None:
            raise RuntimeError(f"{func.__name__} is made on the host: it names no device")
        return func(*args, **(kwargs or {}))


class FakeGraph:
    def __init__(self, runner: UpdateRunner):
        self.runner, self.logs = runner, {}  # type: ignore[var-annotated]

    def replay(self) -> None:
        self.logs.update(self.runner._step())


def capture_by_fakes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of updates made when each capture took place; a device that captures."""
    taken: list[int] = []

    def capture(runner: UpdateRunner) -> tuple[FakeGraph, Any]:
        taken.append(runner.algorithm._n_updates)  # type: ignore[attr-defined]
        graph = FakeGraph(runner)
        return graph, graph.logs

    monkeypatch.setattr(UpdateRunner, "_capture", capture)
    monkeypatch.setattr(UpdateRunner, "_on_side_stream", UpdateRunner._step)
    monkeypatch.setattr(updates, "available_execution", lambda *_: "cuda_graph")
    return taken
