"""Steps of optimisers and of target networks: how they are taken, and what of them is saved."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch as th

from sb3_offline.execution import ranks
from sb3_offline.execution.below import beneath, run_beneath


def check_gradients() -> None:
    """:raises RuntimeError: where gradients are switched off, so that nothing can learn"""
    if not th.is_grad_enabled():
        raise RuntimeError(
            "Nothing can learn here: gradients are switched off, by torch.no_grad(), torch.inference_mode() or "
            "torch.set_grad_enabled(False) around this call, or in a callback that did not switch them on again."
        )


def minimize(loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
    """One optimiser step on its own parameters only: no other network collects gradients."""
    run_beneath(partial(_step, beneath(optimizer)), loss)


def _step(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    """
    :param loss: a scalar; or of each member one, whose gradients reach its own parameters alone
    """
    check_gradients()
    loss = loss.sum() if loss.dim() else loss
    each = (parameter for group in optimizer.param_groups for parameter in group["params"])
    parameters = [parameter for parameter in each if parameter.requires_grad]  # a user may have frozen others
    if not parameters:
        return
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    ranks.average([gradient for gradient in gradients if gradient is not None])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else _laid_out_as(parameter, gradient)
    optimizer.step()


def _laid_out_as(parameter: th.Tensor, gradient: th.Tensor) -> th.Tensor:
    """A fused step goes through memory, whatever the strides are."""
    if gradient.stride() == parameter.stride():
        return gradient
    return th.empty_like(parameter).copy_(gradient)


@th.no_grad()
def polyak(source: th.nn.Module, target: th.nn.Module, tau: float) -> None:
    """theta' <- tau theta + (1 - tau) theta', and buffers (batch norm's statistics) likewise."""
    old: list[th.Tensor] = [*target.parameters(), *(b for b in target.buffers() if b.is_floating_point())]
    new: list[th.Tensor] = [*source.parameters(), *(b for b in source.buffers() if b.is_floating_point())]
    n = len(old)
    run_beneath(lambda *tensors: th._foreach_lerp_([*tensors[:n]], [*tensors[n:]], tau), *old, *new)


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


def on_its_own(state: Any) -> Any:
    """A state whose tensors do not share memory with what is larger, of which a file would hold all; others as they are."""
    if isinstance(state, th.Tensor):
        return state.clone() if state.untyped_storage().nbytes() > state.numel() * state.element_size() else state
    return type(state)((name, on_its_own(value)) for name, value in state.items()) if isinstance(state, dict) else state


def state_addresses(optimizer: th.optim.Optimizer) -> tuple[int, ...]:
    """Where a captured step finds the optimiser's state; changes when another one is loaded."""
    state: dict[str, Any] = next(iter(optimizer.state.values()), {})
    held = [*state.values(), *(group["lr"] for group in optimizer.param_groups)]
    return tuple(value.data_ptr() for value in held if isinstance(value, th.Tensor))
