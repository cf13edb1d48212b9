"""
How an update is executed: eagerly, by torch.compile, or as a captured CUDA graph; and in which precision.

An update is a function of tensors: :meth:`OfflineSAC.gradient_step` of a batch and its noise, which are drawn on the device by
named generators. All ways draw the same numbers and differ by the rounding of their kernels only.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch as th

if TYPE_CHECKING:
    from sb3_offline.common.offline_sac import Logs, OfflineSAC

Execution = Literal["auto", "eager", "compile", "cuda_graph"]
Precision = Literal["float32", "tf32", "bf16"]

Call = Callable[..., Any]

WARM_UP_UPDATES = 3  # run before a capture: libraries choose their kernels, optimisers make their state


def call_plainly(loss: Callable[..., Any], *args: Any) -> Any:
    """The loss, as it is written."""
    return loss(*args)


class FallbackWarning(UserWarning):
    """Something slower than what was asked for is used, and why."""


@functools.cache
def announce(message: str) -> None:
    """Warn, once a process for each message."""
    warnings.warn(message, FallbackWarning, stacklevel=3)


# --- which way ---


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


class UpdateRunner:
    """
    Runs an algorithm's updates, one a call.

    :param algorithm: Its data must be prepared; VecNormalize's statistics are taken as they are now.
    :param compile_backend: Of torch.compile.
    """

    def __init__(self, algorithm: OfflineSAC, compile_backend: str = "inductor"):
        self.algorithm = algorithm
        self.nets = algorithm.networks()
        self.execution = available_execution(algorithm.execution, algorithm.device, algorithm.capture_obstacle())
        self.compile_backend = compile_backend
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._n_eager = 0
        self._graph: th.cuda.CUDAGraph | None = None
        self._graph_logs: Logs = {}
        self._baked_in: tuple[Any, ...] = ()

    def __call__(self) -> Logs:
        """One update; the logs are scalars on the device, valid until the next call."""
        for optimizer in self.algorithm.optimizers():
            prepare_optimizer(optimizer, on_device=self.execution != "eager")
        with precision_scope(self.algorithm.precision, self.algorithm.device):
            if self.execution == "compile" and self._n_eager > 0:
                return self._run_compiled()
            if self.execution == "cuda_graph" and self._n_eager >= WARM_UP_UPDATES:
                return self._replay()
            self._n_eager += 1
            return self._on_side_stream() if self.execution == "cuda_graph" else self._step()

    def _step(self) -> Logs:
        batch = self.algorithm.sample_batch()
        return self.algorithm.gradient_step(self.nets, batch, self.algorithm.draw_noise(batch))

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

    def _replay(self) -> Logs:
        algorithm = self.algorithm
        baked_in = (*algorithm.baked_in(), *map(_state_addresses, algorithm.optimizers()))
        if self._graph is None or baked_in != self._baked_in:
            try:
                self._graph = self._capture()
            except RuntimeError as error:
                announce(f"execution={algorithm.execution!r} falls back to eager: the update cannot be captured ({error}).")
                self.execution = "eager"
                return self._step()
            self._baked_in = baked_in
        self._graph.replay()
        return self._graph_logs

    def _capture(self) -> th.cuda.CUDAGraph:
        """Record the update without running it; its draws go on where the generators stand at each replay."""
        self._graph, self._graph_logs = None, {}  # free the old one's memory first
        graph = th.cuda.CUDAGraph()
        for generator in self.algorithm.streams.generators():
            graph.register_generator_state(generator)
        with th.cuda.device(self.algorithm.device), th.cuda.graph(graph):
            self._graph_logs = self._step()
        return graph


# --- optimisers ---


def prepare_optimizer(optimizer: th.optim.Optimizer, on_device: bool) -> None:
    """
    Let Adam step in one fused kernel. Other optimisers stay as they are.

    :param on_device: Also keep the learning rate in a tensor, so that a schedule reaches a compiled or captured step.
    """
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if on_device and not isinstance(group["lr"], th.Tensor):
            group["lr"] = th.tensor(float(group["lr"]), device=device)
        way = {"fused": True, "capturable": on_device and device.type == "cuda"}
        known = way.keys() <= group.keys() and not group.get("differentiable") and device.type in ("cpu", "cuda")
        if not known or way.items() <= group.items():
            continue
        group.update(way)
        for parameter in group["params"]:
            if "step" in optimizer.state.get(parameter, {}):
                optimizer.state[parameter]["step"] = optimizer.state[parameter]["step"].to(device)


def set_learning_rate(optimizer: th.optim.Optimizer, rate: float) -> None:
    """To all parameter groups; a rate kept in a tensor changes in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], th.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def plain_optimizer_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state_dict without its way of execution; any other state as it is."""
    if "param_groups" not in state:
        return state
    plain = {"fused": None, "capturable": False}
    groups = [
        {**group, "lr": float(group["lr"]), **{name: value for name, value in plain.items() if name in group}}
        for group in state["param_groups"]
    ]
    states = {
        index: entry | ({"step": entry["step"].cpu()} if isinstance(entry.get("step"), th.Tensor) else {})
        for index, entry in state["state"].items()
    }
    return {**state, "param_groups": groups, "state": states}


def _state_addresses(optimizer: th.optim.Optimizer) -> tuple[int, ...]:
    """Where a captured step finds the optimiser's state; changes when another one is loaded."""
    state: dict[str, Any] = next(iter(optimizer.state.values()), {})
    held = [*state.values(), *(group["lr"] for group in optimizer.param_groups)]
    return tuple(value.data_ptr() for value in held if isinstance(value, th.Tensor))


