"""Several critics on the same rows: one batched product where that is faster, buffers used again where it is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Identity)


class Workspace:
    """
    Large buffers to be used again. A fresh activation of 8 MB costs a CPU more in page faults than the work done on it.

    A buffer handed back too early is no silent error: autograd sees that a saved tensor has changed, and raises.
    """

    def __init__(self) -> None:
        self._free: defaultdict[tuple[Any, ...], list[th.Tensor]] = defaultdict(list)
        self._stackable: dict[tuple[int, ...], bool] = {}

    def stackable(self, networks: Sequence[nn.Module]) -> bool:
        """:func:`_stackable`, found out once."""
        key = tuple(map(id, networks))
        if key not in self._stackable:
            self._stackable[key] = _stackable(networks)
        return self._stackable[key]

    def take(self, rows: int, columns: int, like: th.Tensor) -> th.Tensor:
        """An uninitialised (rows, columns), of the dtype and device of ``like``."""
        free = self._free[rows, columns, like.dtype, like.device]
        return free.pop() if free else like.new_empty(rows, columns)

    def give(self, buffer: th.Tensor) -> None:
        """Hand a buffer back."""
        rows, columns = buffer.shape
        self._free[rows, columns, buffer.dtype, buffer.device].append(buffer)


def evaluate(
    networks: Sequence[nn.Module], inputs: th.Tensor, *, workspace: Workspace, frozen: bool = False, twice: bool = False
) -> th.Tensor:
    """
    Every network on the same rows: (rows, features) -> (n_networks, rows).

    On a GPU equal networks of linear layers, elementwise activations and LayerNorms are one batched product a layer; on a
    CPU that is no faster, and ReLU networks take turns, each in the workspace's buffers. Whatever else there is runs as it is.

    :param frozen: Gradients reach the inputs only, and nothing is spent on those of the weights.
    :param twice: The gradients can be differentiated again; the buffers cannot serve that.
    """
    if inputs.is_cuda and workspace.stackable(networks):
        return _stacked(networks, inputs, frozen)
    if inputs.device.type == "cpu" and not twice and not th.compiler.is_compiling():
        values = [_relu_network(network, inputs, workspace, frozen) for network in networks]
    else:
        values = [_as_it_is(network, inputs, frozen) for network in networks]
    return th.stack(values)


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


# --- in place ---


def _relu_network(network: nn.Module, inputs: th.Tensor, workspace: Workspace, frozen: bool) -> th.Tensor:
    layers: list[Any] = list(network.children()) if type(network) is nn.Sequential else []
    linear, activations = layers[::2], layers[1::2]
    plain = all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
    if not plain or len(linear) != len(activations) + 1 or not all(type(layer) is nn.ReLU for layer in activations):
        return _as_it_is(network, inputs, frozen)
    parameters = [p.detach() if frozen else p for layer in linear for p in (layer.weight, layer.bias)]
    low = th.get_autocast_dtype("cpu") if th.is_autocast_enabled("cpu") else inputs.dtype
    with th.autocast("cpu", enabled=False):
        values: th.Tensor = _ReLUNetwork.apply(workspace, low, th.is_grad_enabled(), inputs, *parameters)
    return values.squeeze(-1)


class _ReLUNetwork(th.autograd.Function):
    """
    Linear, ReLU, ..., Linear: activations and their gradients live in the workspace, and ReLU works in place.

    Hidden products are in the dtype ``low``; the last layer, and every parameter's gradient, in the parameters' own.
    """

    @staticmethod
    def forward(ctx: Any, workspace: Workspace, low: th.dtype, keep: bool, inputs: th.Tensor, *parameters: th.Tensor) -> Any:
        weights, biases = parameters[::2], parameters[1::2]
        activations = [inputs.to(low)]
        low_weights = [weight.to(low) for weight in weights]
        for weight, bias in zip(low_weights[:-1], biases[:-1], strict=True):
            x = activations[-1]
            out = workspace.take(len(x), len(bias), x)
            th.addmm(bias.to(low), x, weight.t(), out=out).relu_()
            activations.append(out)
        hidden = activations[-1]
        if low != inputs.dtype:  # Q itself is not rounded
            hidden = workspace.take(len(hidden), hidden.shape[1], inputs).copy_(hidden)
            workspace.give(hidden)
        values = th.addmm(biases[-1], hidden, weights[-1].t())
        if keep:
            ctx.workspace, ctx.given_back = workspace, False
            ctx.save_for_backward(*activations, *low_weights)
        else:
            for buffer in activations[1:]:
                workspace.give(buffer)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> Any:
        # a second pass over a kept graph must not write where its own activations may still lie
        workspace: Workspace = Workspace() if ctx.given_back else ctx.workspace
        saved = ctx.saved_tensors
        n_layers = len(saved) // 2
        activations, weights = saved[:n_layers], saved[n_layers:]
        dtype, low = gradient.dtype, activations[0].dtype
        gradients: list[th.Tensor | None] = []
        g: Any = gradient
        for layer in reversed(range(n_layers)):
            x, weight, above = activations[layer], weights[layer], g.to(low)
            if ctx.needs_input_grad[4 + 2 * layer]:
                # the few inputs of the first layer come first in its product: that is faster
                product = above.t() @ x if layer > 0 else (x.t() @ above).t().contiguous()
                gradients[:0] = [product.to(dtype), g.sum(dim=0).to(dtype)]
            else:
                gradients[:0] = [None, None]
            if layer > 0:
                below = th.mm(above, weight, out=workspace.take(len(x), x.shape[1], x))
                th.ops.aten.threshold_backward.grad_input(below, x, 0, grad_input=below)
            else:
                below = th.mm(above, weight).to(dtype) if ctx.needs_input_grad[3] else None  # type: ignore[assignment]
            if layer < n_layers - 1:
                workspace.give(g)
            g = below
        if not ctx.given_back:
            ctx.given_back = True
            for buffer in activations[1:]:
                workspace.give(buffer)
        return None, None, None, g, *gradients
