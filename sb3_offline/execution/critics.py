"""Several critics on the same rows: one batched product a layer where that is faster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from sb3_offline.execution.below import is_stacked, of_all
from sb3_offline.execution.relu_pass import Workspace, is_relu_network, relu_pass

FEW_ROWS = 1024  # on a CPU; the activations of more rows would no longer stay in its cache
LARGE = 2**15  # activations of a layer, beyond which a call costs less than to move those of all members through memory

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Identity)


def evaluate(
    networks: Sequence[nn.Module], inputs: th.Tensor, *, workspace: Workspace, frozen: bool = False, twice: bool = False
) -> th.Tensor:
    """
    Every network on the same rows: (rows, features) -> (n_networks, rows). With ``twice`` each may have rows of its own,
    (n_networks, rows, features).

    On a GPU equal networks of linear layers, elementwise activations and LayerNorms are one batched product a layer. So are
    equal ReLU networks on a CPU, if there are few rows; with many they take turns, each in the workspace's buffers. Whatever
    else there is runs as it is; stacked members' large networks take turns, too.

    :param frozen: Gradients reach the inputs only, and nothing is spent on those of the weights.
    :param twice: The gradients can be differentiated again; the buffers cannot serve that.
    """
    if inputs.is_cuda and are_alike(networks, workspace):
        return _stacked(networks, inputs, frozen)
    if inputs.device.type != "cpu" or twice or th.compiler.is_compiling():
        each = inputs.expand(len(networks), -1, -1).unbind()
        return th.stack([_as_it_is(network, rows, frozen) for network, rows in zip(networks, each, strict=True)])
    plain = [workspace.once(is_relu_network, [network]) for network in networks]
    if all(plain) and len(networks) > 1 and len(inputs) <= FEW_ROWS and are_alike(networks, workspace):
        return relu_pass(networks, inputs, workspace, frozen)
    if is_stacked() and not any(plain) and are_alike(networks, workspace) and _are_large(networks[0], len(inputs)):
        own = [p.detach() if frozen else p for network in networks for p in network.parameters()]
        return of_all(partial(_in_turn, list(networks[0].children()), len(networks)), inputs, *own)
    values = [
        relu_pass([network], inputs, workspace, frozen) if is_plain else _as_it_is(network, inputs, frozen).unsqueeze(0)
        for network, is_plain in zip(networks, plain, strict=True)
    ]
    return th.cat(values)


def are_alike(networks: Sequence[nn.Module], workspace: Workspace) -> bool:
    """Are these equal stacks of known layers? torch.compile cannot trace the question: ask it ahead of the first pass."""
    return workspace.once(_stackable, networks)


def _as_it_is(network: nn.Module, inputs: th.Tensor, frozen: bool) -> th.Tensor:
    """(rows,), whatever the network is made of."""
    body: nn.Module = network[:-1] if type(network) is nn.Sequential else network
    last: nn.Module = network[-1] if type(network) is nn.Sequential else nn.Identity()
    hidden = _apply(body, inputs, frozen)
    with th.autocast(inputs.device.type, enabled=False):  # Q itself is not rounded
        return _apply(last, hidden.to(inputs.dtype), frozen).squeeze(-1)


def _apply(module: nn.Module, inputs: th.Tensor, frozen: bool) -> th.Tensor:
    if not frozen:
        return module(inputs)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return functional_call(module, weights, (inputs,))


# --- of several members ---


def _are_large(network: Any, n_rows: int) -> bool:
    return n_rows * network[0].out_features >= LARGE


def _in_turn(layers: Sequence[Any], n_networks: int, inputs: th.Tensor, *parameters: th.Tensor) -> th.Tensor:
    """
    Each network of each member has its turn, in which its activations stay in the cache: (members, n_networks, rows).

    :param inputs: (members, rows, features)
    :param parameters: of each network, (members, ...) each
    """
    n = len(parameters) // n_networks
    members = zip(inputs.unbind(), *(parameter.unbind() for parameter in parameters), strict=True)
    values = [_one(layers, rows, own[i : i + n]) for rows, *own in members for i in range(0, len(own), n)]
    return th.stack(values).view(len(inputs), n_networks, -1)


def _one(layers: Sequence[Any], inputs: th.Tensor, parameters: Sequence[th.Tensor]) -> th.Tensor:
    """(rows,) of layers that are known (:func:`are_alike`), with these weights and biases."""
    *own, last_weight, last_bias = parameters
    given, hidden = iter(own), inputs
    for layer in layers[:-1]:
        if isinstance(layer, nn.Linear):
            hidden = F.linear(hidden, next(given), next(given))
        elif isinstance(layer, nn.LayerNorm):
            hidden = F.layer_norm(hidden, layer.normalized_shape, next(given), next(given), layer.eps)
        else:
            hidden = layer(hidden)
    with th.autocast(inputs.device.type, enabled=False):  # Q itself is not rounded
        return F.linear(hidden.to(inputs.dtype), last_weight, last_bias).squeeze(-1)


# --- batched ---


def _stackable(networks: Sequence[nn.Module]) -> bool:
    """Are these equal stacks of known layers, the last one linear?"""
    if not all(type(network) is nn.Sequential for network in networks) or len({str(network) for network in networks}) > 1:
        return False
    layers = list(networks[0].children())
    return type(layers[-1]) is nn.Linear and all(
        type(layer) in _ELEMENTWISE
        or (type(layer) in (nn.Linear, nn.LayerNorm) and isinstance(layer.weight, th.Tensor) and layer.bias is not None)
        for layer in layers
    )


def _stacked(networks: Sequence[nn.Module], inputs: th.Tensor, frozen: bool) -> th.Tensor:
    """One baddbmm a layer over all networks."""
    hidden = inputs.expand(len(networks), -1, -1)
    *body, last = zip(*(network.children() for network in networks), strict=True)
    for layers in body:
        if isinstance(layers[0], nn.Linear):
            weight, bias = _stack(layers, frozen)
            hidden = th.baddbmm(bias, hidden, weight.mT)
        elif isinstance(layers[0], nn.LayerNorm):
            weight, bias = _stack(layers, frozen)
            hidden = F.layer_norm(hidden, layers[0].normalized_shape, eps=layers[0].eps) * weight.unsqueeze(1) + bias
        else:
            hidden = layers[0](hidden)
    weight, bias = _stack(last, frozen)
    with th.autocast(inputs.device.type, enabled=False):  # Q itself is not rounded
        return th.baddbmm(bias, hidden.to(weight.dtype), weight.mT).squeeze(-1)


def _stack(layers: Sequence[nn.Module], frozen: bool) -> tuple[th.Tensor, th.Tensor]:
    """Weights (n, ...) and biases (n, 1, out)."""
    weights, biases = th.stack([layer.weight for layer in layers]), th.stack([layer.bias for layer in layers])  # type: ignore[misc]
    return (weights.detach(), biases.detach().unsqueeze(1)) if frozen else (weights, biases.unsqueeze(1))
