"""Steps of optimisers and of target networks: how they are taken, and what of them is saved."""

from __future__ import annotations

from typing import Any

import torch as th


def minimize(loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
    """One optimiser step on its own parameters only: no other network collects gradients."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    optimizer.step()


@th.no_grad()
def polyak(source: th.nn.Module, target: th.nn.Module, tau: float) -> None:
    """theta' <- tau theta + (1 - tau) theta', and buffers (batch norm's statistics) likewise."""
    old: list[th.Tensor] = [*target.parameters(), *(b for b in target.buffers() if b.is_floating_point())]
    new: list[th.Tensor] = [*source.parameters(), *(b for b in source.buffers() if b.is_floating_point())]
    th._foreach_lerp_(old, new, tau)


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


def state_addresses(optimizer: th.optim.Optimizer) -> tuple[int, ...]:
    """Where a captured step finds the optimiser's state; changes when another one is loaded."""
    state: dict[str, Any] = next(iter(optimizer.state.values()), {})
    held = [*state.values(), *(group["lr"] for group in optimizer.param_groups)]
    return tuple(value.data_ptr() for value in held if isinstance(value, th.Tensor))
