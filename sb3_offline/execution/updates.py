"""
How an update is executed: eagerly, by torch.compile, or as a captured CUDA graph.

An update is a function of tensors: ``gradient_step`` of a batch and its noise, which are drawn on the device by named
generators. All ways draw the same numbers and differ by the rounding of their kernels only.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch as th

from sb3_offline.execution.fallback import announce
from sb3_offline.execution.optimizers import prepare_optimizer, state_addresses
from sb3_offline.execution.precision import Precision, precision_scope

Execution = Literal["auto", "eager", "compile", "cuda_graph"]

Call = Callable[..., Any]

Logs = dict[str, th.Tensor]  # what a loss tells the logger, scalars on the device

WARM_UP_UPDATES = 3  # run before a capture: libraries choose their kernels, optimisers make their state


def call_plainly(loss: Callable[..., Any], *args: Any) -> Any:
    """The loss, as it is written."""
    return loss(*args)


def check_execution(execution: str, precision: str, device: th.device, obstacle: str | None) -> None:
    """
    Refuse what was asked for and cannot be.

    :param obstacle: Why the update can be neither compiled nor captured, if so.
    :raises ValueError: for an unknown option, a CUDA graph without CUDA, or an update with an obstacle.
    """
    for name, value, known in (("execution", execution, get_args(Execution)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")
    if execution == "cuda_graph" and device.type != "cuda":
        raise ValueError(
            f"execution='cuda_graph' needs a CUDA device, and this model is on {device}. Use execution='auto', which captures "
            "a graph where there is one."
        )
    if execution in ("compile", "cuda_graph") and obstacle is not None:
        raise ValueError(f"execution={execution!r} is not possible: {obstacle}. Use execution='eager'.")


def available_execution(execution: Execution, device: th.device, obstacle: str | None) -> Execution:
    """What ``execution`` comes to on this machine, never "auto"; a fallback is announced."""
    asked = execution
    if execution == "auto":
        execution = "cuda_graph" if device.type == "cuda" else "eager"
    if execution == "cuda_graph" and device.type != "cuda":  # a model from a machine that has one
        obstacle = f"the model is on {device}"
    if execution == "compile":
        obstacle = obstacle or compile_obstacle(device.type)
    if execution == "eager" or obstacle is None:
        return execution
    announce(f"execution={asked!r} falls back to eager: {obstacle}.")
    return "eager"


@functools.cache
def compile_obstacle(device_type: str) -> str | None:
    """Why torch.compile cannot build kernels here, found by building one."""
    try:
        th.compile(lambda x: x.sin() + 1.0)(th.zeros(8, device=device_type))
    except Exception as error:  # whatever the toolchain raises
        return f"torch.compile cannot build kernels here ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    return None


class Generators(Protocol):
    """Named random streams, see :class:`sb3_offline.training.rng.Streams`."""

    def generators(self) -> list[th.Generator]: ...


class Updatable(Protocol):
    """What a runner asks of an algorithm; see :class:`sb3_offline.common.gradient_algorithm.GradientAlgorithm`."""

    execution: Execution
    precision: Precision
    device: th.device
    streams: Any  # Generators; SB3's classes declare no such attribute

    @property
    def phase(self) -> Hashable: ...

    def networks(self) -> Any: ...

    def sample_batch(self) -> Any: ...

    def draw_noise(self, batch: Any) -> Any: ...

    def gradient_step(self, nets: Any, batch: Any, noise: Any, call: Call) -> Logs: ...

    def optimizers(self) -> list[th.optim.Optimizer]: ...

    def capture_obstacle(self) -> str | None: ...

    def baked_in(self) -> tuple[Any, ...]: ...


class Capture(NamedTuple):
    """
    :param logs: where the graph writes them
    :param baked_in: what it holds as constants
    """

    graph: th.cuda.CUDAGraph
    logs: Logs
    baked_in: tuple[Any, ...]


class UpdateRunner:
    """
    Runs an algorithm's updates, one a call.

    :param algorithm: Its data must be prepared; VecNormalize's statistics are taken as they are now.
    :param compile_backend: Of torch.compile.
    """

    def __init__(self, algorithm: Updatable, compile_backend: str = "inductor"):
        self.algorithm: Updatable = weakref.proxy(algorithm)  # which holds its runner, and is freed with its data at once
        self.nets = algorithm.networks()
        self.execution = available_execution(algorithm.execution, algorithm.device, algorithm.capture_obstacle())
        self.compile_backend = compile_backend
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._n_eager: Counter[Hashable] = Counter()  # of each phase
        self._captures: dict[Hashable, Capture] = {}

    def __call__(self) -> Logs:
        """One update; the logs are scalars on the device, valid until the next call."""
        for optimizer in self.algorithm.optimizers():
            prepare_optimizer(optimizer, on_device=self.execution != "eager")
        phase = self.algorithm.phase
        with precision_scope(self.algorithm.precision, self.algorithm.device):
            if self.execution == "compile":  # from the first on: a run in two parts has no other updates than one in one
                return self._run_compiled()
            if self.execution == "cuda_graph" and self._n_eager[phase] >= WARM_UP_UPDATES:
                return self._replay(phase)
            self._n_eager[phase] += 1
            return self._on_side_stream() if self.execution == "cuda_graph" else self._step()

    def _step(self) -> Logs:
        batch = self.algorithm.sample_batch()
        return self.algorithm.gradient_step(self.nets, batch, self.algorithm.draw_noise(batch), call_plainly)

    def _run_compiled(self) -> Logs:
        batch = self.algorithm.sample_batch()
        noise = self.algorithm.draw_noise(batch)  # by generators, which torch.compile does not trace
        return self.algorithm.gradient_step(self.nets, batch, noise, call=self._call_compiled)

    def _call_compiled(self, loss: Callable[..., Any], *args: Any) -> Any:
        """A loss and its gradient, compiled at first use; the optimisers' steps are one kernel each already."""
        if loss.__name__ not in self._compiled:
            self._compiled[loss.__name__] = th.compile(loss, backend=self.compile_backend, fullgraph=True, dynamic=False)
        return self._compiled[loss.__name__](*args)

    # --- CUDA graph ---

    def _on_side_stream(self) -> Logs:
        """An update that counts as any other, run where a capture may follow it."""
        device = self.algorithm.device
        main, side = th.cuda.current_stream(device), th.cuda.Stream(device)
        side.wait_stream(main)
        with th.cuda.stream(side):
            logs = self._step()
        main.wait_stream(side)
        return logs

    def _replay(self, phase: Hashable) -> Logs:
        algorithm = self.algorithm
        baked_in = (*algorithm.baked_in(), *map(state_addresses, algorithm.optimizers()))
        capture = self._captures.get(phase)
        if capture is None or baked_in != capture.baked_in:
            self._captures.pop(phase, None)  # free the old one's memory first
            try:
                capture = self._captures[phase] = Capture(*self._capture(), baked_in)
            except RuntimeError as error:
                announce(f"execution={algorithm.execution!r} falls back to eager: the update cannot be captured ({error}).")
                self.execution = "eager"
                return self._step()
        capture.graph.replay()
        return capture.logs

    def _capture(self) -> tuple[th.cuda.CUDAGraph, Logs]:
        """Record the update without running it; its draws go on where the generators stand at each replay."""
        graph = th.cuda.CUDAGraph()
        for generator in self.algorithm.streams.generators():
            graph.register_generator_state(generator)
        with th.cuda.device(self.algorithm.device), th.cuda.graph(graph):
            logs = self._step()
        return graph, logs