# --- precision ---


@contextlib.contextmanager
def precision_scope(precision: Precision, device: th.device | str) -> Iterator[None]:
    """
    Matrix products in a lower precision; weights, optimiser and what is not a product stay float32.

    "bf16" is autocast: products take and return bfloat16, accumulated in float32, so cast (``.float()``) what must be exact
    to more than 8 bits. "tf32" sets CUDA's process-global switch and restores it. What this machine lacks is announced once,
    and float32 is used.

    :param precision: "float32" changes nothing.
    :param device: Where the products run.
    """
    device = th.device(device)
    precision = available_precision(precision, device.type)
    if precision == "bf16":
        # no cache of cast weights: it would outlive an optimiser's step within the scope
        with th.autocast(device.type, dtype=th.bfloat16, cache_enabled=False):
            yield
    elif precision == "tf32":
        with _switched(th.backends.cuda.matmul):
            yield
    else:
        yield


@functools.cache
def available_precision(precision: Precision, device_type: str) -> Precision:
    """``precision``, or "float32" with a warning where the device has no such products."""
    reason = None
    if precision == "bf16" and device_type == "cpu" and not _cpu_has_bf16():
        reason = "this processor, or this build of torch, has no bfloat16 products"
    elif precision == "bf16" and device_type == "cuda" and not th.cuda.is_bf16_supported(including_emulation=False):
        reason = "this GPU has no bfloat16 products"
    elif precision == "tf32" and device_type != "cuda":
        reason = "tf32 belongs to CUDA devices"
    elif precision == "tf32" and th.cuda.get_device_capability() < (8, 0):
        reason = "this GPU is older than tf32"
    if reason is None:
        return precision
    announce(f"precision={precision!r} falls back to float32: {reason}.")
    return "float32"


def _cpu_has_bf16() -> bool:
    return th.backends.mkldnn.is_available() and th.ops.mkldnn._is_mkldnn_bf16_supported()


@contextlib.contextmanager
def _switched(backend: Any) -> Iterator[None]:
    """tf32 in one of torch's process-global backends; the former state comes back, also after an exception."""
    name, value = ("fp32_precision", "tf32") if hasattr(backend, "fp32_precision") else ("allow_tf32", True)
    before = getattr(backend, name)
    setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)
